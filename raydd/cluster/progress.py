"""Progress across processes: workers post to a board, the driver reads it and tells whoever shows it.

The other way goes whether to end: the driver leaves word on the board when a signal ends it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.core.interruption import GRACE_SECONDS, Asked, Interrupted, heeded
from raydd.core.progress import Numbers, Progress, Work

_SECONDS = 0.5
_PATIENCE = 0.02
"""The part of the time between two questions to the board that a worker waits for the answer."""
News = dict[Work, tuple[float, float, str, Numbers | None]]


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Board:
    """The latest state of every piece of work, and whether to end. One that dies begins empty again."""

    def __init__(self) -> None:
        """Begin empty."""
        self._news: News = {}
        self._under_way: set[str] = set()
        self._word: int | None = None

    def post(self, task: Work, done: float, total: float, note: str, numbers: Numbers | None) -> None:
        """Take down where a piece of work stands."""
        self._news[task] = (done, total, note, numbers)

    def take(self) -> News:
        """What has changed since the last call."""
        news, self._news = self._news, {}
        return news

    def begin(self, task: str) -> None:
        """Take down a piece of work that saves its state when it is told to end."""
        self._under_way.add(task)

    def end(self, task: str) -> None:
        """That piece is saved or finished."""
        self._under_way.discard(task)

    def under_way(self) -> int:
        """How many such pieces there are."""
        return len(self._under_way)

    def tell_to_end(self, number: int) -> None:
        """Leave word, of a signal."""
        self._word = number

    def word(self) -> int | None:
        """Whether to end."""
        return self._word


class BoardProgress:
    """Posts to the board, at most twice a second for each piece of work, and asks it as often; travels to workers."""

    def __init__(self, board: Any) -> None:
        """Post to this actor."""
        self._board = board
        self._last: dict[Work, float] = {}
        self._question: ray.ObjectRef | None = None
        self._asked = 0.0

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Post, without waiting."""
        now = time.monotonic()
        if done >= total or now - self._last.get(task, 0.0) >= _SECONDS:
            self._last[task] = now
            self._board.post.remote(task, done, total, note, numbers)

    @contextmanager
    def awaited(self, task: str) -> Iterator[Asked]:
        """Have the driver wait until the block is left when it is to end."""
        self._board.begin.remote(task)
        try:
            yield self._word
        finally:
            self._board.end.remote(task)

    def _word(self) -> int | None:
        """The board's, or None while it has not answered."""
        now = time.monotonic()
        since = now - self._asked
        if self._question is None and since >= _SECONDS:
            self._question, self._asked = self._board.word.remote(), now
        if self._question is None or not ray.wait([self._question], timeout=_PATIENCE * min(since, 60.0))[0]:
            return None
        answer: int | None = ray.get(self._question)
        self._question = None
        return answer


@contextmanager
def relayed(progress: Progress) -> Iterator[BoardProgress]:
    """A progress for workers, whose news reach `progress` in this process, on whose node the board is.

    Raises:
        Interrupted: SIGINT or SIGTERM (for which Ray has put its own handlers into the place of ours); what was being
            distilled is saved, if it did not take too long.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    finished = threading.Event()

    def pass_on() -> None:
        with suppress(ray.exceptions.RayError):  # what ends the board ends the work, too, which says so itself
            for task, news in ray.get(board.take.remote()).items():
                progress.update(task, *news)

    def relay() -> None:
        while not finished.wait(_SECONDS):
            pass_on()

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        with heeded():
            yield BoardProgress(board)
    except Interrupted as interrupted:
        _wait_until_saved(board, interrupted.number)
        raise
    finally:
        finished.set()
        thread.join()
        pass_on()
        ray.kill(board)


def _wait_until_saved(board: Any, number: int) -> None:
    """Tell all work to end, and wait for what saves its state, as long as it may take."""
    deadline = time.monotonic() + GRACE_SECONDS
    with suppress(ray.exceptions.RayError):
        ray.get(board.tell_to_end.remote(number), timeout=GRACE_SECONDS)
        while time.monotonic() < deadline and ray.get(board.under_way.remote(), timeout=GRACE_SECONDS):
            time.sleep(0.05)
