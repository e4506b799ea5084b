"""Students: what each is trained on, and the records of packs of them, by whoever trains these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydd.core.interruption import Interruption
from raydd.core.progress import ACCURACY, Progress, result
from raydd.evaluation import record_files, records
from raydd.evaluation.record import Record
from raydd.evaluation.students.training import NetworkState, Provenance, Pupil, train_students
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.ingredients.network_pool import without_momenta
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto
from raydd.pipeline.work.kept_student import is_kept, lacks_state, leave, publish
from raydd.pipeline.work.run_trials import RunTrials
from raydd.pipeline.work.step_sizes import StepSizes, own_recipe
from raydd.pipeline.work.student_needs import needed_by
from raydd.pipeline.work.training_sets import num_images, training_set
from raydd.storage import Folder, content_key, self_checked


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> list[Record]:
    """Train students side by side that differ in their seeds alone, but for those that have records of success."""
    missing = [trial for trial in trials if unfinished_legs(run, trial)]
    if missing:
        _train(run, missing, progress)
    made = (records.find(run.results, run.record_id(leg)) for trial in trials for leg in trial.legs())
    return [record for record in made if record is not None]


def unfinished_legs(run: Run, trial: Trial) -> list[Trial]:
    """The trainings of a student that have no record of success."""
    found = ((leg, records.find(run.results, run.record_id(leg))) for leg in trial.legs())
    return [leg for leg, record in found if record is None or record.status != "ok" or lacks_state(run, leg)]


def _train(run: Run, trials: Sequence[Trial], progress: Progress) -> None:
    """Train students from where all of them are, leg by leg; one that fails is not trained on."""
    legs = [trial.legs() for trial in trials]
    number = min(leg.index(unfinished_legs(run, trial)[0]) for leg, trial in zip(legs, trials, strict=True))
    while number and not all(_chains(run).has(_state_file(run, leg[number - 1])) for leg in legs):
        number -= 1
    before = [_state(run, leg[number - 1]) for leg in legs] if number else []
    while legs and number < len(legs[0]):
        last = number == len(legs[0]) - 1
        before, legs = _train_leg(run, [leg[number] for leg in legs], legs, before, progress, keeps=not last)
        number += 1


def _train_leg(
    run: Run,
    trials: Sequence[Trial],
    legs: Sequence[list[Trial]],
    before: Sequence[NetworkState],
    progress: Progress,
    keeps: bool,
) -> tuple[list[NetworkState], list[list[Trial]]]:
    """Train students on one set and write their records; returns the states, and the legs, of those that go on."""
    config, first = run.config, trials[0]
    learned, recipe = training_set(run, first), own_recipe(run, first, progress)
    compiles = run.compiles(first.network, recipe, len(learned.images))
    states: Sequence[NetworkState | None] = before or [None] * len(trials)
    pupils = [
        Pupil(replace(trial, recipe=recipe), run.record_id(trial), state)
        for trial, state in zip(trials, states, strict=True)
    ]
    made = train_students(pupils, run.data, learned, provenance(run, first), run.device, progress, compiles)
    going_on: list[NetworkState] = []
    their_legs: list[list[Trial]] = []
    for student, trial, own in zip(made, trials, legs, strict=True):
        records.write(run.results, student.record, confusion=student.confusion)
        _tell(student.record, trial, config.evaluate.num_students, progress)
        if student.state is None:
            _give_up(run, student.record, own[trial.number + 1 :])
        else:
            leave(run, trial, student.state)
            going_on.append(student.state if config.stages.carry_momentum else without_momenta(student.state))
            their_legs.append(own)
            if keeps:
                self_checked.write(_chains(run), _state_file(run, trial), going_on[-1])
    return going_on, their_legs


def provenance(run: Run, trial: Trial) -> Provenance:
    """What records say about the run."""
    config = run.config
    return Provenance(
        run=config.name,
        method=config.method.name,
        dataset=run.data.name,
        recipe_name=config.evaluate.protocol or config.evaluate.recipe_name,
        distill_seed=config.seed,
        config_key=run.stages[trial.stage].union_key,
    )


def _tell(record: Record, trial: Trial, count: int, progress: Progress) -> None:
    """Tell what a student of so many reached."""
    accuracy = math.nan if record.test_accuracy is None else record.test_accuracy
    note = "failed" if math.isnan(accuracy) else f"{accuracy:.1%}"
    progress.update(result(trial.student_seed, count, trial.work.about), 1, 1, note, {ACCURACY: accuracy})


def _give_up(run: Run, failed: Record, legs: Sequence[Trial]) -> None:
    """Records of what a student that failed is not trained on any more."""
    for leg in legs:
        missed = replace(
            failed,
            record_id=run.record_id(leg),
            stage=leg.stage,
            config_key=run.stages[leg.stage].union_key,
            num_images=num_images(run, leg),
            error=f"stage {failed.stage}: {failed.error}",
        )
        records.write(run.results, missed)


def _chains(run: Run) -> Folder:
    """The states of students that go through the stages."""
    return run.work / "chains"


def _state_file(run: Run, leg: Trial) -> str:
    return f"{run.record_id(leg)}.safetensors"


def _state(run: Run, leg: Trial) -> NetworkState:
    folder, file = _chains(run), _state_file(run, leg)
    tensors, _ = self_checked.read(folder, file)
    return tensors


@dataclass(frozen=True)
class StudentRecords(RunTrials[pa.Table]):
    """The records of all students that a run is to have: each pack of alike ones is a trial of its own."""

    kind = "students"
    title = "students"

    def key(self) -> str:
        """Of all records."""
        return content_key({"records": [self.run.record_id(trial) for trial in self.run.trials()]})

    def missing(self) -> list[Trial]:
        """Students without a record of success, or without the state by which the best is kept."""
        found = records.read(self.run.results)
        finished = set(found.filter(pc.equal(found["status"], "ok"))["record_id"].to_pylist())
        run = self.run
        return [
            trial
            for trial in run.trials()
            if not finished.issuperset(map(run.record_id, trial.legs())) or lacks_state(run, trial)
        ]

    def is_made(self) -> bool:
        """Whether all have one, and the best of them is kept where it is to be."""
        return super().is_made() and is_kept(self.run)

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """What students are trained on, and step sizes that are searched for."""
        missing = tuple(self.missing())
        searches = [StepSizes(self.run, self.run, missing)] * any(trial.searched for trial in missing)
        return (*needed_by(self.run, missing), *searches)

    def pieces(self) -> Sequence[list[Trial]]:
        """Packs of those that are missing."""
        return auto.student_packs(self.run, self.missing())

    def num_missing(self) -> int:
        """Students, however they are packed."""
        return len(self.missing())

    @property
    def counted(self) -> int:
        """All students of the run."""
        return len(self.run.trials())

    def name_of(self, piece: list[Trial]) -> list[str]:
        """What the students of a pack are."""
        return [trial.title for trial in piece]

    def make(self, piece: list[Trial], progress: Progress, interruption: Interruption = SIGNALS) -> dict[str, float]:
        """Train a pack; returns their mean accuracy."""
        made = evaluate(self.run, piece, progress)
        return {"test_accuracy": fmean(record.test_accuracy or 0.0 for record in made)}

    def finish(self) -> None:
        """Keep the best, where it is to be; put many records into one file."""
        publish(self.run)
        record_files.bundle(self.run.results)

    def open(self) -> pa.Table:
        """All records of the run."""
        return records.read(self.run.results)
