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
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.prepared import PreparedData
from raydd.evaluation import records
from raydd.evaluation.probes import probe
from raydd.evaluation.probes.probe import Question
from raydd.evaluation.records import Record
from raydd.evaluation.students.training import TrainingSet, circumstances, described, student_training
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto, students
from raydd.storage import Folder, self_checked
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
        "observer": run.observer_key,
        "teacher": run.teacher_key if run.config.method.works_on == "teacher" else None,
        "seed": run.config.seed,
    }
    return records.record_id(identity)


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
        _prepared(run).write(_file(run, preparation), self_checked.pack(made))


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
    return self_checked.unpack(folder.read(file), (folder / file).uri)[0]


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
        return students.training_set(self.run, trial)

    def student(self, trial: Trial, progress: Progress) -> Network:
        """A trial's student: as it was kept, or trained anew, with the same bits, and kept.

        Raises:
            RunError: its training breaks off.
        """
        run = self.run
        kept, file = run.work / "students", f"{run.record_id(trial)}.safetensors"
        student = networks.build(trial.network, run.data.shape, run.data.num_classes)
        if not kept.has(file):
            kept.write(file, self_checked.pack(self._trained(trial, progress).state_dict()))
        student.load_state_dict(_unpacked(kept, file))
        return student.to(run.device).eval()

    def prepared(self, question: Question) -> dict[str, Tensor]:
        """What was made of a preparation."""
        return _unpacked(_prepared(self.run), _file(self.run, question))

    def observer(self) -> Network:
        """The network that was trained on all the real training images."""
        return self.run.observer

    def teacher(self) -> nn.Module | None:
        """The run's teacher."""
        return self.run.teacher.module.eval() if self.run.config.method.works_on == "teacher" else None

    def _trained(self, trial: Trial, progress: Progress) -> nn.Module:
        learned = self.training_set(trial)
        compiles = auto.compiles_training(self.run, trial.network, trial.recipe, len(learned.images))
        training = student_training([trial], self.data, learned, self.device, compiles)
        fit(training, told=Told(progress, [trial.work]))
        return training.modules[0]
