"""Recover: pixels optimised until a teacher knows them and its batch norms see the moments of its training data.

Sources: SRe2L (https://arxiv.org/abs/2306.13092), CDA (https://arxiv.org/abs/2311.18838) and DELT
(https://arxiv.org/abs/2411.19946, with its published code). The loss of a class group is

    L = CE(f(augmented x), y) + r_bn (w_1 R_1 + sum_{l >= 2} R_l)

over the images of the group that take part (see `moments.py` for R_l), under one crop, flip and shift that they
share. Several groups go through the teacher together, and their losses are summed: as the teacher is in evaluation
mode, no gradient of one group depends on another.

In a later stage of a progressive run R_l may be of the images and the earlier ones of the group's classes together,
these as they are; and the cross entropy of an image may be weighted by how little of its class the students of earlier
stages know (`disagreement.py`).

Letters: M synthetic images, N those that take part, F images of earlier stages, P class groups, K classes, C H W.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import RunError
from raydd.core.keyed_random import Key
from raydd.methods.base import MethodState, Start, Task
from raydd.methods.decoupled.disagreement import class_weights, disagreement
from raydd.methods.decoupled.family import (
    Clock,
    RecoverConfig,
    accounts,
    cosine_lr,
    exact_set,
    jitter,
    pixel_range,
    require_constants,
)
from raydd.methods.decoupled.moments import FrozenMoments, averages, bn_loss, measuring
from raydd.methods.decoupled.resample import resampled, resampling
from raydd.methods.decoupled.rows import Rows
from raydd.methods.decoupled.selection import initial_images
from raydd.sets.synthetic import SyntheticSet
from raydd.training.views import crop_boxes

BETAS, EPSILON = (0.5, 0.9), 1e-8
"""Of Adam, in all papers."""

FROZEN_AT_ONCE = 256
"""Images of earlier stages that are shown to the teacher together."""

MOMENTS = ("first_moment", "second_moment")
"""Adam's, in the state."""
_TENSORS = ("images", *MOMENTS)


