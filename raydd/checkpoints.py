"""Checkpoints of long work, and what the workers that share it agree on.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raydd.errors import RunError
from raydd.storage import Folder

Row = dict[str, float]
"""What was measured in one iteration or epoch."""


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

    def save(self, state: Mapping[str, Any], rows: list[Row]) -> None:
        """Replace the checkpoint by this state, tensors and JSON scalars under flat names, and these metrics."""
        tensors = {name: value.contiguous().cpu() for name, value in state.items() if isinstance(value, Tensor)}
        scalars = {name: value for name, value in state.items() if name not in tensors}
        metadata = {"scalars": json.dumps(scalars), "rows": json.dumps(rows)}
        self.folder.write(self.file, save_tensors(tensors, metadata))

    def load(self) -> tuple[dict[str, Any], list[Row]] | None:
        """The newest state and its metrics, or None at the beginning."""
        if not self.folder.has(self.file):
            return None
        raw = self.folder.read(self.file)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        state: dict[str, Any] = {**load_tensors(raw), **json.loads(header["scalars"])}
        return state, json.loads(header["rows"])

    def delete(self) -> None:
        """Forget the state: the work is finished."""
        if self.folder.has(self.file):
            self.folder.delete(self.file)


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
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensors = (state[name] for name in sorted(state) if isinstance(state[name], Tensor))
    sums = [tensor.double().sum().to(device) for tensor in tensors]
    low, high = torch.stack(sums), torch.stack(sums)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RunError(f"{when}: the workers hold different states")
