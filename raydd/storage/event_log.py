"""A log of what happened to a run, one JSON object a line: for machines, and for whoever asks later.

Every line has `time` (UTC) and `event`. `run_began` and `run_ended` (`_failed`, `_interrupted`) enclose an invocation
of a command; where the second is missing, the process was killed. A piece of work is heard of when its first unit is
done: its `seconds` count from there, and `done` of `work_began` says where it went on from. `making_began` and
`making_ended` enclose the making of one ingredient of the run, `step 4 of 7: students`; what was there before counts.
`tested` says what a student reached.
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from raydd.core.errors import RunError, UserError
from raydd.core.progress import STEP, TESTED, WAITING, Numbers, Work
from raydd.storage.local import explained

METRICS: Final = "metrics"
"""The folder of a run in which curves and events are written down."""
EVENTS: Final = "events.jsonl"


class EventLog:
    """Writes events, and makes them of progress: when each piece of work began and ended.

    Until `open` names the file, events are kept: what is refused before anything is written leaves no log either.
    """

    def __init__(self) -> None:
        """Nothing has happened."""
        self._kept: list[bytes] = []
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._began: dict[Work, float] = {}
        self._done: dict[Work, float] = {}

    def open(self, path: Path) -> None:
        """Write to this file from now on, behind what is there; a line that was never completed goes."""
        with self._lock:
            with explained(str(path)):
                self._file = path.open("ab", buffering=0)
                _drop_torn_line(path)
                for line in self._kept:
                    self._file.write(line)
            self._kept.clear()

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def tell(self, event: str, **details: Any) -> None:
        """Add an event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **details}).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._kept.append(line)
            else:
                with explained(self._file.name):
                    self._file.write(line)

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Tell when a piece of work is first heard of, when it is done, and when it has been thrown back."""
        if task.kind == TESTED:
            self.tell(TESTED, task=str(task), numbers=_as_json(numbers or {}))
            return
        what = "waiting" if task == WAITING else "making" if task.kind == STEP else "work"
        if task not in self._began:
            self._began[task] = time.monotonic()
            self.tell(f"{what}_began", task=str(task), done=done, total=total)
        elif done < self._done[task] and task != WAITING:
            self.tell("work_resumed", task=str(task), done=done, total=total, reached_before=self._done[task])
        self._done[task] = done
        if done >= total:
            seconds = time.monotonic() - self._began.pop(task)
            measured = {"numbers": _as_json(numbers)} if numbers else {}
            self.tell(f"{what}_ended", task=str(task), total=total, seconds=round(seconds, 3), note=note, **measured)

    @contextmanager
    def enclosing(self, what: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Tell when the block began and how it ended: with `WHAT_ended`, `_failed` or `_interrupted`.

        Yields:
            What the last event is to say besides; `event` there changes its name.
        """
        began, said = time.monotonic(), dict[str, Any]()
        self.tell(f"{what}_began", **details)
        try:
            yield said
        except BaseException as error:
            outcome = "failed" if isinstance(error, Exception) else "interrupted"
            words = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
            said |= {"event": f"{what}_{outcome}", "error": words.removesuffix(": ")}
            raise
        finally:
            event = said.pop("event", f"{what}_ended")
            self.tell(event, **said, seconds=round(time.monotonic() - began, 3))


def _as_json(numbers: Numbers) -> dict[str, float | None]:
    """JSON has no number that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line break: a full disk or a power cut left it."""
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
