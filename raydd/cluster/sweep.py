"""The points of a sweep on Ray Tune: one single-process trial each.

Nothing of Tune's state is needed to go on after a break: every trial writes its own records, and a sweep that goes on
is a new experiment with the points that are left.
"""

import importlib.util
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from raydd.cluster import ray_state, runtime, shared_folders, trackers, waiting
from raydd.cluster.tune_trials import LookoutOfTune
from raydd.cluster.waiting import Lookout
from raydd.config.sweep import ASHA_LOOKS, ASHA_RUNGS, Range, SweepConfig, described, suggested, suggestion
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import initial_seed
from raydd.core.progress import Progress, Work
from raydd.evaluation.tables.best import Tried
from raydd.pipeline.sweeps import trial
from raydd.pipeline.sweeps.points import Sweep
from raydd.pipeline.sweeps.sweep import Timing, tried_point, write_points
from raydd.pipeline.sweeps.trial import PointWork

_EPOCH, _ACCURACY = "epoch", "validation_accuracy"


class OnTune:
    """As many points at once as the cluster holds, first come first served."""

    def check(self, config: SweepConfig) -> None:
        """Refuse a search whose library is not installed."""
        if config.search == "optuna" and importlib.util.find_spec("optuna") is None:
            problem = "optuna is not installed: pip install 'raydd[optuna]', or take grid or random"
            raise ConfigError("sweep.search", problem)

    def work_off(
        self, sweep: Sweep, jobs: Sequence[PointWork], tried: list[Tried], done: int, progress: Progress
    ) -> Timing:
        """Do these jobs; a point that ASHA stops early says so."""
        with runtime.session(), runtime.explained():
            share, at_once, lookout = _resources(sweep, len(jobs), progress)
            began = time.perf_counter()
            watched = sweep.config.scheduler == "asha"
            trainable = tune.with_parameters(_do, sweep=sweep, jobs=list(jobs), watched=watched)
            trainable.__name__ = _title(sweep)
            tuner = tune.Tuner(
                tune.with_resources(trainable, share),
                param_space={
                    "job": tune.grid_search(list(range(len(jobs)))),
                    "point": tune.sample_from(lambda config: dict(jobs[config["job"]].point.parameters)),
                },
                tune_config=trackers.named(
                    lambda config: jobs[config["job"]].point.title,
                    reuse_actors=True,
                    max_concurrent_trials=at_once,
                    scheduler=_asha(sweep, jobs) if watched else None,
                ),
                run_config=_experiment(sweep, lookout, _Shown(progress, done, done + len(jobs))),
            )
            spent = 0.0
            for result in tuner.fit():
                job, said = jobs[result.config["job"]], result.metrics or {}
                if result.error is not None:
                    trial.give_up(sweep, job, f"the process died: {result.error}")
                elif "seconds" not in said:
                    stopped = f"stopped by asha after epoch {said[_EPOCH]}, validation accuracy {said[_ACCURACY]:.4f}"
                    tried[job.point.number] = replace(tried[job.point.number], error=stopped)
                spent += said.get("seconds", said.get("time_total_s", 0.0))
            wall = time.perf_counter() - began
        return Timing(trials=len(jobs), at_once=at_once, wall_seconds=wall, trial_seconds=spent)

    def search(self, sweep: Sweep, tried: list[Tried], accuracies: Mapping[int, float], progress: Progress) -> Timing:
        """Try points where Optuna expects good ones, those that are not finished first."""
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        count = sweep.config.num_samples - len(accuracies)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = {path: _distribution(among, optuna.distributions) for path, among in sweep.config.parameters.items()}
        broken_off = [suggestion(sweep.config, one.parameters) for one in tried if one.number not in accuracies]
        seed = initial_seed(sweep.base.key().child("sweep", len(tried)))
        searcher = OptunaSearch(space, metric=_ACCURACY, mode="max", seed=seed, points_to_evaluate=broken_off)
        for one in tried:
            if one.number in accuracies:
                searcher.add_evaluated_point(suggestion(sweep.config, one.parameters), accuracies[one.number])
        with runtime.session(), runtime.explained():
            share, at_once, lookout = _resources(sweep, count, progress)
            began = time.perf_counter()
            trainable = tune.with_parameters(_suggested, sweep=sweep)
            trainable.__name__ = _title(sweep)
            tuner = tune.Tuner(
                tune.with_resources(trainable, share),
                tune_config=trackers.named(
                    lambda config: described(suggested(sweep.config, config)),
                    num_samples=count,
                    search_alg=searcher,
                    reuse_actors=True,
                    max_concurrent_trials=at_once,
                ),
                run_config=_experiment(
                    sweep, lookout, _WrittenDown(progress, len(accuracies), sweep.config.num_samples, sweep, tried)
                ),
            )
            spent = 0.0
            for result in tuner.fit():
                if result.error is not None:
                    job = trial.whole(sweep, 0, suggested(sweep.config, result.config))
                    trial.give_up(sweep, job, f"the process died: {result.error}")
                spent += (result.metrics or {}).get("seconds", 0.0)
            wall = time.perf_counter() - began
        return Timing(trials=count, at_once=at_once, wall_seconds=wall, trial_seconds=spent)


