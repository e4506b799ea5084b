"""Trajectory matching: make T steps on synthetic images end where M epochs on real ones did.

Source: MTT (Cazenavette et al. 2022, equation 2): L = |theta_T - theta*_{s+M}|^2 / |theta*_s - theta*_{s+M}|^2, with
theta_0 = theta*_s. What methods differ in (start epochs, initial images and labels) comes from outside.

Letters: M synthetic images, F frozen ones before them, B batch, K classes, P flat parameters, T inner steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd import networks, random
from raydd.augment import Augmentation, augmentation
from raydd.errors import ConfigError, RunError
from raydd.functional import (
    FlatNetwork,
    InnerGradients,
    InnerLoop,
    InnerStep,
    adjoint,
    hard_cross_entropy,
    shard,
    soft_cross_entropy,
    unroll,
)
from raydd.methods.base import Start, State, Task
from raydd.random import Key
from raydd.synthetic import SyntheticSet

Window = Callable[[int], tuple[int, int]]
"""From the outer iteration to the start epochs [low, high) that may be drawn."""


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """What all trajectory-matching methods share; in brackets the names of the papers' flags."""

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
    """[batch_syn] B, images of one inner step; all of them by default."""
    image_lr: float = 100.0
    """[lr_img]"""
    synthetic_lr_init: float = 0.01
    """[lr_teacher] the learned step size at the start."""
    synthetic_lr_lr: float = 1e-5
    """[lr_lr] the rate at which the step size itself is learned."""
    momentum: float = 0.5
    """Of images and step size."""
    threshold: float | None = None
    """[threshold] a larger matching loss skips the update; null never does."""
    max_consecutive_skips: int = 50
    """After so many skipped updates in a row the last good state is restored and all rates are halved."""
    max_rollbacks: int = 3
    """How often that may happen before the run stops."""
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
        if not self.synthetic_lr_init > 0:
            raise ConfigError("method.synthetic_lr_init", f"must be positive, is {self.synthetic_lr_init}")
        augmentation(self.augmentation)

    def check(self, trajectory_epochs: int) -> None:
        """See that every segment lies inside trajectories of that many epochs."""
        last = self.max_start_epoch - 1 + self.expert_epochs
        if last > trajectory_epochs:
            raise ConfigError(
                "method.max_start_epoch",
                f"the latest segment starts at epoch {self.max_start_epoch - 1} and spans {self.expert_epochs} "
                f"(method.expert_epochs), to epoch {last}, beyond the {trajectory_epochs} of experts.training.epochs",
            )


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
        batches.extend(reversed(random.permutation(key.child("order", cycle), num_images).split(batch_size)))
    return batches[:steps]


def matching_loss(final_P: Tensor, target_P: Tensor, start_P: Tensor) -> tuple[Tensor, Tensor]:
    """MTT's equation 2, and its gradient with respect to `final`.

    Returns:
        The loss |final - target|^2 / |start - target|^2 (scalar) and 2 (final - target) / |start - target|^2 [P].
    """
    distance = (start_P - target_P).square().sum()
    difference = final_P - target_P
    return difference.square().sum() / distance, 2 * difference / distance


_COUNTERS = ("iteration", "consecutive_skips", "rollbacks", "good_iteration")


