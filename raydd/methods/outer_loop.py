"""The one outer loop: step, checkpoint, metrics, progress, guard. It serves every method, with Ray and without.

Where `torch.distributed` is initialised all workers hold the same state, and rank 0 writes it; or each works on its own
part and writes that.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raydd.core.errors import RunError
from raydd.core.interruption import Interrupted, Interruption
from raydd.core.progress import Progress, Work
from raydd.methods.base import Method
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, MetricsRow, Rhythm, first_says, is_first_worker, require_same_state

_GO_ON: Final = 0
_SAVE: Final = -1


@dataclass(frozen=True)
class StageRecord:
    """Where it is written what a stage has come to, and when."""

    checkpoints: Checkpoints
    """The state."""
    rhythm: Rhythm
    """When it is saved, beside the last time; where workers share a stage, the first one's counts."""
    metrics: Folder
    """Of the metrics file, which is rewritten with every checkpoint."""
    metrics_file: str
    """Its name; one JSON object an iteration."""

    def load(self, method: Method) -> list[MetricsRow]:
        """Have the method go on from the newest checkpoint; returns what was measured until then."""
        if (saved := self.checkpoints.load()) is None:
            return []
        state, rows = saved
        method.load_state_dict(state)
        return rows

    def save(self, method: Method, rows: list[MetricsRow], shared: bool) -> None:
        """Write all; `shared` is as in `run_stage`."""
        with self.rhythm.saving():
            state = method.state_dict()
            if shared:
                require_same_state(state, f"iteration {method.iteration}")
            if is_first_worker() or not shared:
                self.checkpoints.save(state, rows)
                self.metrics.write(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows).encode())


def run_stage(
    method: Method,
    iterations: int,
    record: StageRecord,
    progress: Progress,
    interruption: Interruption,
    *,
    task: Work,
    shared: bool,
) -> None:
    """Step `method` to its last iteration, from the newest checkpoint where there is one.

    Args:
        method: at its starting state.
        iterations: outer updates in all.
        record: where state and metrics are kept.
        progress: is told after every iteration, with the age of the checkpoint among the numbers.
        interruption: who may break it off; the state is saved then.
        task: what progress is told of.
        shared: whether all workers of `torch.distributed` take part, each with the same state, or this one alone.

    Raises:
        Interrupted: it was broken off.
        RunError: a worker has drifted from the others, or the method cannot go on; its last good state is saved.
    """
    rows = record.load(method)
    with interruption.awaited(str(task)) as asked:
        while method.iteration < iterations:
            began = time.perf_counter()
            iteration = method.iteration
            try:
                numbers = method.step()
            except RunError:
                record.save(method, rows, shared)
                raise
            rows.append({"iteration": iteration, **numbers, "seconds": time.perf_counter() - began})
            word = asked() or (_SAVE if record.rhythm.is_due() else _GO_ON)
            if shared:
                word = first_says(word)
            if word != _GO_ON or method.iteration == iterations:
                record.save(method, rows, shared)
            measured = {**numbers, "checkpoint_age": record.rhythm.age}
            progress.update(task, method.iteration, iterations, _note(rows), measured)
            if word > 0:
                raise Interrupted(word)


def _note(rows: Sequence[MetricsRow]) -> str:
    """The last loss and, where updates were skipped, how many of how many."""
    skipped = sum(row.get("skipped", 0) for row in rows)
    return f"loss {rows[-1]['loss']:.3f}" + (f", {skipped:g} of {len(rows)} updates skipped" if skipped else "")