class _Shown(tune.Callback):  # type: ignore[misc]
    """Tells a progress of every trial that ends; Tune's own copy on the disk tells nobody."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total
        progress.update(Work("sweep"), done, total)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell()

    def _tell(self) -> None:
        self._done += 1
        self._progress.update(Work("sweep"), self._done, self._total)


class _WrittenDown(_Shown):
    """Writes down every point when it is begun, so that one that breaks off is known."""

    def __init__(self, progress: Progress, done: int, total: int, sweep: Sweep, tried: list[Tried]) -> None:
        super().__init__(progress, done, total)
        self._sweep, self._tried = sweep, tried

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        values, number = suggested(self._sweep.config, trial.config), len(self._tried)
        if any(one.parameters == values for one in self._tried):
            return
        try:
            begun = tried_point(self._sweep, self._sweep.point(number, values))
            self._tried.append(replace(begun, parameters=values))
        except ConfigError as error:
            self._tried.append(Tried(number=number, parameters=values, record_ids=(), error=str(error)))
        write_points(self._sweep, self._tried)


def _resources(sweep: Sweep, count: int, progress: Progress) -> tuple[dict[str, float], int, Lookout]:
    """What a trial takes, how many the cluster holds, and who sees whether it still holds one.

    Raises:
        ResourceError: it holds none.
        ConfigError: a node does not see the folders of the sweep.
    """
    cluster = sweep.base.config.cluster
    share = runtime.share_resources(cluster, count)
    if waiting.require(share, 1, "cluster.threads_per_worker", cluster.wait_seconds, progress):
        waiting.ask_for_nothing()
    shared_folders.require(sweep.base)
    at_once, lookout = min(count, runtime.how_many_fit(share)), waiting.one_share(cluster, share, progress)
    return {"cpu": share["CPU"], "gpu": share.get("GPU", 0)}, at_once, lookout


def _experiment(sweep: Sweep, lookout: Lookout, shown: _Shown) -> tune.RunConfig:
    return tune.RunConfig(
        name=f"sweep-{uuid.uuid4().hex[:8]}",
        **ray_state.kept_in(sweep.folder / "work" / "ray"),
        failure_config=tune.FailureConfig(max_failures=sweep.base.config.cluster.max_failures),
        callbacks=[shown, LookoutOfTune(lookout), *trackers.callbacks(sweep.base, sweep.folder)],
        verbose=0,
    )


def _title(sweep: Sweep) -> str:
    """What Ray's dashboard calls the actors."""
    return f"points of {sweep.base.config.name}"


def _asha(sweep: Sweep, jobs: Sequence[PointWork]) -> TrialScheduler:
    """Stops a point whose student is not among the best third of those that came as far, at 1/9 and 1/3 of the way."""
    epochs = max(trial.watched(sweep, job).recipe.epochs for job in jobs)
    return ASHAScheduler(
        time_attr=_EPOCH,
        metric=_ACCURACY,
        mode="max",
        max_t=epochs + 1,
        grace_period=max(1, epochs // ASHA_RUNGS**2),
        reduction_factor=ASHA_RUNGS,
    )


def _do(config: dict[str, Any], sweep: Sweep, jobs: list[PointWork], watched: bool) -> dict[str, float]:
    """One trial: of a point that is watched, a student that stands for all of it first."""
    job = jobs[config["job"]]
    began, last = time.perf_counter(), dict[str, float]()

    def report(epoch: int, accuracy: float) -> None:
        last.update({_EPOCH: epoch, _ACCURACY: accuracy})
        tune.report(dict(last))

    if watched:
        trial.watch(sweep, job, ASHA_LOOKS, report)
    trial.do(sweep, job)
    return {**(last or trial.measured(sweep, job.point)), "seconds": time.perf_counter() - began}


def _suggested(config: dict[str, Any], sweep: Sweep) -> dict[str, float]:
    """One trial of a point that is suggested; what goes wrong with it counts as an accuracy of 0."""
    began = time.perf_counter()
    try:
        job = trial.whole(sweep, 0, suggested(sweep.config, config))
    except ConfigError:
        return {_ACCURACY: 0.0, "seconds": time.perf_counter() - began}
    trial.do(sweep, job)
    return {_ACCURACY: trial.accuracy(sweep, job.point), "seconds": time.perf_counter() - began}


def _distribution(among: list[Any] | Range, known: Any) -> Any:
    """A space as Optuna takes it: of values, the number of one in their list."""
    if isinstance(among, list):
        return known.CategoricalDistribution(list(range(len(among))))
    is_log = among.scale == "log"
    if among.integers:
        return known.IntDistribution(int(among.low), int(among.high), log=is_log)
    return known.FloatDistribution(among.low, among.high, log=is_log)
