"""Ingredients made as Ray Tune trials: one single-process trial for each piece, first come first served."""

import uuid
from typing import Any

from ray import tune

from raydd.cluster import ray_state, runtime, tasks, trackers
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.waiting import Lookout, one_share
from raydd.core import process
from raydd.core.errors import RunError
from raydd.core.progress import Progress, Work
from raydd.ingredients.base import Ingredient
from raydd.pipeline.runs.inputs import RunInputs


def make(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
    """Make every piece as a trial, as many at once as the cluster holds.

    Every piece writes its own results, so nothing of Tune's state is needed to go on after a break. Progress is told of
    every trial, and by every trial; trackers are told what `make` returns.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold a trial.
        RunError: a trial was lost more often than `cluster.max_failures` allows.
    """
    pieces = list(tasks.pieces(run, ingredient, progress))
    if not pieces:
        return
    task, names = Work.titled(f"{ingredient.title} of {run.name}"), list(map(ingredient.name_of, pieces))
    share = runtime.share_resources(run.config.cluster, len(pieces))
    lookout = LookoutOfTune(one_share(run.config.cluster, share, progress))
    with relayed(progress) as posted:
        trainable = tune.with_parameters(_trial, run=run, ingredient=ingredient, pieces=pieces, progress=posted)
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


class LookoutOfTune(tune.Callback):  # type: ignore[misc]
    """Has Tune, which waits for resources without end, look out for them."""

    def __init__(self, lookout: Lookout) -> None:
        """Look at every step of Tune's."""
        self._lookout = lookout

    def __getstate__(self) -> dict[str, Any]:
        """Tune's own copy on the disk looks out for nothing."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look."""
        self._lookout.is_met()


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
    config: dict[str, Any], run: RunInputs, ingredient: Ingredient[Any], pieces: list[Any], progress: BoardProgress
) -> dict[str, float]:
    process.set_up(run.config.cluster.threads_per_worker)
    return dict(ingredient.make(pieces[config["piece"]], progress) or {})
