"""The one epoch loop: minibatch SGD on labelled images, for experts, students and whatever else is trained.

Letters: N images, B batch, K classes, C H W.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raydd import random
from raydd.augment import augmentation
from raydd.errors import ConfigError, RunError
from raydd.functional import hard_cross_entropy, soft_cross_entropy
from raydd.random import Key


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    epochs: int = 50
    lr: float | None = 0.01
    """Step size; null takes the one that the synthetic set learned."""
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 256
    """Images a step, shuffled every epoch; the last, smaller batch is kept."""
    schedule: Literal["constant", "step"] = "constant"
    """step: a tenth of the step size and a fresh optimiser after the first half, as the papers' evaluation does."""
    augmentation: str = "dsa"
    """none, dsa, or some of DSA's groups: color_crop_cutout_flip_scale_rotate."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1:
            raise ConfigError("epochs", f"must be at least 1, is {self.epochs}")
        if self.batch_size < 1:
            raise ConfigError("batch_size", f"must be at least 1, is {self.batch_size}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError("lr", f"must be positive, is {self.lr}")
        augmentation(self.augmentation)

    @property
    def decay_epoch(self) -> int:
        """The first epoch at a tenth of the step size under the `step` schedule.

        The papers' loop runs epochs 0 .. E and decays at the end of epoch E // 2 + 1; with their E = epochs - 1.
        """
        return (self.epochs - 1) // 2 + 2

    def steps(self, num_images: int) -> int:
        """Optimiser steps of the whole training on `num_images` images."""
        return self.epochs * math.ceil(num_images / self.batch_size)


@dataclass(frozen=True)
class EpochResult:
    """Running means over one epoch of training, under augmentation."""

    loss: float
    accuracy: float


class Training:
    """A network being trained; every draw is keyed by epoch and step, so that any epoch can be the first."""

    def __init__(
        self, module: nn.Module, images_NCHW: Tensor, targets: Tensor, recipe: Recipe, key: Key, lr: float | None = None
    ) -> None:
        """Set up the training of `module` in place.

        Args:
            module: the network, on the device to train on.
            images_NCHW: the images in network space; may be memory-mapped.
            targets: class indices int64 [N], or label logits [N, K] for soft cross entropy.
            recipe: optimiser, batches, schedule and augmentation.
            key: of this training's draws.
            lr: the step size where the recipe leaves it open.
        """
        step_size = recipe.lr if recipe.lr is not None else lr
        if step_size is None:
            raise ConfigError("lr", "this set has learned no step size: give the recipe one")
        self.module = module
        self.images = images_NCHW
        self.targets = targets
        self.recipe = recipe
        self.key = key
        self.lr = step_size
        self._augmentation = augmentation(recipe.augmentation)
        self._loss = soft_cross_entropy if targets.is_floating_point() else hard_cross_entropy
        self._classes = targets.argmax(1) if targets.is_floating_point() else targets
        self._optimizer = torch.optim.SGD(
            module.parameters(), lr=step_size, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def run_epoch(self, epoch: int) -> EpochResult:
        """Train for one epoch.

        Raises:
            RunError: the loss is not finite any more.
        """
        self._follow_schedule(epoch)
        device = next(self.module.parameters()).device
        order = random.permutation(self.key.child("order", epoch), len(self.images))
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        self.module.train()
        for step, index in enumerate(order.split(self.recipe.batch_size)):
            draw = self._augmentation.draw(self.key.child("augment", epoch, step), index)
            images, targets = draw(self.images[index].to(device)), self.targets[index].to(device)
            logits = self.module(images)
            loss = self._loss(logits, targets)
            self._optimizer.zero_grad(set_to_none=True)
            (loss / len(index)).backward()
            self._optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == self._classes[index].to(device)).sum()
        result = EpochResult(float(loss_sum) / len(self.images), float(correct) / len(self.images))
        if not math.isfinite(result.loss):
            raise RunError(f"the training loss is {result.loss} in epoch {epoch} (step size {self.lr:g})")
        return result

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, buffers and momenta: a copy from which training goes on exactly."""
        state = {f"module.{name}": tensor.clone() for name, tensor in self.module.state_dict().items()}
        for number, parameter in enumerate(self.module.parameters()):
            buffer = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                state[f"momentum.{number}"] = buffer.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        module = {name.removeprefix("module."): t for name, t in state.items() if name.startswith("module.")}
        self.module.load_state_dict(module)
        self._optimizer.state.clear()
        for number, parameter in enumerate(self.module.parameters()):
            if f"momentum.{number}" in state:
                momentum = state[f"momentum.{number}"].to(parameter.device, copy=True)
                self._optimizer.state[parameter]["momentum_buffer"] = momentum

    def _follow_schedule(self, epoch: int) -> None:
        """Set the epoch's step size; where it falls, the optimiser forgets its momenta."""
        decay_epoch = self.recipe.decay_epoch
        if self.recipe.schedule == "constant" or epoch < decay_epoch:
            return
        if epoch == decay_epoch:
            self._optimizer.state.clear()
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * 0.1


@torch.no_grad()
def predict(module: nn.Module, images_NCHW: Tensor, batch_size: int = 256) -> Tensor:
    """Logits float32 [N, K] of un-augmented images, in evaluation mode, on the CPU."""
    device = next(module.parameters()).device
    module.eval()
    return torch.cat([module(batch.to(device)).float().cpu() for batch in images_NCHW.split(batch_size)])


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is their class."""
    return float((logits_NK.argmax(1) == labels_N).double().mean())
