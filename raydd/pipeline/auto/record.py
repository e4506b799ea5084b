"""What was asked for, found, measured and decided: one file, written once before the work begins.

Whoever repeats the command reads it, so that nothing is decided again on a machine that is faster or slower by then.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from raydd.core.errors import ArtefactError, UserError
from raydd.pipeline.auto.look import DataLook
from raydd.pipeline.auto.mirror import Mirrored
from raydd.storage import Folder

RECORD: Final = "auto.json"
_FLAGS: Final = {
    "source": "DIR_OR_CONFIG",
    "data": "the config's data",
    "images_per_class": "--images-per-class",
    "hours": "--hours",
    "labels": "--labels",
    "seed": "--seed",
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All that the work goes by, beside what was asked for."""

    arguments: Mapping[str, Any]
    """What was asked for, as `Request.identity` says it."""
    files: str
    """The names and times of the images' files."""
    look: DataLook
    validation_fraction: float
    mirror: Mirrored
    side: int
    """Of the images, in pixels."""
    effort: float
    """See `settings`."""
    finalists: int
    """How many candidates are finished."""
    speed: Mapping[str, Any]
    """As it was measured: FLOP/s by candidate and kind of work, and the rest of it."""
    seconds: Mapping[str, Any]
    """What is planned for each part."""
    hours: float
    """Predicted, of all of it."""
    reasons: tuple[str, ...]
    """Each choice in a line."""


_ADAPTER: TypeAdapter[Decision] = TypeAdapter(Decision)


def write(decision: Decision, folder: Folder) -> None:
    """Write it down."""
    folder.write(RECORD, json.dumps(asdict(decision), indent=1).encode())


def read(folder: Folder) -> Decision | None:
    """What was written down; None where nothing was.

    Raises:
        ArtefactError: it is damaged.
    """
    if not folder.has(RECORD):
        return None
    try:
        return _ADAPTER.validate_json(folder.read(RECORD))
    except (ValidationError, ValueError) as error:
        problem = f"{(folder / RECORD).uri}: damaged; delete it to decide again, or give another --out"
        raise ArtefactError(problem) from error


def require_same(decision: Decision, arguments: Mapping[str, Any], files: str, folder: Folder) -> None:
    """See that what is asked for is what was asked for before.

    Raises:
        UserError: it is not; names what differs.
    """
    for name, value in arguments.items():
        before = decision.arguments.get(name)
        if before != value:
            raise UserError(
                f"{_FLAGS[name]}: is {_short(value)}, but {folder.uri} was begun with {_short(before)}; give that, or "
                "another --out"
            )
    if files != decision.files:
        raise UserError(f"--out: the images are not those with which {folder.uri} was begun; give another --out")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else "another"
