"""The one way through the epochs of a training: where to go on, who looks on, what is kept, what progress is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from raydd.core.progress import Numbers, Progress, Work
from raydd.storage.checkpoints import Checkpoints, MetricsRow, is_first_worker, require_same_state
from raydd.training.loop import EpochResult, Training


class Watcher:
    """Who looks at the networks after every epoch; this one sees nothing. What it raises ends the training."""

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        """Look at networks that were trained for `done` epochs, through the last one with these results."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What was seen so far, under names that no training has: checkpoints keep it."""
        return {}

    def restore(self, state: Mapping[str, Any], done: int) -> Mapping[str, Any] | None:
        """Take over what a checkpoint keeps of `state_dict`, after so many epochs.

        Returns:
            What else the checkpoint keeps; None where this watcher has missed something and cannot go on from there.
        """
        return state


NOBODY: Final = Watcher()


def loss(result: EpochResult) -> str:
    """Words for progress."""
    return f"loss {result.loss:.3f}"


def loss_curve(result: EpochResult) -> Numbers:
    """Numbers for progress."""
    return {"loss": result.loss}


def both_curves(result: EpochResult) -> Numbers:
    """Numbers for progress."""
    return result.numbers


def train_accuracy(result: EpochResult) -> str:
    """Words for progress."""
    return f"train accuracy {result.accuracy:.3f}"


@dataclass(frozen=True)
class Told:
    """What progress is told after every epoch."""

    progress: Progress
    tasks: Sequence[Work]
    """What it calls the training of each network."""
    words: Callable[[EpochResult], str] = loss
    numbers: Callable[[EpochResult], Numbers | None] = lambda result: None
    """What curves are drawn of."""

    def tell(self, done: int, total: int, results: Sequence[EpochResult]) -> None:
        """Tell how each network came through the last of the epochs done."""
        for task, result in zip(self.tasks, results, strict=True):
            self.progress.update(task, done, total, self.words(result), self.numbers(result))


def fit(
    training: Training,
    epochs: range | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    watcher: Watcher = NOBODY,
    told: Told | None = None,
) -> list[EpochResult]:
    """Train to the last epoch.

    Args:
        training: before the first of the epochs.
        epochs: which, counted from 0; all of the recipe's by default.
        checkpoints: where the state of a single network is kept after every epoch, to go on from the next time; whoever
            stores what comes out deletes it. Without them every call begins at the first epoch.
        watcher: looks at the networks after every epoch.
        told: what progress is told then, once all is kept.

    Returns:
        Each network's result in the last epoch.

    Raises:
        RunError: a loss is not finite any more, or a worker has drifted from the others.
    """
    rows = [] if checkpoints is None else _restored(training, checkpoints, watcher)
    results = [EpochResult.of(row) for row in rows[-1:]]
    for epoch in (range(training.recipe.epochs) if epochs is None else epochs)[len(rows) :]:
        results = training.run_epoch(epoch)
        watcher.look(training, epoch + 1, results)
        if checkpoints is not None:
            rows += [result.numbers for result in results]
            _keep(training, checkpoints, watcher, rows)
        if told is not None:
            told.tell(epoch + 1, training.recipe.epochs, results)
    return results


def _restored(training: Training, checkpoints: Checkpoints, watcher: Watcher) -> list[MetricsRow]:
    """Put training and watcher where they were; returns what was measured in each epoch before."""
    if (saved := checkpoints.load()) is None:
        return []
    state, rows = saved
    own = watcher.restore(state, len(rows))
    if own is None:
        return []
    training.load_state_dicts([own])
    return rows


def _keep(training: Training, checkpoints: Checkpoints, watcher: Watcher, rows: list[MetricsRow]) -> None:
    (state,) = training.state_dicts()
    require_same_state(state, f"epoch {len(rows)} of {checkpoints.name}")
    if is_first_worker():
        checkpoints.save({**state, **watcher.state_dict()}, rows)
