"""What the plan of a run calls the making of its ingredients."""

from collections.abc import Mapping
from typing import Final

WORKS: Final[Mapping[str, str]] = {
    "experts": "experts",
    "teacher": "teacher",
    "ranking": "rank",
    "forgetting": "forgetting",
    "networks": "transition",
    "distill": "distill",
    "labels": "relabel",
    "students": "evaluate",
}
"""By their titles."""
