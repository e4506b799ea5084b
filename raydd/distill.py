"""The one outer loop: step, checkpoint, metrics, progress, guard. It serves every method, with Ray and without.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raydd.errors import RunError
from raydd.methods import Method
from raydd.methods.base import State
from raydd.progress import Progress
from raydd.storage import Folder

Row = dict[str, float]


@dataclass(frozen=True)
class Checkpoints:
    """The newest state of one stage: a single file, replaced atomically."""

    folder: Folder
    name: str
    """Of the stage and its content key: another configuration never picks it up."""

    @property
    def file(self) -> str:
        """The file's name inside the folder."""
        return f"{self.name}.safetensors"

    def save(self, state: State, rows: list[Row]) -> None:
        """Replace the checkpoint by this state and these metrics."""
        tensors = {name: value.contiguous().cpu() for name, value in state.items() if isinstance(value, Tensor)}
        scalars = {name: value for name, value in state.items() if name not in tensors}
        metadata = {"scalars": json.dumps(scalars), "rows": json.dumps(rows)}
        self.folder.write(self.file, save_tensors(tensors, metadata))

    def load(self) -> tuple[State, list[Row]] | None:
        """The newest state and its metrics, or None at the beginning."""
        if not self.folder.has(self.file):
            return None
        raw = self.folder.read(self.file)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        state: dict[str, Any] = {**load_tensors(raw), **json.loads(header["scalars"])}
        return state, json.loads(header["rows"])

    def delete(self) -> None:
        """Forget the state: the stage is finished."""
        if self.folder.has(self.file):
            self.folder.delete(self.file)


def run_stage(
    method: Method,
    iterations: int,
    checkpoints: Checkpoints,
    checkpoint_iterations: int,
    metrics: Folder,
    metrics_file: str,
    progress: Progress,
) -> None:
    """Step `method` to its last iteration, from the newest checkpoint where there is one.

    Args:
        method: at its starting state.
        iterations: outer updates in all.
        checkpoints: where the state is kept.
        checkpoint_iterations: how often.
        metrics: the folder of the metrics file, which is rewritten with every checkpoint.
        metrics_file: its name; one JSON object an iteration.
        progress: is told after every iteration.

    Raises:
        RunError: a worker has drifted from the others, or the method cannot go on; its last good state is saved.
    """
    saved = checkpoints.load()
    rows: list[Row] = []
    if saved is not None:
        state, rows = saved
        method.load_state_dict(state)

    def save() -> None:
        state = method.state_dict()
        _require_equal(state, method.iteration)
        if is_first_worker():
            checkpoints.save(state, rows)
            metrics.write(metrics_file, "".join(json.dumps(row) + "\n" for row in rows).encode())

    while method.iteration < iterations:
        began = time.perf_counter()
        iteration = method.iteration
        try:
            numbers = method.step()
        except RunError:
            save()
            raise
        rows.append({"iteration": iteration, **numbers, "seconds": time.perf_counter() - began})
        if method.iteration % checkpoint_iterations == 0 or method.iteration == iterations:
            save()
        progress.update("distil", method.iteration, iterations, f"loss {numbers['loss']:.3f}")


def is_first_worker() -> bool:
    """Whether this process is rank 0, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _require_equal(state: State, iteration: int) -> None:
    """Raise RunError where two workers hold different states; they must not, as every draw and sum is shared."""
    if not dist.is_initialized():
        return
    digest = torch.stack([value.double().sum().cpu() for value in state.values() if isinstance(value, Tensor)])
    low, high = digest.clone(), digest.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RunError(f"iteration {iteration}: the workers hold different states")
