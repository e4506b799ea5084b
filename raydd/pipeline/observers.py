"""Who looks on while work is done: a log of events, and curves for TensorBoard, both beside what is made."""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from raydd.config.cluster import ClusterConfig
from raydd.core.progress import ObservedProgress, Progress
from raydd.pipeline.runs.run import CONFIG, versions
from raydd.storage import Folder
from raydd.storage.event_log import EVENTS, METRICS, EventLog
from raydd.storage.growing_files import GrowingFolder


class Observed:
    """Work that is looked on."""

    def __init__(self, log: EventLog, progress: Progress) -> None:
        """Log what this progress is told, too."""
        self.log = log
        self.progress = progress

    def step(self, name: str, make: Callable[[Progress], bool]) -> None:
        """Do a step of the work, which says whether anything was left to make."""
        with self.log.enclosing("step", step=name) as said:
            said["step"] = name
            if not make(self.progress):
                said["event"] = "step_skipped"


@contextmanager
def observed(
    folder: Folder,
    cluster: ClusterConfig,
    log: EventLog,
    others: AbstractContextManager[Sequence[Progress]],
    progress: Progress,
    **who: Any,
) -> Iterator[Observed]:
    """Look on while the work in a folder, whose lock this process holds, is done.

    TensorBoard's library is loaded here: no worker needs it.

    Args:
        folder: where the work ends up: `metrics/events.jsonl` and `tensorboard/` are written there.
        cluster: says which trackers there are.
        log: holds what has happened so far.
        others: look on, too.
        progress: is told what happens.
        who: what the first event is to say besides.
    """
    with ExitStack() as stack:
        events = GrowingFolder(folder / METRICS)
        stack.callback(events.close)
        log.open(events.file(EVENTS))
        stack.callback(log.close)
        observers: list[Progress] = [log, *stack.enter_context(others)]
        if "tensorboard" in cluster.trackers:
            from raydd.storage.tensorboard import TENSORBOARD, TensorBoard

            curves = GrowingFolder(folder / TENSORBOARD)
            stack.callback(curves.close)
            board = TensorBoard(curves)
            stack.callback(board.close)
            observers.append(board)
        libraries = {**versions(), "ray": importlib.metadata.version("ray")}
        here = {"host": platform.node(), "cpus": os.cpu_count(), "pid": os.getpid(), "versions": libraries}
        stack.enter_context(log.enclosing("run", continued=folder.has(CONFIG), folder=folder.uri, **who, **here))
        yield Observed(log, ObservedProgress(progress, *observers))
