"""Bars with rate and time left on a terminal; a line now and then anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from raydd.core.progress import STEP, NoProgress, Numbers, Progress, Work

_SECONDS = 10.0
_SLOWEST = 1e-9
"""Units a second; below that nothing can be said of the time left."""


class _Rate(ProgressColumn):
    """Units a second, or seconds a unit where that is more."""

    def render(self, task: Task) -> Text:
        """The rate of one bar."""
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


class BarProgress:
    """One bar for each piece of work; finished ones make room."""

    def __init__(self, bars: Bars) -> None:
        """Draw on these bars."""
        self._bars = bars
        self._tasks: dict[Work, TaskID] = {}

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Move one bar."""
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(str(task), total=total, note=note)
        self._bars.update(self._tasks[task], completed=done, note=note)
        if done >= total:
            self._bars.console.print(f"{task}: done" if task.kind == STEP else f"{task}: {total:g} done, {note}")
            self._bars.remove_task(self._tasks.pop(task))


class LineProgress:
    """A line every ten seconds for each piece of work, and one when it ends; of a step, one when it begins."""

    def __init__(self, console: Console) -> None:
        """Print on this console."""
        self._console = console
        self._began: dict[Work, tuple[float, float]] = {}
        self._last: dict[Work, float] = {}

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Print if it is time to."""
        if task.kind == STEP:
            if done < total:
                self._console.print(str(task), soft_wrap=True, markup=False, emoji=False)
            return
        now = time.monotonic()
        began, first = self._began.setdefault(task, (now, done))
        if done < total and now - self._last.setdefault(task, now) < _SECONDS:
            return
        self._last[task] = now
        rate = (done - first) / (now - began) if now > began else 0.0
        left = f", {rate:.2f}/s, {(total - done) / rate:.0f} s left" if rate > _SLOWEST and done < total else ""
        self._console.print(f"{task}: {done:g}/{total:g}{left}, {note}", soft_wrap=True, markup=False, emoji=False)


@contextmanager
def shown_progress(console: Console, quiet: bool) -> Iterator[Progress]:
    """The progress that suits the console."""
    if quiet:
        yield NoProgress()
    elif console.is_terminal:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        ]
        with Bars(*columns, console=console) as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress(console)
