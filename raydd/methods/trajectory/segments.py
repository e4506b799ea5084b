"""Which segments of the experts' trajectories are matched, and reading them ahead.

Letters: P flat parameters, M epochs of a segment.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.methods.base import Task

Window = Callable[[int], tuple[int, int]]
"""From the outer iteration to the start epochs [low, high) that may be drawn."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What one iteration matches."""

    expert: int
    epoch: int
    """At which it starts."""
    bound: int
    """The exclusive bound under which that was drawn."""
    start: Tensor
    """theta*_s [P]"""
    target: Tensor
    """theta*_{s+M} [P]"""


class Segments:
    """The segment of every iteration: experts in turn, epochs by keyed draws. The next one is read from now on."""

    def __init__(self, task: Task, key: Key, window: Window, epochs: int) -> None:
        """Draw from the trajectories of a task.

        Args:
            task: whose experts are followed.
            key: of the stage's draws.
            window: the start epochs allowed at an iteration.
            epochs: M.
        """
        self._task, self._key, self._window, self._epochs = task, key, window, epochs
        self._trajectories = task.require_trajectories()
        self._reader = ThreadPoolExecutor(1, "snapshots")
        self._ahead: tuple[int, Future[Segment]] | None = None

    def at(self, iteration: int) -> Segment:
        """The segment of an iteration, read while the one before was computed."""
        number, reading = self._ahead or (iteration, None)
        segment = reading.result() if reading and number == iteration else self.read(iteration)
        self._ahead = iteration + 1, self._reader.submit(self.read, iteration + 1)
        return segment

    def read(self, iteration: int) -> Segment:
        """The segment of an iteration, read now."""
        low, high = self._window(iteration)
        expert = self._expert(iteration)
        epoch = keyed_random.integer(self._key.child("start epoch", iteration), low, high)
        start, target = (
            self._trajectories.params(expert, e).detach().to(self._task.device, self._task.dtype, copy=True)
            for e in (epoch, epoch + self._epochs)
        )
        return Segment(expert=expert, epoch=epoch, bound=high, start=start, target=target)

    def _expert(self, iteration: int) -> int:
        """Every expert once before any is used again, in an order drawn anew each time."""
        cycle, position = divmod(iteration, self._task.num_experts)
        order = keyed_random.permutation(self._key.child("experts", cycle), self._task.num_experts)
        return int(order[position])
