"""How long work tells what it has done."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

Numbers = Mapping[str, float]
"""Measured values by name."""


@dataclass(frozen=True)
class Work:
    """A piece of work that progress is told of; `str` is its title, which is what people, logs and curves call it."""

    kind: str
    """The sort of work, in one word: `expert`, `distil`, `student`."""
    label: str = ""
    """Which of its kind, where there are several."""
    about: str = ""
    """The title of what it looks at, where that is another piece of work."""

    def __str__(self) -> str:
        """The title."""
        named = f"{self.kind} {self.label}" if self.label else self.kind
        return f"{named}: {self.about}" if self.about else named

    @classmethod
    def titled(cls, title: str) -> Self:
        """The piece of work of which a log says no more than its title."""
        named, _, about = title.partition(": ")
        kind, _, label = named.partition(" ")
        return cls(kind, label, about)


STEP: Final = "step"
"""The kind of a piece of work that is the making of one ingredient of many: one unit, which other pieces divide."""


def step(number: int, count: int, about: str) -> Work:
    """Such a piece: `step 4 of 7: distill`."""
    return Work(STEP, f"{number} of {count}", about)


TESTED: Final = "tested"
"""The kind of a piece of work that is no more than the news that one network of several alike is trained and tested."""
ACCURACY: Final = "test_accuracy"
"""The number that comes with it; not a number where the network failed."""


def result(number: int, count: int, what: str) -> Work:
    """Such news: `tested 3 of 5: random 1, hard labels`; `number` from 0."""
    return Work(TESTED, f"{number + 1} of {count}", what)


RUN: Final = Work("whole", "run")
"""The piece of work that is the whole run: units are hundredths of its time, and what is left of that is a number."""
SECONDS_LEFT: Final = "seconds_left"
"""That number."""


def about(seconds: float) -> str:
    """A time that is known no better than to a tenth or so."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


WAITING: Final = Work("waiting", "for resources")
"""The piece of work that is none: until a cluster holds what was asked for."""

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives the state of named pieces of work; whoever shows it works out rate and time left."""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Say that `done` of `total` units of `task` are finished.

        Args:
            task: what is being worked on.
            done: units finished.
            total: units in all.
            note: a few words on the present state, such as the loss.
            numbers: what was measured in the last unit, for those who draw curves.
        """


class NoProgress:
    """Shows nothing."""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Ignore the news."""


class OfPart:
    """Tells a progress of a run that is a part of something larger, and so not how long the whole of that run takes."""

    def __init__(self, shown: Progress) -> None:
        """Tell this one."""
        self._shown = shown

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Pass the news on."""
        if task != RUN:
            self._shown.update(task, done, total, note, numbers)


class ObservedProgress:
    """Deals what one progress is told to observers too. Threads may tell it at the same time.

    An observer that fails hears nothing any more, and a warning says why: work does not stop for who looks on.
    """

    def __init__(self, shown: Progress, *observers: Progress) -> None:
        """Tell all of these, in this order."""
        self._shown = shown
        self._observers = list(observers)
        self._lock = threading.Lock()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Pass the news on."""
        with self._lock:
            self._shown.update(task, done, total, note, numbers)
            for observer in list(self._observers):
                try:
                    observer.update(task, done, total, note, numbers)
                except Exception as error:
                    self._observers.remove(observer)
                    _log.warning("%s goes on without news: %s", type(observer).__name__, error)
