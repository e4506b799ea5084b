"""What workers do that share a batch; a process alone is the only worker.

Letters: B batch.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Said = TypeVar("Said")


def rank() -> int:
    """Which of the workers this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many workers there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first_tells(value: Said) -> Said:
    """What the first worker has, on every worker; it is pickled, and all have to ask."""
    if not dist.is_initialized():
        return value
    said: list[Any] = [value]
    dist.broadcast_object_list(said, 0, device=torch.device("cuda" if dist.get_backend() == "nccl" else "cpu"))
    told: Said = said[0]
    return told


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all workers, in place; the tensor itself where there is one process."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def shard(index: Tensor) -> Tensor:
    """This worker's contiguous share of a batch's rows; all of them where there is one process."""
    if not dist.is_initialized():
        return index
    return index.tensor_split(dist.get_world_size())[dist.get_rank()]
