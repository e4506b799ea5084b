"""Probes of a run's training sets: which questions have no answer, and answering one of them in this process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from raydd import networks
from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.prepared import PreparedData
from raydd.evaluation import records
from raydd.evaluation.probes import probe
from raydd.evaluation.probes.probe import Question
from raydd.evaluation.record import Record
from raydd.evaluation.students.training import TrainingSet, circumstances, described, student_training
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.networks import Network
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import students
from raydd.pipeline.work.distilled_set import DistilledSet
from raydd.pipeline.work.run_trials import RunTrials
from raydd.pipeline.work.training_sets import training_set
from raydd.storage import Folder, content_key, self_checked
from raydd.training.fit import Told, fit


def questions(run: Run) -> list[Question]:
    """All that the config asks, in a fixed order."""
    trials = run.trials()
    return [question for asker in run.config.evaluate.askers().values() for question in asker.questions(trials)]


def record_id(run: Run, question: Question) -> str:
    """The name of an answer's record, which depends on nothing but what determines the answer."""
    asker = run.config.evaluate.askers()[question.probe]
    identity = {
        "probe": question.probe,
        "settings": probe.settings(asker),
        "variant": question.variant,
        "student": run.record_id(question.trial),
        "data": run.data.fingerprint,
        "observer": run.observer.key(),
        "teacher": run.teacher.key() if "teacher" in run.made_first else None,
        "seed": run.config.seed,
    }
    return content_key(identity)


def answers(run: Run) -> pa.Table:
    """The records of answers to what the config asks; those to earlier questions are left out."""
    table = records.read_probes(run.results)
    asked = [record_id(run, question) for question in questions(run)]
    return table.filter(pc.is_in(table["record_id"], pa.array(asked, pa.string())))


def unanswered(run: Run) -> list[Question]:
    """Questions without a record of success."""
    if not run.config.evaluate.probes:
        return []
    found = ((question, records.find(run.results, record_id(run, question))) for question in questions(run))
    return [question for question, record in found if record is None or record.status != "ok"]


def unprepared(run: Run, asked: Sequence[Question]) -> list[Question]:
    """What has to be made before some questions can be answered."""
    askers, trials, kept = run.config.evaluate.askers(), run.trials(), _prepared(run)
    needed = [
        preparation
        for name in dict.fromkeys(question.probe for question in asked)
        for preparation in askers[name].preparations(trials)
    ]
    return [preparation for preparation in needed if not kept.has(_file(run, preparation))]


def prepare(run: Run, preparation: Question, progress: Progress) -> None:
    """Make what several answers need, unless it is there."""
    if not _prepared(run).has(_file(run, preparation)):
        asker = run.config.evaluate.askers()[preparation.probe]
        made = asker.prepare(preparation, _Opened(run), progress)
        self_checked.write(_prepared(run), _file(run, preparation), made)


def answer(run: Run, question: Question, progress: Progress) -> Record:
    """Answer a question, unless it has an answer, and write its record, and its pictures before that."""
    name, began = record_id(run, question), time.perf_counter()
    found = records.find(run.results, name)
    if found is not None and found.status == "ok":
        return found
    view, asker = _Opened(run), run.config.evaluate.askers()[question.probe]
    about = described(question.trial, view.training_set(question.trial), students.provenance(run, question.trial), name)
    try:
        made = asker.answer(question, view, progress)
    except Exception as error:  # a failed answer stays as a row; the others go on
        ended: dict[str, Any] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    else:
        ended = {"metrics": made.metrics, "test_accuracy": made.test_accuracy}
        for picture, png in made.pictures.items():
            pictures(run).write(f"{picture}-{name}.png", png)
    asked: dict[str, Any] = {"probe": question.probe, "variant": question.variant}
    record = Record(**about, **asked, **ended, **circumstances(began, run.device))
    records.write(run.results, record)
    return record


def pictures(run: Run) -> Folder:
    """Where the pictures of answers lie, each under its name and that of the record."""
    return run.folder / "probes"


def _prepared(run: Run) -> Folder:
    return run.work / "probes"


