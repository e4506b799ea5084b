"""Train one student and measure it.

Letters: M training images, N test images, K classes.
"""

import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd import __version__, process
from raydd.evaluation.metrics import accuracy_per_class
from raydd.evaluation.records import Record
from raydd.evaluation.trials import Trial
from raydd.experts import build_seeded
from raydd.prepared import PreparedData
from raydd.progress import Progress
from raydd.random import Key
from raydd.training import EpochResult, Training, accuracy, predict


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What a student is trained on."""

    images: Tensor
    """float32 [M, C, H, W] in network space."""
    targets: Tensor
    """int64 [M] classes, or float32 [M, K] label logits."""
    learned_lr: float | None
    """The step size that comes with the set."""
    images_per_class: int
    bytes_total: int
    """Bytes that the set takes as stored."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a record says about the run that it belongs to."""

    run: str
    method: str
    dataset: str
    recipe_name: str
    distill_seed: int
    config_key: str


def train_student(
    trial: Trial,
    data: PreparedData,
    training_set: TrainingSet,
    provenance: Provenance,
    record_id: str,
    device: torch.device,
    progress: Progress,
    compiled: bool = False,
) -> Record:
    """Train a fresh network by the trial's recipe and measure it after the last epoch.

    Args:
        trial: subject, network, recipe and seed.
        data: the real data: its test split, and its validation split where there is one.
        training_set: what to train on.
        provenance: what else the record says.
        record_id: the record's name.
        device: where to train.
        progress: is told after every epoch.
        compiled: whether the steps of training are compiled.

    Returns:
        The finished record; one with status `failed` and the error where training broke off.
    """
    began = time.perf_counter()
    common = _common(trial, training_set, provenance, record_id)
    try:
        measured = _measure(trial, data, training_set, device, progress, compiled)
    except Exception as error:  # a failed student stays as a row; the others go on
        text = f"{type(error).__name__}: {error}"
        return Record(**common, status="failed", error=text, **_circumstances(began, device))
    return Record(**common, **measured, **_circumstances(began, device))


def _measure(
    trial: Trial,
    data: PreparedData,
    training_set: TrainingSet,
    device: torch.device,
    progress: Progress,
    compiled: bool,
) -> dict[str, Any]:
    key = Key.root(trial.student_seed).child("student")
    module = build_seeded(trial.network, data, key.child("init")).to(device)
    training = Training(
        [module],
        training_set.images,
        training_set.targets,
        trial.recipe,
        [key.child("training")],
        training_set.learned_lr,
        compiled=compiled,
    )
    result = EpochResult(float("nan"), float("nan"))
    for epoch in range(trial.recipe.epochs):
        (result,) = training.run_epoch(epoch)
        progress.update(trial.title, epoch + 1, trial.recipe.epochs, f"loss {result.loss:.3f}")
    logits = predict(module, data.test.images)
    validation = data.validation
    return {
        "train_accuracy": result.accuracy,
        "test_accuracy": accuracy(logits, data.test.labels),
        "class_accuracy": tuple(accuracy_per_class(logits, data.test.labels)),
        "validation_accuracy": None
        if validation is None
        else accuracy(predict(module, validation.images), validation.labels),
    }


def _common(trial: Trial, training_set: TrainingSet, provenance: Provenance, record_id: str) -> dict[str, Any]:
    recipe = trial.recipe
    return {
        "record_id": record_id,
        "run": provenance.run,
        "method": provenance.method,
        "dataset": provenance.dataset,
        "images_per_class": training_set.images_per_class,
        "num_images": len(training_set.images),
        "stage": 0,
        "subject": trial.subject,
        "labels": trial.labels,
        "mode": "single_shot",
        "budget": "reference",
        "network": trial.network.label,
        "recipe": provenance.recipe_name,
        "augmentation": recipe.augmentation,
        "optimizer": f"{'gsam' if recipe.is_gsam else 'sgd'}-m{recipe.momentum:g}-wd{recipe.weight_decay:g}",
        "student_seed": trial.student_seed,
        "distill_seed": trial.draw if trial.subject == "random" else provenance.distill_seed,
        "learned_lr": training_set.learned_lr if recipe.lr is None else recipe.lr,
        "epochs": recipe.epochs,
        "optimizer_steps": recipe.steps(len(training_set.images)),
        "bytes_total": training_set.bytes_total,
        "config_key": provenance.config_key,
        "commit": commit(),
    }


def _circumstances(began: float, device: torch.device) -> dict[str, Any]:
    return {
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "time": datetime.now(UTC),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU where the device is one, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process.peak_memory_bytes()


@cache
def commit() -> str:
    """The commit of the source that runs, or the package's version outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return __version__
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return asked.stdout.strip() or __version__
