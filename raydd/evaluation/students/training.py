"""Train students and measure them.

Letters: M training images, N test images, K classes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from raydd.core import process
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.core.version import commit
from raydd.data.images import Images
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.evaluation.record import Confusion, Record
from raydd.evaluation.students.metrics import (
    accuracy_per_class,
    beside_accuracy,
    class_size_accuracy,
    confusion_counts,
)
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.setting import build_seeded
from raydd.ingredients.view_labels import ViewLabels
from raydd.networks.losses import LabelKind
from raydd.training.fit import Told, Watcher, fit, loss_curve
from raydd.training.loop import EpochResult, Training, accuracy, predict
from raydd.training.recipe import Recipe

NetworkState = Mapping[str, Tensor]
"""Of a training: a network's parameters, buffers and momenta by flat names."""

OnMeasured = Callable[[int, Sequence[float | None]], None]
"""`(epochs done, validation accuracy of each student)`, None where there is no validation split."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What a student is trained on."""

    images: Images | Tensor
    """[M, C, H, W] in network space."""
    targets: Tensor
    """int64 [M] classes, or float32 [M, K] soft labels of the `label_kind`."""
    classes: Tensor | None = None
    """int64 [M], where the targets are soft labels."""
    label_kind: LabelKind = "logits"
    """What soft targets are."""
    learned_lr: float | None
    """The step size that comes with the set."""
    images_per_class: int
    bytes_total: int
    """Bytes that the set takes as stored, with what else its labels need."""
    views: ViewLabels | None = None
    """Views of the images with targets, where students are not trained on the images as they are."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured of the set itself."""
    earlier_steps: int = 0
    """Optimiser steps that a chain took before it came to this set."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a record says about the run that it belongs to."""

    run: str
    method: str
    dataset: str
    recipe_name: str
    distill_seed: int
    config_key: str


@dataclass(frozen=True)
class Pupil:
    """A student that is to be trained."""

    trial: Trial
    record_id: str
    """The name of its record."""
    before: NetworkState | None = None
    """The state that it goes on from; None begins with a fresh network."""


@dataclass(frozen=True)
class Student:
    """A student that was trained, or was to be."""

    record: Record
    state: NetworkState | None
    """Of its training, to go on from; None where that failed."""
    confusion: Confusion | None = None
    """Of the test images; None where its training failed."""


def train_students(
    pupils: Sequence[Pupil],
    data: PreparedData,
    training_set: TrainingSet,
    provenance: Provenance,
    device: torch.device,
    progress: Progress,
    compiled: bool = False,
    on_measured: OnMeasured | None = None,
) -> list[Student]:
    """Train networks by the trials' recipe, several side by side, and measure them.

    They are measured after the last epoch and, where the trials say so, after every `measure_every` epochs before it,
    which changes nothing about their training.

    Args:
        pupils: whose trials differ in the seed alone, and of which all go on from somewhere, or none.
        data: the real data: its test split, and its validation split where there is one.
        training_set: what to train on.
        provenance: what else the records say.
        device: where to train.
        progress: is told after every epoch.
        compiled: whether the steps of training are compiled.
        on_measured: is called after every measurement; what it raises ends the training and is raised here. It does
            not hear of students that are trained once more alone.

    Returns:
        The students with finished records; with status `failed` and the error where training broke off. Where it does
        with several side by side, each is trained once more alone. Seconds are a student's share of the pack's.
    """
    began = time.perf_counter()
    trials = [pupil.trial for pupil in pupils]
    commons = [described(pupil.trial, training_set, provenance, pupil.record_id) for pupil in pupils]
    try:
        before = [pupil.before for pupil in pupils if pupil.before is not None]
        training = student_training(trials, data, training_set, device, compiled, before)
        measured = _train(training, trials, data, training_set, progress, on_measured)
    except _Stopped as stopped:
        raise stopped.reason from stopped.reason.__cause__
    except Exception as error:  # a failed student stays as a row; the others go on
        if len(pupils) == 1:
            text = f"{type(error).__name__}: {error}"
            ended: dict[str, Any] = {"status": "failed", "error": text, "metrics": training_set.metrics}
            return [Student(Record(**commons[0], **ended, **circumstances(began, device)), None)]
        arguments = (data, training_set, provenance, device, progress, compiled)
        return [student for pupil in pupils for student in train_students([pupil], *arguments)]
    return [
        Student(Record(**common, **one.numbers, **circumstances(began, device, len(pupils))), state, one.confusion)
        for common, one, state in zip(commons, measured, training.state_dicts(), strict=True)
    ]


def student_training(
    trials: Sequence[Trial],
    data: PreparedData,
    training_set: TrainingSet,
    device: torch.device,
    compiled: bool,
    before: Sequence[NetworkState] = (),
) -> Training:
    """The training of the trials' students side by side, from their initialisations, or from where they were."""
    keys = [Key.root(trial.student_seed).child("student") for trial in trials]
    modules = [build_seeded(trials[0].network, data, key.child("init")).to(device) for key in keys]
    return training_on(training_set, trials[0].recipe, modules, keys, trials[0].number, compiled, before)


def training_on(
    training_set: TrainingSet,
    recipe: Recipe,
    modules: Sequence[nn.Module],
    keys: Sequence[Key],
    number: int,
    compiled: bool,
    before: Sequence[NetworkState] = (),
) -> Training:
    """Training on a distilled set, of students and of the networks of a pool alike (PDD's Train(theta, U)).

    Args:
        training_set: images and targets, with the step size that was learned for them.
        recipe: of the training.
        modules: the networks.
        keys: of the draws of each.
        number: which training this is of those that the networks go through, from 0.
        compiled: whether steps are compiled.
        before: where the training before this one ended: networks, and momenta where they are carried on.

    Raises:
        ConfigError: the recipe's loss is not one of the set's labels.
    """
    if training_set.targets.is_floating_point():
        recipe.require_labels(training_set.label_kind)
    own = [key.child("training") for key in keys]
    training = Training(
        modules,
        training_set.images,
        training_set.targets,
        recipe.completed(training_set.learned_lr),
        [key.child("stage", number) for key in own] if number else own,
        compiled=compiled,
        views=training_set.views,
    )
    if before:
        training.load_state_dicts(before)
    return training


