"""What files of other code do not say, and the user has to.

Letters: K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from raydd.core.errors import UserError

ForeignKind = Literal["logits", "probabilities", "centred", "regression"]
"""What the numbers [K] of a soft label are; centred ones become logits, regression ones stay what outputs should be."""

OWN_ORDER: Final = "data"
"""The class order that is the dataset's own."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The user's answers; None is not answered."""

    soft_labels: ForeignKind | None = None
    """What soft labels are."""
    lr: float | None = None
    """The learned step size."""
    experiment: int | None = None
    """Which of several experiments in one file, from 0."""
    factor: int | None = None
    """Training images along each side of a stored one, which is a mosaic of them."""
    class_order: tuple[str, ...] | None = None
    """The dataset's class names in the order in which the files have the classes."""


def class_order(text: str, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The class order that a user gives: `data`, a file with a name a line, or the names with commas between them.

    Raises:
        UserError: these are not the dataset's class names, each once.
    """
    if text == OWN_ORDER:
        return class_names
    file = Path(text).expanduser()
    names = file.read_text().splitlines() if file.is_file() else text.split(",")
    found = tuple(stripped for name in names if (stripped := name.strip()))
    if sorted(found) != sorted(class_names):
        wrong = [name for name in found if name not in class_names]
        missing = [name for name in class_names if name not in found]
        raise UserError(
            f"--class-order: must name the {len(class_names)} classes of the dataset, each once; "
            f"not one of them: {_few(wrong)}; missing: {_few(missing)}"
        )
    return found


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "") if names else "none"
