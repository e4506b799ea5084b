"""What workers do that share a batch; a process alone is the only worker.

Letters: B batch.
"""

import torch.distributed as dist
from torch import Tensor


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
