"""A sweep from end to end: what its points have in common is made once, then each is tried, then they are compared.

Everything of it lies in `<out>/sweeps/<name>`: `results/`, one record a student; `points.json`, which students each
point has; `sweep.json`, the seconds; `best.yaml`, the config of the best point; the sets of points that distil.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raydd import config as configs
from raydd.config import RunConfig
from raydd.config.sweep import SweepConfig, described
from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.progress import OfPart, Progress, Work
from raydd.evaluation import record_files, records
from raydd.evaluation.students.trials import SETS, LabelStore
from raydd.evaluation.tables import best
from raydd.evaluation.tables.best import Score, Tried
from raydd.ingredients.base import in_order
from raydd.ingredients.ranking import KIND as RANKING
from raydd.ingredients.teacher import KIND as TEACHER
from raydd.pipeline import execution, observers
from raydd.pipeline.executor import Executor
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import CONFIG, LOCK, SWEEPS, Run
from raydd.pipeline.sweeps import trial
from raydd.pipeline.sweeps.points import Point, Sweep
from raydd.pipeline.sweeps.trial import PointWork
from raydd.pipeline.work.stored_labels import StoredViewLabels
from raydd.storage import Artefact, Folder, new_artefact
from raydd.storage.event_log import EventLog
from raydd.storage.lock import locked

POINTS, TIMING, BEST = "points.json", "sweep.json", "best.yaml"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What an execution of a sweep took, without what was made before the trials and without starting a cluster."""

    trials: int
    at_once: int
    """As many as the resources hold."""
    wall_seconds: float
    trial_seconds: float
    """From the beginning of each trial to its end, summed."""

    @property
    def overhead_seconds(self) -> float:
        """Of a trial: what the resources were held for, beyond the trials themselves."""
        return (self.at_once * self.wall_seconds - self.trial_seconds) / self.trials

    def __str__(self) -> str:
        """One line."""
        spent = f"{self.trials} trials, {self.at_once} at once, {self.wall_seconds:.0f} s"
        return f"{spent}; {self.overhead_seconds:.1f} s of overhead each"


class Workers(Protocol):
    """Who tries the points: this process, or Ray Tune."""

    def check(self, config: SweepConfig) -> None:
        """Refuse what they cannot do, before anything is made."""

    def work_off(
        self, sweep: Sweep, jobs: Sequence[PointWork], tried: list[Tried], done: int, progress: Progress
    ) -> Timing:
        """Do these jobs.

        Args:
            sweep: what the points are of.
            jobs: what is left of them.
            tried: all points, by number; is told of those that are given up.
            done: how many of them are finished already.
            progress: is told how it goes.
        """

    def search(self, sweep: Sweep, tried: list[Tried], accuracies: Mapping[int, float], progress: Progress) -> Timing:
        """Try points that are chosen one after the other, as many as are left.

        Args:
            sweep: what the points are of.
            tried: those of earlier; gets the new ones.
            accuracies: of those that are finished, by number; validation accuracy, 0 of what failed.
            progress: is told how it goes.
        """


class InThisProcess:
    """One point after the other."""

    def check(self, config: SweepConfig) -> None:
        """Refuse what is Tune's."""
        for name, value in (("search", config.search), ("scheduler", config.scheduler)):
            if value in ("optuna", "asha"):
                raise ConfigError(f"sweep.{name}", f"{value} needs Ray: leave out --no-ray, or take another {name}")

    def work_off(
        self, sweep: Sweep, jobs: Sequence[PointWork], tried: list[Tried], done: int, progress: Progress
    ) -> Timing:
        """Do these jobs."""
        began, spent, total = time.perf_counter(), 0.0, done + len(jobs)
        for number, job in enumerate(jobs, done):
            progress.update(Work("sweep"), number, total, job.point.title)
            spent += trial.do(sweep, job)
        progress.update(Work("sweep"), total, total, "all points tried")
        wall = time.perf_counter() - began
        return Timing(trials=len(jobs), at_once=1, wall_seconds=wall, trial_seconds=spent)

    def search(self, sweep: Sweep, tried: list[Tried], accuracies: Mapping[int, float], progress: Progress) -> Timing:
        """Never asked for; see `check`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What came of a sweep."""

    folder: Folder
    tried: tuple[Tried, ...]
    scores: tuple[Score, ...]
    best: tuple[Score, ...]
    """The best of every cell; none without a validation split."""
    chosen: Score | None
    """The best of the distilled set, whose config is `best.yaml`."""
    timing: Timing | None
    """None where nothing was left to do."""


