"""What people call that which records name in one word."""

from typing import Final

SUBJECTS: Final = {
    "synthetic": "distilled set",
    "ema": "distilled set, EMA",
    "init": "starting state",
    "random": "random real images",
    "k_center": "k-center selection",
    "herding": "herding selection",
    "imported": "imported set",
    "full": "full dataset",
}
"""Training sets, by `subject`."""

_LABELS: Final = {"stored": "soft"}
"""Regimes whose names say less than they might."""

HEADLINE_LABELS: Final = ("hard", "replayed", "online", "stored")
"""Label regimes, the one that a headline prefers last: labels that belong to the set before labels made for it, and of
those the regime under which everything else is trained too."""


def labels(regime: str) -> str:
    """A label regime: hard labels are classes, soft ones a value for each class."""
    return _LABELS.get(regime, regime)
