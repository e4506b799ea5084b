"""Trajectory matching as a running method: what MTT, FTD and DATM share once images, labels and window are chosen.

Letters: M synthetic images, F of earlier stages, B batch, K classes, C H W, P flat parameters, T inner steps.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from raydd import networks
from raydd.adjoint.compiled_steps import WrittenSteps
from raydd.adjoint.inner_loop import (
    DifferentiatedSteps,
    FrozenRows,
    InnerGradients,
    InnerLoop,
    InnerStep,
    InnerTrajectory,
    PiecewiseSteps,
    Steps,
    adjoint,
    unroll,
)
from raydd.core.distributed import shard
from raydd.core.errors import RunError
from raydd.core.keyed_random import Key
from raydd.methods.base import MethodState, Start, Task
from raydd.methods.initial import earlier_images
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.learned import Learned
from raydd.methods.trajectory.matching import (
    MatchingConfig,
    draw_batches,
    inner_gradient,
    matching_loss,
    moving_average,
    starting_step_size,
)
from raydd.methods.trajectory.segments import Segment, Segments, Window
from raydd.methods.trajectory.step_size import MEASURED_SEGMENTS, found_step_size
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.sets.synthetic import SyntheticSet
from raydd.training.dsa import Augmentation, Draw, augmentation

_ASSIGNED_AT_ONCE = 256
_FIRST_SKIPS = 10
"""Skipped updates in a row after which a run ends that has learned nothing yet; it ends after its last in any case."""
_COUNTERS = ("iteration", "consecutive_skips", "rollbacks", "good_iteration")


class TrajectoryMatching:
    """Learns images, step size and, where asked to, label logits by matching expert segments."""

    units = 1

    def __init__(
        self,
        config: MatchingConfig,
        task: Task,
        start: Start,
        key: Key,
        *,
        images_MCHW: Tensor,
        labels: ImageLabels,
        window: Window,
        ema_decay: float | None = None,
    ) -> None:
        """Begin at the given images and labels.

        Args:
            config: everything that the methods share.
            task: data, network and expert trajectories.
            start: frozen earlier parts; networks begin on the task's trajectories, and not in a pool.
            key: of this stage's draws.
            images_MCHW: the starting images, in network space.
            labels: theirs.
            window: the start epochs allowed at an iteration.
            ema_decay: of the moving average over the images of all iterations; None keeps none.

        Raises:
            ConfigError: one stage has soft labels and an earlier one hard labels, or the reverse.
        """
        self.config, self.task, self.start, self.key = config, task, start, key
        self.iteration = 0
        self.consecutive_skips = 0
        self.rollbacks = 0
        self.good_iteration = 0
        module = networks.build(task.network, task.data.shape, task.data.num_classes)
        self._network = FlatNetwork(module.to(task.device, task.dtype))
        self._compiled: WrittenSteps | None = None
        trajectories = task.require_trajectories()
        self._segments = Segments(
            lambda expert, epoch: self._own(trajectories.params(expert, epoch)),
            num_experts=task.num_experts,
            num_epochs=config.expert_epochs,
            window=window,
            key=key,
        )
        self._labels = labels.classes_M
        self._augmentation: Augmentation = augmentation(config.augmentation)
        self._assigns_labels, self._ema_decay = labels.assigned, ema_decay
        step_size = torch.tensor(starting_step_size(config, task), dtype=task.dtype)
        self._lr_name = "lr" if config.synthetic_lr_space == "linear" else "log_lr"
        step_size = step_size if self._lr_name == "lr" else step_size.log()
        self._learned = Learned()
        self._learned.add("images", self._own(images_MCHW), config.image_lr, config.momentum)
        self._learned.add(self._lr_name, self._own(step_size), config.synthetic_lr_lr, config.momentum)
        self._frozen_images, self._earlier_labels = earlier_images(task, start, labels.are_soft)
        if start.frozen_lr_scale and len(self._frozen_images):
            rate = config.image_lr * start.frozen_lr_scale
            self._learned.add("earlier", self._own(self._frozen_images), rate, config.momentum)
            self._frozen_images = self._frozen_images[:0].clone()
        if ema_decay is not None:
            self._learned.add("ema", self._values["images"].clone())
        if labels.assigned:
            self._learned.add("soft_labels", self._assigned(self._segments.at(0)))
        elif labels.soft_MK is not None:
            self._learned.add("soft_labels", self._own(labels.soft_MK), labels.lr, labels.momentum)
        if config.synthetic_lr_init == "auto":
            self._find_step_size()
        self._learned.mark()

    def step(self) -> dict[str, float]:
        """Match one expert segment; returns loss, step size, and what was drawn and skipped."""
        segment = self._segments.at(self.iteration)
        own_labels = self._labels_for(segment)
        loss, gradients = self._match(segment, own_labels)
        skipped = gradients is None
        if gradients is None:
            self._count_skip(loss)
        else:
            self._update(gradients, own_labels)
        self.iteration += 1
        return {
            "loss": loss,
            "learned_lr": float(self._lr),
            "expert": segment.expert,
            "start_epoch": segment.epoch,
            "max_start_epoch": segment.bound,
            "skipped": int(skipped),
            "consecutive_skips": self.consecutive_skips,
            "rollbacks": self.rollbacks,
        }

    def result(self) -> SyntheticSet:
        """The images, labels and step size as they are now."""
        soft = self._values.get("soft_labels")
        return SyntheticSet(
            images=_exported(self._values["images"]),
            labels=self._labels.cpu(),
            soft_labels=None if soft is None else _exported(soft),
            stage=torch.full((len(self._labels),), self.start.stage, dtype=torch.int32),
            learned_lr=(float(self._lr.float()),),
            class_names=self.task.data.class_names,
            preprocessing=self.task.data.preprocessing,
        )

    def averaged(self) -> SyntheticSet | None:
        """The result with the moving average of its images, where one is kept."""
        average = self._values.get("ema")
        if average is None:
            return None
        return replace(self.result(), images=_exported(average), card={"ema_decay": self._ema_decay})

    def revised(self) -> SyntheticSet | None:
        """The earlier stages' images as they are now, where they are learned too; their labels stay."""
        if self.start.frozen is None or "earlier" not in self._values:
            return None
        return replace(self.start.frozen, images=_exported(self._values["earlier"]))

    def state_dict(self) -> MethodState:
        """Images, labels, step size, average, momenta, counters and the state to fall back to."""
        return {**self._learned.state_dict(), **{name: getattr(self, name) for name in _COUNTERS}}

    def load_state_dict(self, state: MethodState) -> None:
        """Continue from what `state_dict` returned."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self._learned.load_state_dict(state)

    @property
    def _values(self) -> dict[str, Tensor]:
        return self._learned.values

    @property
    def _lr(self) -> Tensor:
        """The step size, a scalar."""
        value = self._values[self._lr_name]
        return value if self._lr_name == "lr" else value.exp()

    def _find_step_size(self) -> None:
        """Replace the guess that a step size of `auto` begins with, where it leads away from the experts.

        Raises:
            ConfigError: every other one does, too.
        """
        guess = float(self._lr)
        segments = [self._segments.read(number) for number in range(MEASURED_SEGMENTS)]

        def losses(step_size: float) -> list[float]:
            lr = self._own(torch.tensor(step_size))
            return [
                float(self._unroll(self._inner_loop(number), segment, lr, self._labels_for(segment))[1])
                for number, segment in enumerate(segments)
            ]

        value = found_step_size(guess, losses, self.config.threshold)
        if value != guess:
            found = torch.tensor(value, dtype=self.task.dtype)
            self._values[self._lr_name].copy_(found if self._lr_name == "lr" else found.log())

    def _labels_for(self, segment: Segment) -> Tensor | None:
        """The label logits [M, K] with which a segment is matched; None for classes."""
        return self._assigned(segment) if self._assigns_labels else self._values.get("soft_labels")

    def _unroll(
        self, loop: InnerLoop, segment: Segment, lr: Tensor, own_labels: Tensor | None
    ) -> tuple[InnerTrajectory, Tensor, Tensor]:
        """The inner steps from the start of a segment, their matching loss and its gradient by where they end."""
        trajectory = unroll(loop, segment.start, lr, *self._trained_on(own_labels))
        ends = trajectory.params[-1], segment.target, segment.start
        return trajectory, *matching_loss(*ends, self.config.matched_fraction)

    def _match(self, segment: Segment, own_labels: Tensor | None) -> tuple[float, InnerGradients | None]:
        """The loss of one segment; gradients only where the update is to be made."""
        lr, loop = self._lr, self._inner_loop(self.iteration)
        trajectory, loss, cotangent = self._unroll(loop, segment, lr, own_labels)
        bound = math.inf if self.config.threshold is None else self.config.threshold
        if not (loss.isfinite() and loss <= bound):
            return float(loss), None
        gradients = adjoint(loop, trajectory, lr, *self._trained_on(own_labels), cotangent)
        finite = all(
            bool(g.isfinite().all()) for g in (gradients.images, gradients.labels, gradients.lr) if g is not None
        )
        return float(loss), gradients if finite else None

    def _inner_loop(self, iteration: int) -> InnerLoop:
        """The steps of an iteration, with this worker's share of each."""
        config, key, first = self.config, self.key.child("inner", iteration), len(self._frozen_images)
        num_images = len(self._earlier_labels) + len(self._labels)
        batch_size = min(config.synthetic_batch_size or len(self._labels), num_images)
        steps = []
        for t, batch in enumerate(draw_batches(key, num_images, batch_size, config.synthetic_steps)):
            draw, share = partial(self._augmentation.draw, key.child("augment", t)), shard(batch)
            learned = share[share >= first]
            frozen = self._frozen_rows(share[share < first], draw) if first else None
            steps.append(InnerStep((learned - first).to(self.task.device), len(batch), draw(learned), frozen))
        curvature, last_steps = inner_gradient(config.gradient)
        return InnerLoop(self._steps(batch_size), steps, self.task.kept_steps, curvature, last_steps)

    def _frozen_rows(self, index: Tensor, draw: Callable[[Tensor], Draw]) -> FrozenRows:
        return FrozenRows(self._frozen_images, self._earlier_labels, index.to(self.task.device), draw(index))

    def _steps(self, batch_size: int) -> Steps:
        """How this worker computes its share of a batch."""
        share = len(shard(torch.arange(batch_size)))
        rows = min(share, self.task.rows_at_once or share)
        if self.task.compiled and self._compiled is None:
            self._compiled = WrittenSteps.of(self._network, self.task.network, self.task.data.shape, rows)
        loss = soft_cross_entropy if "soft_labels" in self._values else hard_cross_entropy
        steps = self._compiled or DifferentiatedSteps(self._network, loss)
        return steps if rows == share else PiecewiseSteps(steps, rows)

    def _update(self, gradients: InnerGradients, own_labels: Tensor | None) -> None:
        """One momentum step on everything learned; rolled back where the step size would not stay positive."""
        if self.iteration >= self.good_iteration + self.config.max_consecutive_skips:
            self._learned.mark()
            self.good_iteration = self.iteration
        if self._assigns_labels and own_labels is not None:
            self._values["soft_labels"] = own_labels
        num_own = len(self._labels)
        by_name = {
            "images": gradients.images[-num_own:],
            "earlier": gradients.images[:-num_own],
            "lr": gradients.lr,
            "log_lr": gradients.lr * self._lr,
        }
        if gradients.labels is not None:
            by_name["soft_labels"] = gradients.labels[-num_own:]
        self._learned.step(by_name, 0.5**self.rollbacks)
        if not self._lr > 0:
            self._roll_back(f"the learned step size fell to {float(self._lr):g}")
            return
        if self._ema_decay is not None:
            self._values["ema"] = moving_average(self._values["ema"], self._values["images"], self._ema_decay)
        self.consecutive_skips = 0

    def _count_skip(self, loss: float) -> None:
        self.consecutive_skips += 1
        skips = f"{self.consecutive_skips} updates in a row were skipped (loss {loss:.3g})"
        if not math.isfinite(loss):
            self._roll_back(f"the matching loss is {loss}")
        elif self.consecutive_skips >= self.config.max_consecutive_skips:
            self._roll_back(skips)
        elif self._learned.is_unmoved and (
            self.consecutive_skips >= _FIRST_SKIPS or self.iteration + 1 == self.config.iterations
        ):
            self._fall_back()
            bound = self.config.threshold
            above = bound is not None and loss > bound
            why = f"lie above method.threshold ({bound:g})" if above else "have gradients that are not finite"
            raise RunError(
                f"iteration {self.iteration}: nothing is learned: {skips}, whose matching losses {why}, and no set is "
                "made; let method.synthetic_lr_init be auto or lower it (run again as it is, it goes on with half of "
                "it), raise method.images_per_class, experts.training.epochs or the threshold"
            )

    def _roll_back(self, reason: str) -> None:
        self._fall_back()
        if self.rollbacks > self.config.max_rollbacks:
            raise RunError(
                f"iteration {self.iteration}: {reason}, after {self.rollbacks - 1} roll-backs; "
                "lower method.image_lr or method.synthetic_lr_lr, or method.synthetic_lr_init if it began like this; "
                "run again as it is, it goes on with half the step size"
            )

    def _fall_back(self) -> None:
        """The last good state, with half the step size: what follows would be the same again otherwise."""
        self._learned.fall_back()
        value = self._values[self._lr_name]
        value.copy_(value / 2 if self._lr_name == "lr" else value - math.log(2))
        self._learned.mark()
        self.rollbacks += 1
        self.consecutive_skips = 0

    @torch.no_grad()
    def _assigned(self, segment: Segment) -> Tensor:
        """The logits [M, K] that the end of a segment gives the images as they are, un-augmented (TESLA)."""
        chunks = self._values["images"].split(_ASSIGNED_AT_ONCE)
        return torch.cat([self._network(segment.target, chunk) for chunk in chunks])

    def _trained_on(self, own_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The images that are learned, with their labels: the stage's own, behind earlier ones where those are too."""
        images, earlier = self._values["images"], self._values.get("earlier")
        labels = self._labels.to(self.task.device) if own_labels is None else own_labels
        if earlier is None:
            return images, labels
        return torch.cat([earlier, images]), torch.cat([self._earlier_labels, labels])

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.task.device, self.task.dtype, copy=True)


def _exported(tensor: Tensor) -> Tensor:
    """A copy as synthetic sets have it."""
    return tensor.detach().float().cpu().clone()