def sweep(config: RunConfig, executor: Executor, workers: Workers, progress: Progress) -> Swept:
    """Try the points that the config names, but for those that were tried before.

    Args:
        config: the run around which they lie.
        executor: makes what they have in common.
        workers: try them.
        progress: is told how it goes.

    Raises:
        UserError: something is wrong with the config or with one of the points; no point was tried.
        RunError: what they have in common could not be made.
    """
    if config.sweep is None:
        raise ConfigError(
            "sweep", "names nothing to try: give it `parameters`, as in `evaluate.recipe.lr: [0.01, 0.1]`"
        )
    workers.check(config.sweep)
    base = Run.of(config)
    base.folder.check_writable()
    made = Sweep(base, base.folder / SWEEPS / config.sweep.name(config.seed), secrets.token_hex(8))
    points = [made.point(number, values) for number, values in enumerate(config.sweep.points(config.seed))]
    if config.sweep.scheduler == "asha" and (distilling := [point for point in points if made.distils(point)]):
        problem = f"asha stops students, not distilling: {distilling[0].title} has a set of its own; take fifo"
        raise ConfigError("sweep.scheduler", problem)
    log, others, who = EventLog(), executor.observers(base), {"name": config.name, "executor": type(workers).__name__}
    looked_on = observers.observed(made.folder, config.cluster, log, others, progress, **who)
    with locked(made.folder, LOCK), looked_on as observed:
        progress = observed.progress
        made.folder.write(CONFIG, configs.to_yaml(resolved(config)).encode())
        before = known(made)
        if config.sweep.search == "optuna":
            tried, timing = before, _search(made, before, executor, workers, progress)
        else:
            stopped = {point.number: point.error for point in before if point.error is not None}
            tried = [replace(tried_point(made, point), error=stopped.get(point.number)) for point in points]
            write_points(made, tried)
            jobs = left_to_do(made, [point for point in points if point.number not in stopped])
            timing = None
            if jobs:
                prepare(made, jobs, executor, progress)
                timing = workers.work_off(made, jobs, tried, len(points) - len(jobs), progress)
                write_points(made, tried)
        return _concluded(made, tried, timing)


def _search(
    sweep: Sweep, tried: list[Tried], executor: Executor, workers: Workers, progress: Progress
) -> Timing | None:
    """Try points that depend on how those before them did."""
    there = set(records.read(sweep.results)["record_id"].to_pylist())
    accuracies = {}
    for one in tried:
        if one.error is not None:
            accuracies[one.number] = 0.0
        elif there.issuperset(one.record_ids):
            accuracies[one.number] = trial.accuracy(sweep, sweep.point(one.number, one.parameters))
    if len(accuracies) >= sweep.config.num_samples:
        return None
    prepare(sweep, [], executor, progress)
    return workers.search(sweep, tried, accuracies, progress)


def tried_point(sweep: Sweep, point: Point) -> Tried:
    """A point with the names of its students' records."""
    run = sweep.run(point.config)
    names = tuple(map(run.record_id, run.trials()))
    return Tried(number=point.number, parameters=point.parameters, record_ids=names)


def write_points(sweep: Sweep, tried: Sequence[Tried]) -> None:
    """Write down which students each point has."""
    sweep.folder.write(POINTS, json.dumps([asdict(point) for point in tried], indent=1).encode())


