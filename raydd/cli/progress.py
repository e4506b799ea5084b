"""Bars with rate and time left on a terminal; a line now and then anywhere else."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from raydd.core.progress import RUN, SECONDS_LEFT, STEP, TESTED, NoProgress, Numbers, Progress, Work, about
from raydd.core.set_results import SetResults, split

_SECONDS: Final = 10.0
"""From one line to the next where there is no terminal."""
_SLOWEST: Final = 1e-9
"""Units a second; below that nothing can be said of the time left."""
_MANY: Final = ("expert", "student")
"""Pieces of which there are many, whose ends nobody waits for: of students, the line of their set is printed."""
_WIDEST: Final = 44
"""Characters of a bar's name, so that the whole fits 100 columns."""


class _Rate(ProgressColumn):
    """Units a second, or seconds a unit where that is more."""

    def render(self, task: Task) -> Text:
        """The rate of one bar."""
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


class _Left(TimeRemainingColumn):
    """The time left: that which is told, or what the bar's own rate says."""

    def render(self, task: Task) -> Text:
        """The time left of one bar."""
        told = task.fields.get("left")
        return super().render(task) if told is None else Text(about(told), style="progress.remaining")


class BarProgress:
    """One bar for each piece of work; finished ones make room."""

    def __init__(self, bars: Bars) -> None:
        """Draw on these bars."""
        self._bars = bars
        self._tasks: dict[Work, TaskID] = {}
        self._results = SetResults()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Move one bar."""
        if task.kind == TESTED:
            self._print(self._results.add(task, numbers))
            return
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(_short(task), total=total, note=note)
        left = (numbers or {}).get(SECONDS_LEFT)
        self._bars.update(self._tasks[task], completed=int(done) if task == RUN else done, note=note, left=left)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(task))
            if task.kind == STEP:
                self._print(self._results.rest())
                self._print([f"{task}: done"])
            elif task.kind not in _MANY:
                self._print([_ended(task, done, total, note)])

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._bars.console.print(line, markup=False, emoji=False)


@dataclass
class _Kind:
    """How far all pieces of one kind are."""

    began: float
    first: float
    """Units that were done before."""
    done: dict[Work, float]
    total: dict[Work, float]

    def line(self, now: float, task: Work, note: str) -> str:
        """Where they are, at what rate, and how long the rest will take."""
        done, total = sum(self.done.values()), sum(self.total.values())
        rate = (done - self.first) / (now - self.began) if now > self.began else 0.0
        left = f", {rate:.2f}/s, {(total - done) / rate:.0f} s left" if rate > _SLOWEST and done < total else ""
        name = f"{len(self.total)} {task.kind}s" if len(self.total) > 1 else str(task)
        return f"{name}: {done:g}/{total:g}{left}{_noted(note)}"


class LineProgress:
    """A line every ten seconds; one when a step begins, and one for each result."""

    def __init__(self, console: Console) -> None:
        """Print on this console."""
        self._console = console
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._last: float | None = None
        self._results = SetResults()
        self._left = ""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Print if it is time to."""
        if task == RUN and numbers is not None:
            self._left = f"; whole run: about {about(numbers[SECONDS_LEFT])} left"
        elif task.kind == TESTED:
            self._print(self._results.add(task, numbers))
        elif task.kind == STEP:
            self._print(self._results.rest() if done >= total else [str(task)])
            self._kinds.clear()
        elif task.kind != "student":
            self._count(task, done, total, note)

    def _count(self, task: Work, done: float, total: float, note: str) -> None:
        """Many experts are one line, other pieces have each its own."""
        now = time.monotonic()
        self._last = now if self._last is None else self._last
        name = task.kind, "" if task.kind in _MANY else str(task)
        kind = self._kinds.setdefault(name, _Kind(now, 0.0, {}, {}))
        if task not in kind.done:
            kind.first += done
        kind.done[task], kind.total[task] = done, total
        if done >= total and task.kind not in _MANY:
            del self._kinds[name]
            self._print([_ended(task, done, total, note)])
        elif now - self._last >= _SECONDS:
            self._last = now
            self._print([kind.line(now, task, note) + self._left])

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True, markup=False, emoji=False)


def _ended(task: Work, done: float, total: float, note: str) -> str:
    return f"{task}: {done:g}/{total:g}{_noted(note)}"


def _noted(note: str) -> str:
    return f", {note}" if note else ""


def _short(task: Work) -> str:
    """The name of a piece without what others have in common with it."""
    name, _ = split(str(task))
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 1]}…"


@contextmanager
def shown_progress(console: Console, quiet: bool) -> Iterator[Progress]:
    """The progress that suits the console."""
    if quiet:
        yield NoProgress()
    elif console.is_terminal:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Rate(),
            _Left(),
            TextColumn("{task.fields[note]}", style="dim"),
        ]
        with Bars(*columns, console=console) as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress(console)
