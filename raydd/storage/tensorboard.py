"""Curves for TensorBoard: an event file for each piece of work that measures something.

https://github.com/tensorflow/tensorboard: `tensorboard --logdir <out>/tensorboard`
"""

import hashlib
import re
import secrets
import time
from typing import Final

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from raydd.core.progress import TESTED, Numbers, Work
from raydd.storage.growing_files import GrowingFolder
from raydd.storage.local import explained

TENSORBOARD: Final = "tensorboard"
"""The folder."""

_LONGEST: Final = 100
_LABELS: Final = " labels"
_PLURALS: Final = {"expert": "experts", "student": "students"}


class TensorBoard:
    """Draws the numbers of every piece of work over the units done.

    Writing is done in the calling thread: what the disk refuses is heard of, and no thread or process has to be waited
    for.
    """

    def __init__(self, folder: GrowingFolder) -> None:
        """Write below this folder."""
        self._folder = folder
        self._writers: dict[Work, EventsWriter] = {}
        self._done: dict[Work, float] = {}

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Add a point to each curve of a piece of work; news that one is tested are no curve."""
        if numbers and task.kind != TESTED:
            if task not in self._writers:
                self._writers[task] = self._open(task)
                self._restart(task, done)
            elif done < self._done[task]:
                self._restart(task, done)
            self._done[task] = done
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._write(task, Event(wall_time=time.time(), step=int(done), summary=Summary(value=values)))
        if done >= total and task in self._writers:
            self._close(self._writers.pop(task))

    def close(self) -> None:
        """Close what is not done."""
        while self._writers:
            self._close(self._writers.popitem()[1])

    def _open(self, task: Work) -> EventsWriter:
        prefix = self._folder.file(f"{folder_of(task)}/events")
        return EventsWriter(str(prefix), f".{secrets.token_hex(4)}")

    def _restart(self, task: Work, done: float) -> None:
        """Have TensorBoard forget what an interrupted process drew from here on."""
        self._write(task, Event(wall_time=time.time(), step=int(done), session_log=SessionLog(status=SessionLog.START)))

    def _write(self, task: Work, event: Event) -> None:
        with explained(str(self._folder.path / folder_of(task))):
            self._writers[task].write_event(event)
            self._writers[task].flush()

    def _close(self, writer: EventsWriter) -> None:
        with explained(str(self._folder.path)):
            writer.close()


def folder_of(task: Work) -> str:
    """Where the curves of a piece of work lie, `students/random-0/hard/3/...`: names that every file system takes.

    What it looks at is split at its commas: the training set and its labels stand above the number, how it is learned
    below, so that those who differ in nothing but the number stand side by side.
    """
    seen = task.about.split(", ") if task.about else []
    above = next((place for place, part in enumerate(seen, start=1) if part.endswith(_LABELS)), len(seen))
    kind = _PLURALS.get(task.kind, task.kind)
    parts = [kind, *seen[:above], *[task.label] * bool(task.label), *seen[above:]]
    return "/".join(_plain(part.removesuffix(_LABELS)) for part in parts)


def _plain(name: str) -> str:
    """A name as that of a folder."""
    plain = re.sub(r"[^\w.=+-]+", "-", name).strip(".-") or "_"
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