def known(sweep: Sweep) -> list[Tried]:
    """The points that are written down."""
    if not sweep.folder.has(POINTS):
        return []
    try:
        rows = json.loads(sweep.folder.read(POINTS))
        return [Tried(**{**row, "record_ids": tuple(row["record_ids"])}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        where = (sweep.folder / POINTS).uri
        raise ArtefactError(f"{where}: damaged ({error!r}); delete it and sweep again") from error


def left_to_do(sweep: Sweep, points: Sequence[Point]) -> list[PointWork]:
    """Of every point the students that neither the sweep nor the run itself has; points with sets of their own first.

    A student that several points have is the first one's.
    """
    finished, of_base = (_finished(records.read(folder)) for folder in (sweep.results, sweep.base.results))
    given: set[str] = set()
    jobs = []
    for point in points:
        run = sweep.run(point.config)
        own = {run.record_id(trial): trial for trial in run.trials()}
        own = {name: trial for name, trial in own.items() if name not in given}
        given |= own.keys()
        for name in own.keys() & of_base - finished:
            trial.publish(sweep, point, run, sweep.base.results, [own[name]])
        if missing := own.keys() - finished - of_base:
            jobs.append(PointWork(point, frozenset(missing)))
    before: Counter[str] = Counter()
    order = []
    for job in jobs:
        order.append(before[job.point.config.out] if sweep.distils(job.point) else 0)
        before[job.point.config.out] += 1
    return [job for _, job in sorted(zip(order, jobs, strict=True), key=lambda pair: pair[0])]


def prepare(sweep: Sweep, jobs: Sequence[PointWork], executor: Executor, progress: Progress) -> None:
    """Make what points have in common: experts or teacher, the run's set where it is evaluated, stored labels."""
    progress = OfPart(progress)
    evaluated = [job for job in jobs if not sweep.distils(job.point)]
    own = [sweep.run(job.point.config) for job in jobs if sweep.distils(job.point)]
    config = sweep.base.config
    if evaluated or not jobs:
        execution.execute(config, executor, progress, "distill")
    elif any(_has_experts_of(sweep.base, run) for run in own):
        execution.execute(config, executor, progress, "experts")
    for run in {run.data_key: run for run in map(sweep.run, (job.point.config for job in jobs))}.values():
        run.share_data()
    for run in own:
        _lend_teacher(sweep, run)
        if step := run.missing_step():
            execution.execute(run.config, executor, progress, step)
            (run.work / "data").delete_all()
    for job in evaluated:
        run = sweep.run(job.point.config)
        stores = LabelStore.needed(job.trials(run), run.config.evaluate.label_epochs)
        for ingredient in in_order([StoredViewLabels(run, run, store) for store in stores]):
            executor.make(run, [ingredient], progress)
    for job in jobs:
        run = sweep.run(job.point.config)
        if any(trial.coreset for trial in job.trials(run)):
            for ingredient in in_order([run.selection]):
                executor.make(run, [ingredient], progress)


def _has_experts_of(base: Run, run: Run) -> bool:
    follow = all("experts" in one.config.method.made_first for one in (base, run))
    return follow and run.experts.key() == base.experts.key()


def _lend_teacher(sweep: Sweep, run: Run) -> None:
    """Put the run's own teacher and ranking where points look for theirs."""
    base = sweep.base
    if "teacher" not in run.config.method.made_first or run.teacher.key() != base.teacher.key():
        return
    for kind, there, source, target in (
        (TEACHER, base.teacher.is_made, base.teacher.folder, run.teacher.folder),
        (RANKING, base.ranking.is_made, base.ranking.folder, run.ranking.folder),
    ):
        if there() and Artefact.find(target, kind) is None:
            artefact = Artefact.require(source, kind)
            with new_artefact(target, kind, artefact.manifest.key) as writer:
                for name in artefact.names():
                    writer.write(name, artefact.read(name))


def _concluded(sweep: Sweep, tried: Sequence[Tried], timing: Timing | None) -> Swept:
    """Compare the points, and write what an execution leaves beside the records; many of those become one file."""
    record_files.bundle(sweep.results)
    found = best.scores(tried, records.read(sweep.results))
    winners = best.best(found)
    of_set = [score for score in winners if score.subject in SETS]
    chosen = max(of_set, key=lambda score: (score.validation, -score.point), default=None)
    if timing is not None:
        said = {**asdict(timing), "overhead_seconds": timing.overhead_seconds}
        sweep.folder.write(TIMING, json.dumps(said, indent=1).encode())
    if chosen is None:
        sweep.folder.delete(BEST)
    else:
        (point,) = (sweep.point(one.number, one.parameters) for one in tried if one.number == chosen.point)
        sweep.folder.write(BEST, _best_yaml(sweep, point, chosen).encode())
    return Swept(
        folder=sweep.folder,
        tried=tuple(tried),
        scores=tuple(found),
        best=tuple(winners),
        chosen=chosen,
        timing=timing,
    )


def _best_yaml(sweep: Sweep, point: Point, score: Score) -> str:
    run = sweep.run(point.config)
    config = sweep.with_stores(run)
    config = replace(config, out=(sweep.folder / "best").uri, cluster=sweep.base.config.cluster)
    _lend_teacher(sweep, Run(config, Folder.at(config.out)))
    header = f"# Point {point.number} of {sweep.folder.uri}: {described(point.parameters)}.\n"
    header += (
        f"# Validation accuracy {score.validation:.4f}, {score.subject}, {score.labels} labels, {score.network}.\n"
    )
    return header + configs.to_yaml(config)


def _finished(table: pa.Table) -> set[str]:
    return set(table.filter(pc.equal(table["status"], "ok"))["record_id"].to_pylist())
