"""Checkpoints of long work, and what the workers that share it agree on.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from raydd.core.errors import RunError
from raydd.storage import self_checked
from raydd.storage.folder import Folder

MetricsRow = dict[str, float]
"""What was measured in one iteration or epoch."""

SHARE: Final = 0.02
"""The most of the time that goes into saving."""


@dataclass(frozen=True)
class Checkpoints:
    """The newest state of one piece of work: a single file, replaced atomically."""

    folder: Folder
    name: str
    """Of the work and its content key: another configuration never picks it up."""

    @property
    def file(self) -> str:
        """The file's name inside the folder."""
        return f"{self.name}.safetensors"

    def save(self, state: Mapping[str, Any], rows: list[MetricsRow]) -> None:
        """Replace the checkpoint by this state, tensors and JSON scalars under flat names, and these metrics."""
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        scalars = {name: value for name, value in state.items() if name not in tensors}
        self_checked.write(self.folder, self.file, tensors, {"scalars": scalars, "rows": rows})

    def load(self) -> tuple[dict[str, Any], list[MetricsRow]] | None:
        """The newest state and its metrics, or None at the beginning.

        Raises:
            ArtefactError: it is not as it was saved.
        """
        if not self.folder.has(self.file):
            return None
        tensors, facts = self_checked.read(self.folder, self.file)
        return {**tensors, **facts["scalars"]}, facts["rows"]

    def delete(self) -> None:
        """Forget the state: the work is finished."""
        if self.folder.has(self.file):
            self.folder.delete(self.file)


class Rhythm:
    """When to save: some seconds after the last time, and no more than `SHARE` of the time, as the last one took it.

    What the first one takes is not known before.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with work that is as saved as can be."""
        self._seconds, self._clock = seconds, clock
        self._began = self._last = clock()
        self._spent = self._cost = 0.0

    @property
    def age(self) -> float:
        """Seconds since the state was saved, or the work began."""
        return self._clock() - self._last

    def is_due(self) -> bool:
        """Whether to save now."""
        affordable = self._spent + self._cost <= SHARE * (self._clock() - self._began)
        return affordable and self.age >= self._seconds

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Saving, in the block; it is to be finished on leaving."""
        began = self._clock()
        yield
        self._last = self._clock()
        self._cost = self._last - began
        self._spent += self._cost


def is_first_worker() -> bool:
    """Whether this process is rank 0, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def require_same_state(state: Mapping[str, Any], when: str) -> None:
    """See that no worker has drifted from the others, as every draw and sum is shared.

    Raises:
        RunError: two workers hold different states.
    """
    if not dist.is_initialized():
        return
    device = _device()
    tensors = (state[name] for name in sorted(state) if isinstance(state[name], Tensor))
    sums = [tensor.double().sum().to(device) for tensor in tensors]
    low, high = torch.stack(sums), torch.stack(sums)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RunError(f"{when}: the workers hold different states")


def first_says(number: int) -> int:
    """The first worker's number, on every worker; all have to ask."""
    if not dist.is_initialized():
        return number
    said = torch.tensor(number, device=_device())
    dist.broadcast(said, 0)
    return int(said)


def _device() -> str:
    """Where tensors are that workers exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
