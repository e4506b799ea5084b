"""What is done for one point of a sweep, by one process: its set is distilled where it is not, its students trained."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from raydd import config as configs
from raydd.config.sweep import columns
from raydd.core import process
from raydd.core.errors import ConfigError, HeldError, RunError, UserError
from raydd.core.progress import NoProgress
from raydd.core.version import commit
from raydd.evaluation import records
from raydd.evaluation.record import Record
from raydd.evaluation.students.training import Provenance, Pupil, train_students
from raydd.evaluation.students.trials import SETS, LabelStore, Trial
from raydd.ingredients.base import in_order, make_here
from raydd.pipeline.runs.run import CONFIG, LOCK
from raydd.pipeline.sweeps.points import Point, PointRun, Sweep
from raydd.pipeline.work import auto, students
from raydd.pipeline.work.distilled_set import DistilledSet
from raydd.pipeline.work.stored_labels import StoredViewLabels
from raydd.pipeline.work.training_sets import training_set
from raydd.storage import Folder
from raydd.storage.lock import locked

_FAILED = "failed.json"
_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class PointWork:
    """What is left to do for a point."""

    point: Point
    students: frozenset[str]
    """The records of those to train; others are there, or another point's job."""

    def trials(self, run: PointRun) -> list[Trial]:
        """Those students."""
        return [trial for trial in run.trials() if run.record_id(trial) in self.students]


def do(sweep: Sweep, job: PointWork) -> float:
    """Do a job and return its seconds; what goes wrong with it ends in the students' records."""
    began = time.perf_counter()
    run = sweep.run(job.point.config)
    try:
        process.set_up(run.config.cluster.threads_per_worker)
        trials = job.trials(run)
        _make_inputs(sweep, job.point, run, trials)
        for pack in auto.student_packs(run, trials):
            students.evaluate(run, pack, NoProgress())
            publish(sweep, job.point, run, run.results, pack)
    except Exception as error:  # the other points may do better
        give_up(sweep, job, _words(error))
    return time.perf_counter() - began


def whole(sweep: Sweep, number: int, parameters: Mapping[str, Any]) -> PointWork:
    """All of a point that the sweep does not have.

    Raises:
        ConfigError: the values do not go together.
    """
    point = sweep.point(number, parameters)
    run = sweep.run(point.config)
    found = {name: records.find(sweep.results, name) for name in map(run.record_id, run.trials())}
    return PointWork(
        point, frozenset(name for name, record in found.items() if record is None or record.status != "ok")
    )


def accuracy(sweep: Sweep, point: Point) -> float:
    """The mean validation accuracy of the students of a point's set; 0 where one failed."""
    run = sweep.run(point.config)
    found = [records.find(sweep.results, run.record_id(trial)) for trial in run.trials() if trial.subject in SETS]
    return fmean((record and record.validation_accuracy) or 0.0 for record in found)


def measured(sweep: Sweep, point: Point) -> dict[str, float]:
    """The mean accuracies of the students of a point's set, as far as they are there."""
    run = sweep.run(point.config)
    found = [records.find(sweep.results, run.record_id(trial)) for trial in run.trials() if trial.subject in SETS]
    return {
        name: fmean(values)
        for name in ("test_accuracy", "validation_accuracy")
        if (values := [value for record in found if record and (value := getattr(record, name)) is not None])
    }


def watched(sweep: Sweep, job: PointWork) -> Trial:
    """The student that stands for a point while it is decided whether to go on with it: the first of its set's."""
    return next(trial for trial in sweep.run(job.point.config).trials() if trial.subject in SETS)


