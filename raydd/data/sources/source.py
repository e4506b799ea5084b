"""A dataset that another package adds: all that raydd knows of one of its own, in one value."""

from collections.abc import Callable
from dataclasses import dataclass

from raydd.data.facts import DataFacts
from raydd.data.listing import Listing
from raydd.data.place import Place


def _unknown(name: str) -> DataFacts | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What stands behind a `data.source`, under the name of its entry point in `raydd.sources`."""

    listings: Callable[[Place], tuple[Listing, Listing]]
    """The training and the test split; raises a DataError that says what is missing."""
    has_name: bool = False
    """Whether it is a family: a colon and a name follow, which `Place.name` has."""
    places: tuple[str, ...] | None = None
    """The folders and files below `data.root` in which it looks; None for all of it, () where images are computed."""
    facts: Callable[[str], DataFacts | None] = _unknown
    """The published size of the dataset of this name, by which runs are planned while none of `places` is there."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation per channel that papers use, for `data.statistics: literature`."""

    def form(self, family: str) -> str:
        """How it is written in a config, under the name of its entry point."""
        return f"{family}:<name>" if self.has_name else family