class TrajectoryMatching:
    """Learns images, step size and, where they are soft, labels by matching expert segments."""

    units = 1

    def __init__(
        self,
        config: MatchingConfig,
        task: Task,
        start: Start,
        key: Key,
        *,
        images_MCHW: Tensor,
        labels_M: Tensor,
        soft_labels_MK: Tensor | None,
        label_lr: float,
        label_momentum: float,
        window: Window,
    ) -> None:
        """Begin at the given images and labels.

        Args:
            config: everything that the methods share.
            task: data, network and expert trajectories.
            start: frozen earlier parts.
            key: of this stage's draws.
            images_MCHW: the starting images, in network space.
            labels_M: their classes.
            soft_labels_MK: their label logits, which are then learned; None matches with hard labels.
            label_lr: the rate of the labels.
            label_momentum: their momentum.
            window: the start epochs allowed at an iteration.
        """
        self.config, self.task, self.start, self.key = config, task, start, key
        self.iteration = 0
        self.consecutive_skips = 0
        self.rollbacks = 0
        self.good_iteration = 0
        self._trajectories = task.require_trajectories()
        module = networks.build(task.network, task.data.shape, task.data.num_classes)
        self._network = FlatNetwork(module.to(task.device, task.dtype))
        self._labels = labels_M
        self._soft = soft_labels_MK is not None
        self._window = window
        self._augmentation: Augmentation = augmentation(config.augmentation)
        self._rates = {"images": config.image_lr, "lr": config.synthetic_lr_lr, "soft_labels": label_lr}
        self._momenta = {"images": config.momentum, "lr": config.momentum, "soft_labels": label_momentum}
        self._learned = {
            "images": self._own(images_MCHW),
            "lr": self._own(torch.tensor(config.synthetic_lr_init, dtype=task.dtype)),
        }
        if soft_labels_MK is not None:
            self._learned["soft_labels"] = self._own(soft_labels_MK)
        self._velocity = {name: torch.zeros_like(value) for name, value in self._learned.items()}
        self._good = self._snapshot()

    def step(self) -> dict[str, float]:
        """Match one expert segment; returns loss, step size, and what was drawn and skipped."""
        iteration, (low, high) = self.iteration, self._window(self.iteration)
        expert = self._expert(iteration)
        epoch = random.integer(self.key.child("start epoch", iteration), low, high)
        loss, gradients = self._match(expert, epoch)
        skipped = gradients is None
        if gradients is None:
            self._count_skip(loss)
        else:
            self._update(gradients)
        self.iteration += 1
        return {
            "loss": loss,
            "learned_lr": float(self._learned["lr"]),
            "expert": expert,
            "start_epoch": epoch,
            "max_start_epoch": high,
            "skipped": int(skipped),
            "consecutive_skips": self.consecutive_skips,
            "rollbacks": self.rollbacks,
        }

    def result(self) -> SyntheticSet:
        """The images, labels and step size as they are now."""
        learned = {name: value.detach().float().cpu().clone() for name, value in self._learned.items()}
        return SyntheticSet(
            images=learned["images"],
            labels=self._labels.cpu(),
            soft_labels=learned.get("soft_labels"),
            stage=torch.full((len(self._labels),), self.start.stage, dtype=torch.int32),
            learned_lr=(float(learned["lr"]),),
            class_names=self.task.data.class_names,
            preprocessing=self.task.data.preprocessing,
        )

    def state_dict(self) -> State:
        """Images, labels, step size, momenta, counters and the state to fall back to."""
        good = {f"good.{name}": value.clone() for name, value in self._good.items()}
        return {**self._snapshot(), **good, **{name: getattr(self, name) for name in _COUNTERS}}

    def load_state_dict(self, state: State) -> None:
        """Continue from what `state_dict` returned."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self._good = {name.removeprefix("good."): self._own(t) for name, t in state.items() if name.startswith("good.")}
        self._restore({name: state[name] for name in self._good})

    def _match(self, expert: int, epoch: int) -> tuple[float, InnerGradients | None]:
        """The loss of one segment; gradients only where the update is to be made."""
        theta_0, target = (
            self._own(self._trajectories.params(expert, e)) for e in (epoch, epoch + self.config.expert_epochs)
        )
        images, labels, lr = self._whole("images"), self._whole_labels(), self._learned["lr"]
        loss_of = soft_cross_entropy if self._soft else hard_cross_entropy
        loop = InnerLoop(self._network, loss_of, self._inner_steps(len(images)), self.task.kept_graphs)
        trajectory = unroll(loop, theta_0, lr, images, labels)
        loss, cotangent = matching_loss(trajectory.params[-1], target, theta_0)
        bound = math.inf if self.config.threshold is None else self.config.threshold
        if not (loss.isfinite() and loss <= bound):
            return float(loss), None
        gradients = adjoint(loop, trajectory, lr, images, labels, cotangent)
        finite = all(
            bool(g.isfinite().all()) for g in (gradients.images, gradients.labels, gradients.lr) if g is not None
        )
        return float(loss), gradients if finite else None

    def _inner_steps(self, num_images: int) -> list[InnerStep]:
        key = self.key.child("inner", self.iteration)
        batch_size = min(self.config.synthetic_batch_size or num_images, num_images)
        steps = []
        for t, batch in enumerate(draw_batches(key, num_images, batch_size, self.config.synthetic_steps)):
            index = shard(batch)
            draw = self._augmentation.draw(key.child("augment", t), index)
            steps.append(InnerStep(index.to(self.task.device), len(batch), draw))
        return steps

    def _update(self, gradients: InnerGradients) -> None:
        """One momentum step on everything learned; rolled back where the step size would not stay positive."""
        if self.iteration >= self.good_iteration + self.config.max_consecutive_skips:
            self._good, self.good_iteration = self._snapshot(), self.iteration
        own = {"images": gradients.images, "lr": gradients.lr, "soft_labels": gradients.labels}
        for name, value in self._learned.items():
            gradient = own[name]
            assert gradient is not None
            if name != "lr":
                gradient = gradient[-len(value) :]
            self._velocity[name].mul_(self._momenta[name]).add_(gradient)
            value.sub_(self._velocity[name], alpha=self._rates[name] * 0.5**self.rollbacks)
        if not self._learned["lr"] > 0:
            self._roll_back(f"the learned step size fell to {float(self._learned['lr']):g}")
            return
        self.consecutive_skips = 0

    def _count_skip(self, loss: float) -> None:
        self.consecutive_skips += 1
        if not math.isfinite(loss):
            self._roll_back(f"the matching loss is {loss}")
        elif self.consecutive_skips >= self.config.max_consecutive_skips:
            self._roll_back(f"{self.consecutive_skips} updates in a row were skipped (loss {loss:.3g})")

    def _roll_back(self, reason: str) -> None:
        if self.rollbacks == self.config.max_rollbacks:
            self._restore(self._good)
            raise RunError(
                f"iteration {self.iteration}: {reason}, after {self.rollbacks} roll-backs; "
                f"lower method.image_lr or method.synthetic_lr_lr"
            )
        self.rollbacks += 1
        self.consecutive_skips = 0
        self._restore(self._good)

    def _snapshot(self) -> dict[str, Tensor]:
        velocity = {f"velocity.{name}": value.clone() for name, value in self._velocity.items()}
        return {**{name: value.clone() for name, value in self._learned.items()}, **velocity}

    def _restore(self, snapshot: dict[str, Tensor]) -> None:
        for name in self._learned:
            self._learned[name] = self._own(snapshot[name])
            self._velocity[name] = self._own(snapshot[f"velocity.{name}"])

    def _expert(self, iteration: int) -> int:
        """Every expert once before any is used again, in an order drawn anew each time."""
        cycle, position = divmod(iteration, self.task.num_experts)
        return int(random.permutation(self.key.child("experts", cycle), self.task.num_experts)[position])

    def _whole(self, name: str) -> Tensor:
        """What is learned, behind the frozen earlier parts."""
        frozen = self.start.frozen
        if frozen is None:
            return self._learned[name]
        before = frozen.images if name == "images" else frozen.soft_labels
        assert before is not None
        return torch.cat([self._own(before), self._learned[name]])

    def _whole_labels(self) -> Tensor:
        if self._soft:
            return self._whole("soft_labels")
        labels = self._labels if self.start.frozen is None else torch.cat([self.start.frozen.labels, self._labels])
        return labels.to(self.task.device)

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.task.device, self.task.dtype, copy=True)
