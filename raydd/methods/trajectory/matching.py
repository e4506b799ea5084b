"""Trajectory matching: make T steps on synthetic images end where M epochs on real ones did. Configuration, equations.

Source: MTT (Cazenavette et al. 2022, equation 2): L = |theta_T - theta*_{s+M}|^2 / |theta*_s - theta*_{s+M}|^2, with
theta_0 = theta*_s. Of its parts PAD (Li et al. 2024) compares the deep ones alone.

Letters: M synthetic images, B batch, K classes, P flat parameters, T inner steps.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.defaults import MethodDefaults
from raydd.methods.initial import masked_mean_logits
from raydd.methods.trajectory.cost import Matching, matching_cost
from raydd.methods.trajectory.step_size import MEASURED_SEGMENTS, MOST_HALVINGS, first_step_size
from raydd.training.dsa import augmentation


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(MethodDefaults):
    """What all trajectory-matching methods share; in brackets the names of the papers' flags."""

    learns_step_size: ClassVar[bool] = True
    images_per_class: int = 10
    """[ipc] synthetic images of each class."""
    iterations: int = 10_000
    """[Iteration] outer updates."""
    synthetic_steps: int = 80
    """[syn_steps] T, inner SGD steps on synthetic images."""
    expert_epochs: int = 2
    """[expert_epochs] epochs of the expert that the inner steps imitate."""
    min_start_epoch: int = 0
    """[min_start_epoch] the first epoch of the expert at which a segment may start."""
    max_start_epoch: int = 20
    """[max_start_epoch] the first epoch at which none starts any more: an exclusive bound."""
    synthetic_batch_size: int | None = None
    """[batch_syn] B, images of one inner step; as many as there are by default, those of earlier stages not counted,
    which are drawn among them all the same."""
    image_lr: float = 100.0
    """[lr_img]"""
    synthetic_lr_init: float | Literal["auto"] = 0.01
    """[lr_teacher] the learned step size at the start. auto: the experts' own, or, where a segment has fewer steps of
    theirs than twice the inner steps (a few hundred images), so much less that the inner steps go half as far. Where a
    few segments show that this is too large, as on most photographs, the half, quarter, ... that lowers their matching
    loss best (`raydd/methods/trajectory/step_size.py`)."""
    synthetic_lr_lr: float = 1e-5
    """[lr_lr] the rate at which the step size itself is learned, in the space that synthetic_lr_space names."""
    synthetic_lr_space: Literal["linear", "log"] = "linear"
    """linear: the step size is learned as it is, as published. log: its logarithm is, so that it stays positive; the
    same rate moves a step size a about a^2 times as far as linearly, so that rates are larger here by 1 / a^2."""
    gradient: str = "exact"
    """exact: of all inner steps. tesla: TESLA's, which takes each step's parameters for constants. truncated:k: exact
    through the last k steps, as if the parameters before them were constants."""
    matched_fraction: float = 1.0
    """Of the parameters, counted from the deep end (the last ones of the flat vector), that enter the loss (PAD: one
    minus its depth_ratio). The cut is made at that very parameter, inside a layer's tensor where it falls there."""
    momentum: float = 0.5
    """Of images and step size."""
    threshold: float | None = None
    """[threshold] a larger matching loss skips the update; null never does."""
    max_consecutive_skips: int = 50
    """After so many skipped updates in a row the last good state is restored, with half the step size, and all rates
    are halved. Where nothing has been learned yet the run stops after ten."""
    max_rollbacks: int = 3
    """How often that may happen before the run stops; run again, it goes on with half the step size."""
    augmentation: str = "dsa"
    """none, dsa, or some of DSA's groups: color_crop_cutout_flip_scale_rotate."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("images_per_class", "iterations", "synthetic_steps", "expert_epochs", "max_consecutive_skips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name}", f"must be at least 1, is {getattr(self, name)}")
        if self.synthetic_batch_size is not None and self.synthetic_batch_size < 1:
            raise ConfigError("method.synthetic_batch_size", f"must be at least 1, is {self.synthetic_batch_size}")
        if not 0 <= self.min_start_epoch < self.max_start_epoch:
            raise ConfigError(
                "method.max_start_epoch",
                f"must be larger than min_start_epoch ({self.min_start_epoch}), is {self.max_start_epoch}",
            )
        if self.synthetic_lr_init != "auto" and not self.synthetic_lr_init > 0:
            raise ConfigError("method.synthetic_lr_init", f"must be positive, is {self.synthetic_lr_init}")
        if not 0 < self.matched_fraction <= 1:
            raise ConfigError("method.matched_fraction", f"must be above 0 and at most 1, is {self.matched_fraction}")
        inner_gradient(self.gradient)
        augmentation(self.augmentation)

    @property
    def has_soft_labels(self) -> bool:
        """Whether the set's labels are logits; if not, they are classes."""
        return False

    @property
    def has_learned_lr(self) -> bool:
        """Always: the inner loop's."""
        return True

    @property
    def made_first(self) -> tuple[str, ...]:
        """Expert trajectories."""
        return ("experts",)

    @property
    def labels_real(self) -> bool:
        """As experts do."""
        return self.has_soft_labels

    def at_window(self, number: int) -> Self:
        """Start epochs as many windows later."""
        return self.moved(number * (self.max_start_epoch - self.min_start_epoch))

    def step_images(self, num_classes: int) -> int | None:
        """`synthetic_batch_size`, where it is given."""
        return self.synthetic_batch_size

    @property
    def unrolls(self) -> bool:
        """Through `synthetic_steps` of them."""
        return True

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1

    @property
    def has_average(self) -> bool:
        """Whether there is a second set, of the images averaged over the iterations."""
        return False

    @property
    def decoded_images(self) -> int:
        """Images that students see of each synthetic one."""
        return 1

    def epochs_read(self, last_epoch: int) -> set[int]:
        """The epochs of a trajectory that the method reads: where segments start and end, and the last."""
        starts = range(self.min_start_epoch, self.max_start_epoch)
        return {*starts, *(start + self.expert_epochs for start in starts), last_epoch}

    def moved(self, epochs: int) -> Self:
        """The same with its window of start epochs so many epochs later."""
        return replace(
            self, min_start_epoch=self.min_start_epoch + epochs, max_start_epoch=self.max_start_epoch + epochs
        )

    def check(self, trajectory_epochs: int) -> None:
        """See that every segment lies inside trajectories of that many epochs."""
        last = self.max_start_epoch - 1 + self.expert_epochs
        if last > trajectory_epochs:
            raise ConfigError(
                "method.max_start_epoch",
                f"the latest segment starts at epoch {self.max_start_epoch - 1} and spans {self.expert_epochs} "
                f"(method.expert_epochs), to epoch {last}, beyond the {trajectory_epochs} of experts.training.epochs",
            )

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes; earlier images are drawn into batches with the others, as many as there are new ones."""
        classes, (curvature, last_steps) = setting.facts.num_classes, inner_gradient(self.gradient)
        num_images = (self.images_per_class + setting.learned) * classes
        there = num_images + setting.frozen
        batch_size = min(self.synthetic_batch_size or self.images_per_class * classes, there)
        batches = draw_batches(Key.root(setting.seed), there, batch_size, self.synthetic_steps)
        matching = Matching(
            makes=f"outer iterations of {self.name}",
            iterations=self.iterations,
            num_images=num_images,
            batch_size=batch_size,
            batches=[len(batch) for batch in batches],
            differentiated=min(last_steps or self.synthetic_steps, self.synthetic_steps),
            curvature=curvature,
            soft=self.has_soft_labels,
            average=self.has_average,
            tried=MEASURED_SEGMENTS * (1 + MOST_HALVINGS) if self.synthetic_lr_init == "auto" else 0,
        )
        return matching_cost(matching, setting)

    def expert_labels(self, task: Task, images_MCHW: Tensor, labels_M: Tensor) -> Tensor:
        """Soft labels [M, K] of real images by the experts: what a set of this method has to be better than."""
        return masked_mean_logits(task, images_MCHW, labels_M)


def inner_gradient(text: str) -> tuple[bool, int | None]:
    """What `MatchingConfig.gradient` says: whether the recursion has its curvature, and its last steps (None: all).

    Raises:
        ConfigError: it says something else.
    """
    if text in ("exact", "tesla"):
        return text == "exact", None
    name, _, steps = text.partition(":")
    if name == "truncated" and steps.isdecimal() and int(steps) > 0:
        return True, int(steps)
    raise ConfigError("method.gradient", f"must be exact, tesla or truncated:k with k of 1 or more steps, is {text!r}")


def draw_batches(key: Key, num_images: int, batch_size: int, steps: int) -> list[Tensor]:
    """The rows of the inner steps: chunks of fresh permutations, the short chunk of each first.

    Args:
        key: of this outer iteration.
        num_images: rows to choose from.
        batch_size: rows of a chunk.
        steps: how many chunks.

    Returns:
        One int64 [b] a step, b <= batch_size. (The papers' code splits a permutation and takes chunks off its end.)
    """
    batches: list[Tensor] = []
    for cycle in range(steps):
        if len(batches) >= steps:
            break
        batches.extend(reversed(keyed_random.permutation(key.child("order", cycle), num_images).split(batch_size)))
    return batches[:steps]


def starting_step_size(config: MatchingConfig, task: Task) -> float:
    """The step size of the inner loop at first, which `auto` takes from the experts.

    Raises:
        ConfigError: nothing is known of theirs.
    """
    if config.synthetic_lr_init != "auto":
        return config.synthetic_lr_init
    recipe = task.require_trajectories().card.recipe
    if "lr" not in recipe or "batch_size" not in recipe:
        problem = "auto goes by the experts' step size, of which nothing is known here: give a number"
        raise ConfigError("method.synthetic_lr_init", problem)
    steps = config.expert_epochs * math.ceil(len(task.data.train) / recipe["batch_size"])
    return first_step_size(recipe["lr"], steps, config.synthetic_steps)


def matching_loss(
    final_P: Tensor, target_P: Tensor, start_P: Tensor, matched_fraction: float = 1.0
) -> tuple[Tensor, Tensor]:
    """MTT's equation 2, and its gradient with respect to `final`.

    Args:
        final_P: where the inner steps end.
        target_P: where the expert's epochs end.
        start_P: where both begin.
        matched_fraction: the part of the parameters, from the last one backwards, that is compared (PAD).

    Returns:
        The loss |final - target|^2 / |start - target|^2 (a scalar) and 2 (final - target) / |start - target|^2 [P],
        both over the part that is compared; the gradient is zero elsewhere.
    """
    shallow = len(final_P) - max(1, round(matched_fraction * len(final_P)))
    distance = (start_P - target_P)[shallow:].square().sum()
    difference = (final_P - target_P)[shallow:]
    return difference.square().sum() / distance, F.pad(2 * difference / distance, (shallow, 0))


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """One step of an exponential moving average: decay * average + (1 - decay) * value."""
    return decay * average + (1 - decay) * value
