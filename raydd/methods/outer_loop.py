"""The one outer loop: step, checkpoint, metrics, progress, guard. It serves every method, with Ray and without.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it; or each works on its own
part and writes that.
"""

import json
import time
from typing import Final

from raydd.core.errors import RunError
from raydd.core.interruption import Interrupted, Interruption
from raydd.core.progress import Progress
from raydd.methods.base import Method
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, MetricsRow, Rhythm, first_says, is_first_worker, require_same_state

_GO_ON: Final = 0
_SAVE: Final = -1


def run_stage(
    method: Method,
    iterations: int,
    checkpoints: Checkpoints,
    rhythm: Rhythm,
    metrics: Folder,
    metrics_file: str,
    progress: Progress,
    interruption: Interruption,
    *,
    task: str,
    shared: bool,
) -> None:
    """Step `method` to its last iteration, from the newest checkpoint where there is one.

    Args:
        method: at its starting state.
        iterations: outer updates in all.
        checkpoints: where the state is kept.
        rhythm: when it is saved, beside the last time; where workers share a stage, the first one's counts.
        metrics: the folder of the metrics file, which is rewritten with every checkpoint.
        metrics_file: its name; one JSON object an iteration.
        progress: is told after every iteration, with the age of the checkpoint among the numbers.
        interruption: who may break it off; the state is saved then.
        task: what progress calls it.
        shared: whether all workers of `torch.distributed` take part, each with the same state, or this one alone.

    Raises:
        Interrupted: it was broken off.
        RunError: a worker has drifted from the others, or the method cannot go on; its last good state is saved.
    """
    saved = checkpoints.load()
    rows: list[MetricsRow] = []
    if saved is not None:
        state, rows = saved
        method.load_state_dict(state)

    def save() -> None:
        with rhythm.saving():
            state = method.state_dict()
            if shared:
                require_same_state(state, f"iteration {method.iteration}")
            if is_first_worker() or not shared:
                checkpoints.save(state, rows)
                metrics.write(metrics_file, "".join(json.dumps(row) + "\n" for row in rows).encode())

    with interruption.awaited(task) as asked:
        while method.iteration < iterations:
            began = time.perf_counter()
            iteration = method.iteration
            try:
                numbers = method.step()
            except RunError:
                save()
                raise
            rows.append({"iteration": iteration, **numbers, "seconds": time.perf_counter() - began})
            word = asked() or (_SAVE if rhythm.is_due() else _GO_ON)
            if shared:
                word = first_says(word)
            if word != _GO_ON or method.iteration == iterations:
                save()
            measured = {**numbers, "checkpoint_age": rhythm.age}
            progress.update(task, method.iteration, iterations, f"loss {numbers['loss']:.3f}", measured)
            if word > 0:
                raise Interrupted(word)
