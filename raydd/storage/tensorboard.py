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

from raydd.core.progress import Numbers, Work
from raydd.storage.growing_files import GrowingFolder
from raydd.storage.local import explained

TENSORBOARD: Final = "tensorboard"
"""The folder."""

_LONGEST: Final = 100


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
        """Add a point to each curve of a piece of work."""
        if numbers:
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
        prefix = self._folder.file(f"{_plain(str(task))}/events")
        return EventsWriter(str(prefix), f".{secrets.token_hex(4)}")

    def _restart(self, task: Work, done: float) -> None:
        """Have TensorBoard forget what an interrupted process drew from here on."""
        self._write(task, Event(wall_time=time.time(), step=int(done), session_log=SessionLog(status=SessionLog.START)))

    def _write(self, task: Work, event: Event) -> None:
        with explained(str(self._folder.path / _plain(str(task)))):
            self._writers[task].write_event(event)
            self._writers[task].flush()

    def _close(self, writer: EventsWriter) -> None:
        with explained(str(self._folder.path)):
            writer.close()


def _plain(title: str) -> str:
    """The name of a piece of work as that of a folder, which every file system takes."""
    plain = re.sub(r"[^\w .,()=+-]", "_", title).lstrip(".") or "_"
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]} {hashlib.sha256(title.encode()).hexdigest()[:8]}"
