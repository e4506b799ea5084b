"""Progress for whoever calls raydd from Python: in a notebook one piece of text below the cell, which is rewritten.

Nothing of Jupyter is needed where there is no notebook.
"""

import importlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from raydd.core.progress import RUN, SECONDS_LEFT, STEP, TESTED, NoProgress, Numbers, Progress, Work, about
from raydd.core.set_results import SetResults

Shown = Progress | bool | None
"""Who is told how it goes. None: the notebook, where there is one, and else nobody; True: the notebook, or lines on
stderr; False: nobody; or whatever has the method `update` of `raydd.core.progress.Progress`."""

NOTEBOOK_SECONDS: Final = 0.5
LINE_SECONDS: Final = 10.0
MOST_BARS: Final = 8
"""Pieces of work that have a line of their own at the same time."""
_BAR: Final = 20
_LONGEST: Final = 100


@contextmanager
def shown(progress: Shown) -> Iterator[Progress]:
    """The progress that is meant, and what it has to say in the end."""
    if not isinstance(progress, bool | None):
        yield progress
        return
    if in_notebook() and progress is not False:
        text = TextProgress(notebook_cell(), NOTEBOOK_SECONDS)
    elif progress:
        text = TextProgress(_last_line, LINE_SECONDS)
    else:
        yield NoProgress()
        return
    try:
        yield text
    finally:
        text.show()


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def notebook_cell() -> Callable[[str], None]:
    """Shows text below the cell that runs, in the place of what it showed before."""
    display = importlib.import_module("IPython.display")
    handles: list[Any] = []

    def show(text: str) -> None:
        content = {"text/plain": text}
        if handles:
            handles[0].update(content, raw=True)
        else:
            handles.append(display.display(content, raw=True, display_id=True))

    return show


@dataclass
class _Piece:
    """How far a piece of work is."""

    began: float
    first: float
    """Units that were done before anybody was told."""
    done: float
    total: float
    note: str

    def line(self, work: Work, now: float) -> str:
        """A bar, counts, time left and note."""
        filled = int(_BAR * min(1.0, self.done / self.total)) if self.total else _BAR
        made, seconds = self.done - self.first, now - self.began
        left = f", {clock(seconds * (self.total - self.done) / made)} left" if made > 0 and seconds > 0 else ""
        note = f", {self.note}" if self.note else ""
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {self.done:g}/{self.total:g}{left}  {work}{note}"


class TextProgress:
    """A few lines of text about what is under way, shown anew now and then."""

    def __init__(
        self, show: Callable[[str], None], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show text by a function, at most once in so many seconds."""
        self._show, self._seconds, self._clock = show, seconds, clock
        self._steps: dict[Work, _Piece] = {}
        self._ended: dict[Work, float] = {}
        self._pieces: dict[Work, _Piece] = {}
        self._finished: Counter[str] = Counter()
        self._results, self._tested = SetResults(), list[str]()
        self._last: float | None = None
        self._text = self._left = ""
        self._lock = threading.Lock()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Take note of the news, and show them if it is time to."""
        with self._lock:
            now = self._clock()
            if task == RUN and numbers is not None:
                self._left = f"whole run: about {about(numbers[SECONDS_LEFT])} left"
            elif task.kind == TESTED:
                self._tested += self._results.add(task, numbers)
            else:
                self._move(task, _Piece(now, done, done, total, note))
            due = self._last is None or now - self._last >= self._seconds
        if due or task.kind == STEP:
            self.show()

    def show(self) -> None:
        """Show how it stands, if that is not what is shown already."""
        with self._lock:
            text = "\n".join(self.lines())
            if not text or text == self._text:
                return
            self._last, self._text = self._clock(), text
            self._show(text)

    def _move(self, task: Work, news: _Piece) -> None:
        """Take note of how far a piece is."""
        kept = self._steps if task.kind == STEP else self._pieces
        piece = kept.setdefault(task, news)
        piece.done, piece.total, piece.note = news.done, news.total, news.note
        if news.done < news.total:
            return
        if task.kind == STEP:
            self._ended[task] = news.began
            self._finished.clear()
            self._tested += self._results.rest()
        else:
            del self._pieces[task]
            self._finished[task.kind] += 1

    def lines(self) -> list[str]:
        """The steps, what the students of each set reached, what is under way, how many pieces are finished."""
        now = self._clock()
        lines = [
            f"{step}: done in {clock(self._ended[step] - piece.began)}" if step in self._ended else str(step)
            for step, piece in self._steps.items()
        ]
        lines += self._tested
        pieces = list(self._pieces.items())
        lines += [piece.line(work, now) for work, piece in pieces[:MOST_BARS]]
        if len(pieces) > MOST_BARS:
            lines.append(f"and {len(pieces) - MOST_BARS} more")
        lines += [self._left] if self._left and pieces else []
        lines += [f"{kind}: {count} finished" for kind, count in self._finished.items()]
        return [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines]


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, from an hour on with hours in front."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _last_line(text: str) -> None:
    print(text.splitlines()[-1], file=sys.stderr, flush=True)
