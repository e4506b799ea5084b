"""Progress across processes: workers post to a board, the driver reads it and tells whoever shows it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.progress import Numbers, Progress

_SECONDS = 0.5
News = dict[str, tuple[float, float, str, Numbers | None]]


@ray.remote(num_cpus=0)
class Board:
    """The latest state of every piece of work."""

    def __init__(self) -> None:
        """Begin empty."""
        self._news: News = {}

    def post(self, task: str, done: float, total: float, note: str, numbers: Numbers | None) -> None:
        """Take down where a piece of work stands."""
        self._news[task] = (done, total, note, numbers)

    def take(self) -> News:
        """What has changed since the last call."""
        news, self._news = self._news, {}
        return news


class BoardProgress:
    """Posts to the board, at most twice a second for each piece of work; travels to workers."""

    def __init__(self, board: Any) -> None:
        """Post to this actor."""
        self._board = board
        self._last: dict[str, float] = {}

    def update(self, task: str, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Post, without waiting."""
        now = time.monotonic()
        if done >= total or now - self._last.get(task, 0.0) >= _SECONDS:
            self._last[task] = now
            self._board.post.remote(task, done, total, note, numbers)


@contextmanager
def relayed(progress: Progress) -> Iterator[BoardProgress]:
    """A progress for workers, whose news reach `progress` in this process, on whose node the board is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    finished = threading.Event()

    def pass_on() -> None:
        for task, news in ray.get(board.take.remote()).items():
            progress.update(task, *news)

    def relay() -> None:
        while not finished.wait(_SECONDS):
            pass_on()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield BoardProgress(board)
    finally:
        finished.set()
        thread.join()
        pass_on()
        ray.kill(board)
