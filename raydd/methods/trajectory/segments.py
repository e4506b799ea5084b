"""What each iteration of trajectory matching matches: a segment of an expert's trajectory, read ahead of its turn.

Letters: P flat parameters.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from raydd.core import keyed_random
from raydd.core.keyed_random import Key

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
    """The segments of all iterations, each a function of the key and its number alone."""

    def __init__(
        self,
        read: Callable[[int, int], Tensor],
        *,
        num_experts: int,
        num_epochs: int,
        window: Window,
        key: Key,
    ) -> None:
        """Read nothing yet.

        Args:
            read: the parameters [P] of an expert after an epoch.
            num_experts: how many there are.
            num_epochs: M, from the start of a segment to its end.
            window: the start epochs allowed at an iteration.
            key: of the stage's draws.
        """
        self._params, self._num_experts, self._num_epochs = read, num_experts, num_epochs
        self._window, self._key = window, key
        self._reader = ThreadPoolExecutor(1, "snapshots")
        self._ahead: tuple[int, Future[Segment]] | None = None

    def at(self, iteration: int) -> Segment:
        """That of an iteration, read while the one before was computed; the next is read from now on."""
        number, reading = self._ahead or (iteration, None)
        segment = reading.result() if reading and number == iteration else self.read(iteration)
        self._ahead = iteration + 1, self._reader.submit(self.read, iteration + 1)
        return segment

    def read(self, iteration: int) -> Segment:
        """That of an iteration, read now."""
        low, high = self._window(iteration)
        expert = self._expert(iteration)
        epoch = keyed_random.integer(self._key.child("start epoch", iteration), low, high)
        start, target = (self._params(expert, e) for e in (epoch, epoch + self._num_epochs))
        return Segment(expert=expert, epoch=epoch, bound=high, start=start, target=target)

    def _expert(self, iteration: int) -> int:
        """Every expert once before any is used again, in an order drawn anew each time."""
        cycle, position = divmod(iteration, self._num_experts)
        return int(keyed_random.permutation(self._key.child("experts", cycle), self._num_experts)[position])
