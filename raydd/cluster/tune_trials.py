"""Pieces of work as Ray Tune trials: one single-process trial each, first come first served."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from raydd.cluster import ray_state, trackers
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.waiting import LookoutOfTune, one_share
from raydd.core.errors import RunError
from raydd.core.progress import Progress, Work
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import real_data

TrialWork = Callable[[Run, Any, BoardProgress], dict[str, float]]
"""Idempotent, and keeps what it makes; what it returns is for Tune's trackers."""


def work_off(
    run: Run,
    task: Work,
    work: TrialWork,
    pieces: Sequence[Any],
    names: Sequence[Any],
    share: Mapping[str, float],
    progress: Progress,
) -> None:
    """Do all pieces, as many at once as the cluster holds.

    Every piece writes its own results, so nothing of Tune's state is needed to go on after a break.

    Args:
        run: to whom the pieces belong.
        task: all of it, as progress is told; its title is what Ray calls it.
        work: does one piece.
        pieces: one for each trial.
        names: of each piece, for trackers.
        share: what a trial takes.
        progress: told of every trial, and by every trial.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold a trial.
        RunError: a trial was lost more often than `cluster.max_failures` allows.
    """
    lookout = LookoutOfTune(one_share(run.config.cluster, share, progress))
    with relayed(progress) as posted:
        trainable = tune.with_parameters(_trial, run=run, work=work, pieces=list(pieces), progress=posted)
        trainable.__name__ = str(task)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": share["CPU"], "gpu": share.get("GPU", 0)}),
            param_space={
                "piece": tune.grid_search(list(range(len(pieces)))),
                "work": tune.sample_from(lambda config: names[config["piece"]]),
            },
            tune_config=trackers.named(lambda config: f"{config['piece']} of {task}", reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"tuned-{uuid.uuid4().hex[:8]}",
                **ray_state.kept_in(run.work / "ray"),
                failure_config=tune.FailureConfig(max_failures=run.config.cluster.max_failures),
                callbacks=[lookout, _Counted(task, len(pieces), progress), *trackers.callbacks(run, run.folder)],
                verbose=0,
            ),
        )
        found = tuner.fit()
    if found.errors:
        lost = f"{len(found.errors)} of {len(pieces)} were lost more often than cluster.max_failures allows"
        raise RunError(f"{task}: {lost}; the same command goes on from here")


class _Counted(tune.Callback):  # type: ignore[misc]
    """Tells how many trials are done."""

    def __init__(self, task: Work, total: int, progress: Progress) -> None:
        self._task, self._done, self._total, self._progress = task, 0, total, progress

    def __getstate__(self) -> dict[str, Any]:
        """Tune's own copy on the disk tells nobody."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One more."""
        self._done += 1
        self._progress.update(self._task, self._done, self._total)


def _trial(
    config: dict[str, Any], run: Run, work: TrialWork, pieces: list[Any], progress: BoardProgress
) -> dict[str, float]:
    real_data.set_up(run)
    return work(run, pieces[config["piece"]], progress)
