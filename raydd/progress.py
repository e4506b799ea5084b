"""How long work tells what it has done."""

from collections.abc import Mapping
from typing import Protocol

Numbers = Mapping[str, float]
"""Measured values by name."""


class Progress(Protocol):
    """Receives the state of named pieces of work; whoever shows it works out rate and time left."""

    def update(self, task: str, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Say that `done` of `total` units of `task` are finished.

        Args:
            task: what is being worked on ("expert 3", "distil", "student 12").
            done: units finished.
            total: units in all.
            note: a few words on the present state, such as the loss.
            numbers: what was measured in the last unit, for those who draw curves.
        """


class NoProgress:
    """Shows nothing."""

    def update(self, task: str, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Ignore the news."""