class Recover:
    """Class groups that are optimised side by side."""

    def __init__(
        self,
        config: RecoverConfig,
        task: Task,
        start: Start,
        key: Key,
        *,
        lr_clock: Clock = "global",
        crop_clock: Clock = "global",
    ) -> None:
        """Begin at the starting images.

        Args:
            config: everything that the methods share.
            task: data, teacher, class groups (all, where it names none), and a ranking if images start at ranked ones.
            start: the number of the stage; earlier images, if moments are to be of these too; and students of them, if
                it matters what these know.
            key: of this stage's draws, the same for all class groups.
            lr_clock: of the step size.
            crop_clock: of the curriculum.

        Raises:
            ConfigError: the data or the stage do not fit the method.
        """
        require_constants(start)
        classes = task.data.num_classes
        self.units = config.num_groups(classes)
        self.iteration = 0
        self.config, self.task, self.start, self.key = config, task, start, key
        self._groups = torch.tensor(task.groups or range(self.units))
        self._rows = rows = Rows.joined([config.rows(group, classes) for group in self._groups.tolist()])
        self._lr_starts, self._crop_starts = (rows.starts * (clock == "per_group") for clock in (lr_clock, crop_clock))
        self._group_index = (rows.groups[:, None] == self._groups).int().argmax(1)
        self._jitter = jitter(config.jitter, task.data.shape)
        self._done = torch.zeros(len(self._groups), dtype=torch.int64)
        self._labels = rows.labels.to(task.device)
        self._range = [self._own(end) for end in pixel_range(task)]
        unknown_N = disagreement(task, start.pool) if start.pool else None
        images = self._own(initial_images(config, task, rows, key.child("init"), unknown_N))
        self._values = {name: torch.zeros_like(images) for name in _TENSORS} | {"images": images}
        teacher = task.require_teacher()
        self._teacher, self._norms = teacher.module, teacher.batch_norms()
        self._frozen = None if start.frozen is None else self._frozen_moments(start.frozen)
        self._weights: Tensor | None = None
        if unknown_N is not None:
            self._weights = self._own(class_weights(unknown_N, task.data.train.labels, classes)[rows.labels])

    def step(self) -> dict[str, float]:
        """Update the images that take part.

        Returns:
            The means over the class groups of the loss, of its terms `ce` and `bn_loss`, and `bn_share`, what the
            weighted second makes of it, and the same of terms that a method has besides; step size `lr` and least crop
            `crop_scale` of the images that joined first; how many images are `active`; and `image_iterations`, all
            that was done.

        Raises:
            RunError: the loss is not finite.
        """
        config, active = self.config, int((self._rows.starts <= self.iteration).sum())
        images = self._values["images"][:active].requires_grad_()
        terms, weights = self._losses(images), self._term_weights
        weighted_P: Tensor = sum(weights[name] * term_P for name, term_P in terms.items())  # type: ignore[assignment]
        (gradient,) = torch.autograd.grad(weighted_P.sum(), images)
        means = dict(zip(terms, torch.stack([*terms.values()]).mean(1).tolist(), strict=True))
        loss = sum(weights[name] * mean for name, mean in means.items())
        if not math.isfinite(loss):
            raise RunError(f"iteration {self.iteration}: the loss is {loss}; lower method.image_lr or method.bn_weight")
        self._update(gradient)
        row = {
            "loss": loss,
            "ce": means.pop("ce"),
            **{f"{name}_loss": mean for name, mean in means.items()},
            **{f"{name}_share": weights[name] * mean / loss if loss else 0.0 for name, mean in means.items()},
            "lr": cosine_lr(config.image_lr, self.iteration, config.iterations),
            "crop_scale": config.crop_scale(self.iteration, config.iterations),
            "active": active,
        }
        self.iteration += 1
        self._done += self._group_index[:active].bincount(minlength=len(self._done))
        return {**row, "image_iterations": int(self._done.sum())}

    def result(self) -> SyntheticSet:
        """The images as they are now, class by class, those of a class by rank."""
        return self._set(self._rows.class_major(), int(self._done.sum()))

    def results(self) -> list[SyntheticSet]:
        """The same for each class group."""
        order = self._rows.class_major()
        return [self._set(order[self._group_index[order] == p], done) for p, done in enumerate(self._done.tolist())]

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def revised(self) -> SyntheticSet | None:
        """None."""
        return None

    def state_dict(self) -> MethodState:
        """Images, Adam's moments and the counters."""
        values = {name: value.clone() for name, value in self._values.items()}
        return {**values, "image_iterations": self._done.clone(), "iteration": self.iteration}

    def load_state_dict(self, state: MethodState) -> None:
        """Continue from what `state_dict` returned."""
        self._values = {name: self._own(state[name]) for name in _TENSORS}
        self._done = state["image_iterations"].cpu().clone()
        self.iteration = state["iteration"]

    def _set(self, rows: Tensor, done: int) -> SyntheticSet:
        """Some of the images, which took so many image-iterations, as a set."""
        return self._set_of(self._values["images"].detach(), rows, done)

    def _set_of(self, images_MCHW: Tensor, rows: Tensor, done: int) -> SyntheticSet:
        """The same, where the images are such, at the size of the data."""
        card = accounts(done, len(rows) * self.iteration)
        return exact_set(self.task, self.start, images_MCHW.cpu()[rows], self._rows.labels[rows], card)

    @property
    def _adam_steps(self) -> int:
        """Updates since Adam began, with the one that comes."""
        return self.iteration + 1

    @property
    def _term_weights(self) -> Mapping[str, float]:
        """By which the terms of the loss count."""
        return {"ce": 1.0, "bn": self.config.bn_weight}

    def _losses(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Cross entropy and R of every class group, and what else a method has, float64 [P] each."""
        active = len(images_NCHW)
        averages_PN = averages(self._group_index[:active], len(self._groups)).to(self.task.device)
        augmented = self._augmented(images_NCHW).contiguous(memory_format=torch.channels_last)
        with self._measuring(averages_PN) as distances, self._precision():
            features_NF = self._teacher.features(augmented)
            logits = self._teacher.head(features_NF)
        ce_N = F.cross_entropy(logits.to(self.task.dtype), self._labels[:active], reduction="none")
        if self._weights is not None:
            ce_N = ce_N * self._weights[:active]
        bn_P = self._of_groups(bn_loss(distances, self.config.first_bn_weight))
        return {"ce": averages_PN @ ce_N.double(), "bn": bn_P} | self._feature_terms(features_NF, averages_PN)

    def _measuring(self, averages_PN: Tensor) -> AbstractContextManager[Mapping[int, Tensor]]:
        """What measures moments while images pass: those of each class group, against the running statistics."""
        return measuring(self._norms, averages_PN, self._frozen)

    def _of_groups(self, distances: Tensor) -> Tensor:
        """R of every class group, [P], by what was measured."""
        return distances

    def _feature_terms(self, features_NF: Tensor, averages_PN: Tensor) -> dict[str, Tensor]:
        """Terms of the loss by what the last layer sees, [P] each: none."""
        return {}

    def _frozen_moments(self, frozen: SyntheticSet) -> FrozenMoments | None:
        """Of the earlier images of each group's classes, as the teacher sees them; None where there are none."""
        classes = [self._rows.labels[self._group_index == p] for p in range(len(self._groups))]
        members_PF = torch.stack([torch.isin(frozen.labels, labels) for labels in classes])
        seen = members_PF.any(0)
        if not seen.any():
            return None
        batches = (self._own(batch) for batch in frozen.images[seen].split(FROZEN_AT_ONCE))
        with self._precision():
            return FrozenMoments.of(
                self._teacher, self._norms, batches, members_PF[:, seen].double().to(self.task.device)
            )

    def _precision(self) -> torch.autocast:
        """Of the teacher's passes."""
        return torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _augmented(self, images_NCHW: Tensor) -> Tensor:
        """The images under one crop, flip and shift a class group; one crop a part where those differ in size."""
        height, width = images_NCHW.shape[2:]
        scales, which_N = self._scheduled(self._crop_starts[: len(images_NCHW)], self.config.crop_scale)
        key = self.key.child("augment", self.iteration)
        boxes = torch.cat([self._boxes(key.child("crop"), height, width, scale) for scale in scales])
        flip, *shifts = keyed_random.uniform(key.child("flip and shift"), self._groups, 3).repeat(len(scales), 1).T
        mirrored = (flip < 0.5) & (self.config.crop != "none")
        down, right = ((shift * (1 + self._jitter)).long() for shift in shifts)
        rows = resampling(height, boxes[:, 0], boxes[:, 2], torch.zeros_like(mirrored), down)
        columns = resampling(width, boxes[:, 1], boxes[:, 3], mirrored, right)
        each = which_N * len(self._groups) + self._group_index[: len(images_NCHW)]
        return resampled(images_NCHW, self._own(rows)[each], self._own(columns)[each])

    def _boxes(self, key: Key, height: int, width: int, scale: float) -> Tensor:
        """Top, left, height and width of the crop of every class group, int64 [P, 4]."""
        if self.config.crop == "none":
            return torch.tensor([0, 0, height, width]).expand(len(self._groups), 4)
        return crop_boxes(key, self._groups, height, width, scale)

    @torch.no_grad()
    def _update(self, gradient_NCHW: Tensor) -> None:
        """One step of Adam, and back into the range of pixels; images that have not joined are left alone."""
        active = len(gradient_NCHW)
        images, mean, square = (self._values[name][:active] for name in _TENSORS)
        rates, which_N = self._scheduled(self._lr_starts[:active], partial(cosine_lr, self.config.image_lr))
        lr_N = self._own(torch.tensor(rates, dtype=torch.float64)[which_N])
        adam_step(images, mean, square, gradient_NCHW, lr_N, self._adam_steps)
        images.clamp_(*self._range)

    def _scheduled(self, starts_N: Tensor, schedule: Callable[[int, int], float]) -> tuple[list[float], Tensor]:
        """The values of a schedule of (step, length) that began at these iterations, and which one each image has."""
        begins, which_N = starts_N.unique(return_inverse=True)
        length = self.config.iterations
        return [schedule(self.iteration - begin, length - begin) for begin in begins.tolist()], which_N

    def _own(self, tensor: Tensor) -> Tensor:
        """A copy on the task's device, in its precision."""
        return tensor.to(self.task.device, self.task.dtype, copy=True)


def adam_step(images_NCHW: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, lr_N: Tensor, steps: int) -> None:
    """One step of Adam (Kingma and Ba, ICLR 2015), in place, without weight decay.

    As in the published code there is one count of steps for all images: for those that join late the moments, still
    zero, are no longer corrected, and their first step is about 1.6 lr long.

    Args:
        images_NCHW: what is updated.
        mean: the first moment, of the same shape as all that follows.
        square: the second moment.
        gradient: of the loss.
        lr_N: the step size of each image.
        steps: updates done, this one included.
    """
    first, second = BETAS
    mean.lerp_(gradient, 1 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    scale = (square / (1 - second**steps)).sqrt_().add_(EPSILON).mul_(1 - first**steps)
    images_NCHW.sub_(mean / scale * lr_N[:, None, None, None])
