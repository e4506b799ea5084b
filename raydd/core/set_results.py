"""What networks that were trained alike reached, as one line for each training set."""

import math
from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Final

from raydd.core.progress import ACCURACY, TESTED, Numbers, Work

_LABELS: Final = " labels, "
"""Between what a network was trained on and how, which many have in common."""


def split(about: str) -> tuple[str, str]:
    """The training set, `random 1, hard labels`, and how it was learned: the network, and its augmentation."""
    name, found, setting = about.partition(_LABELS)
    return (name + _LABELS.rstrip(", "), setting) if found else (about, "")


class SetResults:
    """Collects the news that networks are tested, and has a line for each set when all of its networks are."""

    def __init__(self) -> None:
        """Nothing is tested."""
        self._found: dict[tuple[str, int], list[float]] = {}
        self._setting: str | None = None

    def add(self, task: Work, numbers: Numbers | None) -> Iterator[str]:
        """Take news in; yields the lines that can be printed now."""
        assert task.kind == TESTED
        key = task.about, int(task.label.rpartition(" ")[2])
        found = self._found.setdefault(key, [])
        found.append((numbers or {}).get(ACCURACY, math.nan))
        if len(found) == key[1]:
            yield from self._lines(*key)

    def rest(self) -> Iterator[str]:
        """Lines of sets of which only some networks were tested now, and others earlier."""
        for key in list(self._found):
            yield from self._lines(*key)

    def _lines(self, about: str, count: int) -> Iterator[str]:
        found = self._found.pop((about, count))
        name, setting = split(about)
        if setting != self._setting:
            self._setting = setting
            yield f"test accuracy of {setting}:" if setting else "test accuracy:"
        yield f"  {name}: {_words(found, count)}"


def _words(found: list[float], count: int) -> str:
    """Mean and sample standard deviation in percent, of how many, and how many failed."""
    reached = [value for value in found if math.isfinite(value)]
    spread = f" ± {100 * stdev(reached):.1f}" if len(reached) > 1 else ""
    mean = f"{100 * fmean(reached):.1f}{spread} %" if reached else "none"
    num_failed = len(found) - len(reached)
    how_many = f"{len(found)} of {count}" if len(found) < count else f"{count}"
    failed = f", {num_failed} failed" if num_failed else ""
    return f"{mean} ({how_many} student{'s' * (count != 1)}{failed})"
