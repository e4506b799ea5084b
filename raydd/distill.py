"""The one outer loop: step, checkpoint, metrics, progress, guard. It serves every method, with Ray and without.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it; or each works on its own
part and writes that.
"""

import json
import time

from raydd.checkpoints import Checkpoints, Row, is_first_worker, require_same_state
from raydd.errors import RunError
from raydd.methods import Method
from raydd.progress import Progress
from raydd.storage import Folder


def run_stage(
    method: Method,
    iterations: int,
    checkpoints: Checkpoints,
    checkpoint_iterations: int,
    metrics: Folder,
    metrics_file: str,
    progress: Progress,
    *,
    task: str,
    shared: bool,
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
        task: what progress calls it.
        shared: whether all workers of `torch.distributed` take part, each with the same state, or this one alone.

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
        if shared:
            require_same_state(state, f"iteration {method.iteration}")
        if is_first_worker() or not shared:
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
        progress.update(task, method.iteration, iterations, f"loss {numbers['loss']:.3f}", numbers)
