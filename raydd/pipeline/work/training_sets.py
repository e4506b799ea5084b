"""What each student is trained on: a set, its parts or its start, or real images."""

import math
from dataclasses import replace

from torch import Tensor

from raydd.data.images import Images
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import SETS, Trial
from raydd.methods.initial import random_real
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import teacher_labels
from raydd.pipeline.work.diversity import diversity_of
from raydd.storage import stored_bytes


def training_set(run: Run, trial: Trial) -> TrainingSet:
    """What a trial's student is trained on; of one that goes through the stages, at the last of them."""
    chosen = _chosen(run, trial)
    if "teacher" in run.made_first:
        return teacher_labels.with_teacher(run, trial, chosen)
    return replace(chosen, metrics=diversity_of(run, trial, chosen))


def _chosen(run: Run, trial: Trial) -> TrainingSet:
    """Images and targets, without a teacher."""
    if trial.subject in (*SETS, "ema", "init"):
        name = "synthetic" if trial.subject in SETS else trial.subject
        stage = run.stages[trial.stage]
        chosen = stage.part() if trial.mode == "new_only" else stage.union(name)
        seen = chosen.decoded()
        parts = run.stages[trial.stage if trial.mode == "new_only" else 0 : trial.stage + 1]
        return TrainingSet(
            images=seen.images,
            targets=seen.targets if trial.labels == "stored" else seen.labels,
            classes=seen.labels if trial.labels == "stored" else None,
            label_kind=chosen.label_kind,
            learned_lr=chosen.learned_lr[-1],
            images_per_class=chosen.images_per_class,
            bytes_total=sum(stored_bytes(part.folder / name) for part in parts),
            earlier_steps=sum(leg.recipe.steps(num_images(run, leg)) for leg in trial.legs()[:-1]),
        )
    synthetic = run.last_stage.union()
    images: Images | Tensor = run.data.train.images
    classes = run.data.train.labels
    if trial.selects_real:
        rows = _rows(run, trial)
        images, classes = images[rows], classes[rows]
    targets = classes
    if trial.uses_experts:
        targets = run.config.method.expert_labels(run.stages[0].task(), images[:], classes)
    return TrainingSet(
        images=images,
        targets=targets,
        classes=classes if trial.uses_experts else None,
        learned_lr=synthetic.learned_lr[-1],
        images_per_class=len(images) // run.data.num_classes,
        bytes_total=math.prod(images.shape) + targets.numel() * targets.element_size(),
    )


def _rows(run: Run, trial: Trial) -> Tensor:
    """Rows of the real images that a student is trained on, class-major."""
    if trial.coreset is not None:
        return run.selection.open().rows[trial.coreset]
    config, key = run.config, run.key().child("random", trial.draw)
    return random_real(run.data, config.images_per_class, key, config.method.repeat_images)


def num_images(run: Run, leg: Trial) -> int:
    """Images that a student sees in an epoch of a leg."""
    methods = run.config.methods[: leg.stage + 1]
    seen = methods[-1:] if leg.mode == "new_only" else methods
    return run.data.num_classes * sum(method.images_per_class * method.decoded_images for method in seen)
