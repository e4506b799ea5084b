"""Whose division into training and test images it is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

AS_PUBLISHED: Final = "training and test images are divided as the dataset was published"


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a dataset in splits of any names came to its training and its test images."""

    tested: tuple[str, ...] = ()
    """The split that is tested on, as the source calls it; empty where test images were drawn from the others."""
    whole: str = ""
    """What messages call the images that were divided."""
    unread: tuple[str, ...] = ()
    """Splits that are there, and not read."""
    has_test: bool = True
    """Whether what is tested on was given as a test split, not as one for validation."""
    leaves_validation: bool = False
    """Whether a validation split is among those that are not read."""

    @property
    def is_plain(self) -> bool:
        """Whether there is a training and a test split, and nothing else."""
        return bool(self.tested) and self.has_test and not self.unread

    def in_words(self) -> str:
        """A sentence."""
        others = f"; {_listed(self.unread)} {'is' if len(self.unread) == 1 else 'are'} not read" * bool(self.unread)
        if self.leaves_validation:
            others += ": raydd holds out images of its own with data.validation_fraction"
        if not self.tested:
            return (
                "no test images are given: raydd keeps one in five of every class for testing, drawn by chance, the "
                f"same ones for every seed{others}"
            )
        note = "" if self.has_test else "; there is no test split"
        return f"test images are those of {_listed(self.tested)}, as given{note}{others}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