def _file(run: Run, question: Question) -> str:
    return f"{record_id(run, question)}.safetensors"


def _unpacked(folder: Folder, file: str) -> dict[str, Tensor]:
    return self_checked.read(folder, file)[0]


@dataclass(frozen=True)
class ProbePreparations(RunTrials[None]):
    """What several answers of a probe need: each is a trial of its own."""

    kind = "preparations"
    title = "preparations of probes"

    def key(self) -> str:
        """Of all of them."""
        return content_key({"preparations": [record_id(self.run, piece) for piece in self.pieces()]})

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The set and the observer."""
        return (DistilledSet(self.run, self.run), self.run.observer)

    def pieces(self) -> Sequence[Question]:
        """Those that are not made."""
        return unprepared(self.run, unanswered(self.run))

    def name_of(self, piece: Question) -> str:
        """What is prepared."""
        return str(piece.work)

    def make(self, piece: Question, progress: Progress, interruption: Interruption = SIGNALS) -> dict[str, float]:
        """Prepare it, unless it is there."""
        prepare(self.run, piece, progress)
        return {}

    def open(self) -> None:
        """Nothing: probes look for theirs."""


@dataclass(frozen=True)
class ProbeAnswers(RunTrials[pa.Table]):
    """The answers to all questions of a run's probes: each is a trial of its own."""

    kind = "probes"
    title = "probes"

    def key(self) -> str:
        """Of all answers."""
        return content_key({"answers": [record_id(self.run, question) for question in questions(self.run)]})

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The set, the observer, real images that are chosen where they are asked about, and what answers share."""
        chosen = any(question.trial.coreset is not None for question in unanswered(self.run))
        whole, shared = DistilledSet(self.run, self.run), ProbePreparations(self.run, self.run)
        return (whole, self.run.observer, *[self.run.selection] * chosen, shared)

    def pieces(self) -> Sequence[Question]:
        """The questions without an answer."""
        return unanswered(self.run)

    def name_of(self, piece: Question) -> str:
        """What is asked."""
        return str(piece.work)

    def make(self, piece: Question, progress: Progress, interruption: Interruption = SIGNALS) -> dict[str, float]:
        """Answer it, unless it has an answer; returns what was found."""
        return dict(answer(self.run, piece, progress).metrics)

    def open(self) -> pa.Table:
        """The answers."""
        return answers(self.run)


@dataclass(frozen=True)
class _Opened:
    """A run as probes look at it."""

    run: Run

    @property
    def data(self) -> PreparedData:
        """The real data."""
        return self.run.data

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.run.device

    @property
    def key(self) -> Key:
        """Of the probes' draws."""
        return self.run.key().child("probes")

    def training_set(self, trial: Trial) -> TrainingSet:
        """What a trial's student is trained on."""
        return training_set(self.run, trial)

    def student(self, trial: Trial, progress: Progress) -> Network:
        """A trial's student: as it was kept, or trained anew, with the same bits, and kept.

        Raises:
            RunError: its training breaks off.
        """
        run = self.run
        kept, file = run.work / "students", f"{run.record_id(trial)}.safetensors"
        student = networks.build(trial.network, run.data.shape, run.data.num_classes)
        if not kept.has(file):
            self_checked.write(kept, file, self._trained(trial, progress).state_dict())
        student.load_state_dict(_unpacked(kept, file))
        return student.to(run.device).eval()

    def prepared(self, question: Question) -> dict[str, Tensor]:
        """What was made of a preparation."""
        return _unpacked(_prepared(self.run), _file(self.run, question))

    def observer(self) -> Network:
        """The network that was trained on all the real training images."""
        return self.run.observer.open()

    def teacher(self) -> nn.Module | None:
        """The run's teacher."""
        return self.run.teacher.open().module.eval() if "teacher" in self.run.made_first else None

    def _trained(self, trial: Trial, progress: Progress) -> nn.Module:
        learned = self.training_set(trial)
        compiles = self.run.compiles(trial.network, trial.recipe, len(learned.images))
        training = student_training([trial], self.data, learned, self.device, compiles)
        fit(training, told=Told(progress, [trial.work]))
        return training.modules[0]