def watch(sweep: Sweep, job: PointWork, looks: int, report: Callable[[int, float], None]) -> None:
    """Train the student that stands for a point, of which no record is kept.

    Args:
        sweep: what the point is of.
        job: the point.
        looks: how often the student is measured.
        report: is told the epoch and the validation accuracy each time; may end it by an exception.
    """
    run, trial = sweep.run(job.point.config), watched(sweep, job)
    process.set_up(run.config.cluster.threads_per_worker)
    trial = replace(trial, measure_every=max(1, trial.recipe.epochs // looks))
    learned = training_set(run, trial)
    compiles = run.compiles(trial.network, trial.recipe, len(learned.images))
    nobody = Provenance(run="", method="", dataset="", recipe_name="", distill_seed=0, config_key="")

    def tell(epoch: int, accuracies: Sequence[float | None]) -> None:
        report(epoch, accuracies[0] or 0.0)

    train_students([Pupil(trial, "")], run.data, learned, nobody, run.device, NoProgress(), compiles, tell)


def publish(sweep: Sweep, point: Point, run: PointRun, source: Folder, trials: Sequence[Trial]) -> None:
    """Write the records of some students, which lie elsewhere, with the values of their point."""
    for name in (run.record_id(leg) for trial in trials for leg in trial.legs()):
        record = records.find(source, name)
        if record is not None:
            records.write(sweep.results, record, columns(point.parameters))


def give_up(sweep: Sweep, job: PointWork, error: str) -> None:
    """Write records of the students of a job that are not there, with what went wrong."""
    run = sweep.run(job.point.config)
    for trial in job.trials(run):
        found = records.find(sweep.results, run.record_id(trial))
        if found is None or found.status != "ok":
            records.write(sweep.results, _failure(run, trial, error), columns(job.point.parameters))


def _make_inputs(sweep: Sweep, point: Point, run: PointRun, trials: Sequence[Trial]) -> None:
    """Make what students need and is not there, unless another process does."""
    silent = NoProgress()
    if sweep.distils(point) and not run.has_synthetic():
        with _alone(run.folder):
            _distil(run, sweep.attempt)
    stores = LabelStore.needed(trials, run.config.evaluate.label_epochs)
    for labels in in_order([StoredViewLabels(run, run, store) for store in stores]):
        with _alone(run.folder):
            make_here(labels, silent)
    if any(trial.coreset for trial in trials):
        for chosen in in_order([run.selection]):
            with _alone(sweep.base.folder):
                make_here(chosen, silent)


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Hold a run folder's lock; wait while another process does."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder, LOCK))
                break
            except HeldError:
                time.sleep(_WAIT_SECONDS)
        yield


def _distil(run: PointRun, attempt: str) -> None:
    """Distil a point's set, unless another process has, or has failed to in this attempt."""
    if run.has_synthetic():
        return
    failed = json.loads(run.folder.read(_FAILED)) if run.folder.has(_FAILED) else {}
    if failed.get("attempt") == attempt:
        raise RunError(failed["error"])
    if missing := run.missing_step():
        problem = f"the point needs `raydd {missing}` of its own before it: take grid or random"
        raise ConfigError("sweep.search", problem)
    run.folder.write(CONFIG, configs.to_yaml(run.config).encode())
    try:
        for ingredient in in_order([DistilledSet(run, run)]):
            make_here(ingredient, NoProgress())
    except Exception as error:
        run.folder.write(_FAILED, json.dumps({"attempt": attempt, "error": _words(error)}).encode())
        raise
    run.folder.delete(_FAILED)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"


def _failure(run: PointRun, trial: Trial, error: str) -> Record:
    """The record of a student that could not be trained."""
    config, recipe = run.config, trial.recipe
    return Record(
        record_id=run.record_id(trial),
        run=config.name,
        status="failed",
        error=error,
        method=config.method.name,
        dataset=run.data.name,
        images_per_class=config.images_per_class,
        num_images=run.data.num_classes * sum(each.images_per_class * each.decoded_images for each in config.methods),
        stage=trial.stage,
        subject=trial.subject,
        labels=trial.labels,
        mode=trial.mode,
        budget=trial.budget,
        network=trial.network.label,
        recipe=config.evaluate.protocol or config.evaluate.recipe_name,
        augmentation=recipe.augmentation,
        optimizer=recipe.optimizer_name,
        student_seed=trial.student_seed,
        distill_seed=trial.draw if trial.subject == "random" else config.seed,
        learned_lr=recipe.lr,
        epochs=recipe.epochs,
        optimizer_steps=0,
        seconds=0.0,
        device=str(run.device),
        config_key=run.stages[trial.stage].union_key,
        commit=commit(),
        time=datetime.now(UTC),
    )