class _Stopped(Exception):
    """Whoever was told of a measurement wants no more of them."""

    def __init__(self, reason: Exception) -> None:
        """Keep what was raised."""
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class _Measurement:
    """A student after some epochs."""

    epoch: int
    """Epochs done."""
    test: float
    validation: float | None


@dataclass(frozen=True)
class _Outcome:
    """What came of a student's training: what its record says of it, and what it took the test images for."""

    numbers: dict[str, Any]
    confusion: Confusion


class _Curves(Watcher):
    """Measures students after the last epoch and, where they say so, every so many epochs before it."""

    def __init__(self, trials: Sequence[Trial], data: PreparedData, on_measured: OnMeasured | None) -> None:
        self.curves: list[list[_Measurement]] = [[] for _ in trials]
        self.logits: list[Tensor] = []
        """Of the test images, the last time."""
        self._last, self._every = trials[0].recipe.epochs, trials[0].measure_every
        self._data, self._on_measured = data, on_measured

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        if done != self._last and (self._every is None or done % self._every):
            return
        test, validation = self._data.test, self._data.validation
        self.logits = [predict(module, test.images) for module in training.modules]
        for curve, module, own in zip(self.curves, training.modules, self.logits, strict=True):
            held_out = None if validation is None else _accuracy(module, validation)
            curve.append(_Measurement(done, accuracy(own, test.labels), held_out))
        _tell(self._on_measured, [curve[-1] for curve in self.curves])


def _train(
    training: Training,
    trials: Sequence[Trial],
    data: PreparedData,
    training_set: TrainingSet,
    progress: Progress,
    on_measured: OnMeasured | None,
) -> list[_Outcome]:
    """Run all epochs; returns, of every student, what came of it."""
    watcher, every = _Curves(trials, data, on_measured), trials[0].measure_every
    told = Told(progress, [trial.work for trial in trials], numbers=loss_curve)
    results = fit(training, watcher=watcher, told=told)
    forwards = 0 if training_set.views is None else training_set.views.teacher_forwards
    classes = [tuple(accuracy_per_class(own, data.test.labels)) for own in watcher.logits]
    sizes = data.train.labels.bincount(minlength=data.num_classes).tolist()
    return [
        _Outcome(
            {
                "teacher_forwards": forwards,
                "train_accuracy": result.accuracy,
                "test_accuracy": curve[-1].test,
                "validation_accuracy": curve[-1].validation,
                "best_test_accuracy": None if every is None else max(measured.test for measured in curve),
                "class_accuracy": per_class,
                "metrics": {
                    **training_set.metrics,
                    **beside_accuracy(own, data.test.labels),
                    **class_size_accuracy(per_class, sizes),
                    **({} if every is None else _selected(curve)),
                },
            },
            confusion_counts(own, data.test.labels).tolist(),
        )
        for own, per_class, curve, result in zip(watcher.logits, classes, watcher.curves, results, strict=True)
    ]


def _accuracy(module: nn.Module, split: LabelledImages) -> float:
    return accuracy(predict(module, split.images), split.labels)


def _tell(on_measured: OnMeasured | None, measured: Sequence[_Measurement]) -> None:
    if on_measured is None:
        return
    try:
        on_measured(measured[0].epoch, [one.validation for one in measured])
    except Exception as reason:
        raise _Stopped(reason) from None


def _selected(curve: Sequence[_Measurement]) -> dict[str, float]:
    """The epoch with the best validation accuracy, the earliest of equals, and the test accuracy there."""
    known = [one for one in curve if one.validation is not None]
    if not known:
        return {}
    best = max(known, key=lambda one: one.validation or 0.0)
    return {"validation_epoch": best.epoch, "test_accuracy_at_validation_epoch": best.test}


def described(trial: Trial, training_set: TrainingSet, provenance: Provenance, record_id: str) -> dict[str, Any]:
    """What a record says of a student before it is trained."""
    recipe = trial.recipe
    return {
        "record_id": record_id,
        "run": provenance.run,
        "method": provenance.method,
        "dataset": provenance.dataset,
        "images_per_class": training_set.images_per_class,
        "num_images": len(training_set.images),
        "stage": trial.stage,
        "subject": trial.subject,
        "labels": trial.labels,
        "mode": trial.mode,
        "budget": trial.budget,
        "network": trial.network.label,
        "recipe": provenance.recipe_name,
        "augmentation": recipe.augmentation,
        "optimizer": recipe.optimizer_name,
        "student_seed": trial.student_seed,
        "distill_seed": trial.draw if trial.subject == "random" else provenance.distill_seed,
        "learned_lr": training_set.learned_lr if recipe.lr is None else recipe.lr,
        "epochs": recipe.epochs,
        "optimizer_steps": training_set.earlier_steps + recipe.steps(len(training_set.images)),
        "bytes_total": training_set.bytes_total,
        "config_key": provenance.config_key,
        "commit": commit(),
    }


def circumstances(began: float, device: torch.device, students: int = 1) -> dict[str, Any]:
    """What a record says of its making, by one of several students that began together."""
    return {
        "seconds": (time.perf_counter() - began) / students,
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "time": datetime.now(UTC),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU where the device is one, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process.peak_memory_bytes()
