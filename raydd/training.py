"""The one epoch loop: minibatch SGD on labelled images, for experts, students and whatever else is trained.

Letters: N images, B batch, K classes, C H W.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raydd import compiling, gsam, random
from raydd.augment import augmentation
from raydd.errors import ConfigError, RunError
from raydd.functional import hard_cross_entropy, soft_cross_entropy
from raydd.packing import Pack
from raydd.random import Key

FEW_STEPS = 10
"""An epoch of at most so many whole batches is short enough for the last one to be compiled for its own size."""


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
    gsam_rho: float = 0.0
    """[rho_max] how far GSAM looks aside for its second gradient, which doubles a step's work; FTD and DATM: 0.01."""
    gsam_alpha: float = 0.0
    """[alpha] how much GSAM narrows the gap to the loss there; FTD and DATM: 0.3. Plain SGD where both are 0."""
    gsam_adaptive: bool = True
    """[adaptive] whether GSAM looks further along large parameters."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1:
            raise ConfigError("epochs", f"must be at least 1, is {self.epochs}")
        if self.batch_size < 1:
            raise ConfigError("batch_size", f"must be at least 1, is {self.batch_size}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError("lr", f"must be positive, is {self.lr}")
        for name in ("gsam_rho", "gsam_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(name, f"must be 0 or larger, is {getattr(self, name)}")
        augmentation(self.augmentation)

    @property
    def is_gsam(self) -> bool:
        """Whether a step is GSAM's, of two gradients."""
        return self.gsam_rho > 0 or self.gsam_alpha > 0

    @property
    def passes(self) -> int:
        """Gradients that a step takes."""
        return 2 if self.is_gsam else 1

    def identity(self) -> dict[str, Any]:
        """What determines a training, for content keys: GSAM's fields only where a step is GSAM's."""
        values = asdict(self)
        return values if self.is_gsam else {name: values[name] for name in values if not name.startswith("gsam_")}

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


@dataclass(frozen=True)
class Batch:
    """What one step is on; of a pack of networks everything has a first dimension E."""

    images: Tensor
    """[B, C, H, W], augmented."""
    targets: Tensor
    """int64 [B] classes or [B, K] label logits."""
    size: int
    """B"""


class Training:
    """Networks being trained side by side, each as if it were alone.

    Every draw is keyed by epoch and step, so that any epoch can be the first.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        images_NCHW: Tensor,
        targets: Tensor,
        recipe: Recipe,
        keys: Sequence[Key],
        lr: float | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        """Set up the training of the modules in place.

        Args:
            modules: E networks of one architecture, on the device to train on; several are trained as one `Pack`.
            images_NCHW: the images in network space; may be memory-mapped. Another device gets one copy of them.
            targets: class indices int64 [N], or label logits [N, K] for soft cross entropy.
            recipe: optimiser, batches, schedule and augmentation.
            keys: of each network's draws.
            lr: the step size where the recipe leaves it open.
            compiled: whether steps are compiled; results then differ in the last digits. A last, smaller batch is
                left out where epochs are long.
        """
        step_size = recipe.lr if recipe.lr is not None else lr
        if step_size is None:
            raise ConfigError("lr", "this set has learned no step size: give the recipe one")
        device = next(modules[0].parameters()).device
        self.modules = tuple(modules)
        self.images = images_NCHW.to(device)
        self.targets = targets.to(device)
        self.recipe = recipe
        self.keys = tuple(keys)
        self.lr = step_size
        self._network = modules[0] if len(modules) == 1 else Pack(modules)
        self._augmentation = augmentation(recipe.augmentation)
        self._compiled_sizes = self._sizes_worth_compiling() if compiled else frozenset()
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=step_size, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def run_epoch(self, epoch: int) -> list[EpochResult]:
        """Train for one epoch; returns one result a network.

        Raises:
            RunError: a loss is not finite any more.
        """
        self._follow_schedule(epoch)
        device, num_images = self.images.device, len(self.images)
        orders = [random.permutation(key.child("order", epoch), num_images, device) for key in self.keys]
        batches = zip(*(order.split(self.recipe.batch_size) for order in orders), strict=True)
        sums = torch.zeros(2, len(self.modules), device=device)
        self._network.train()
        for step, rows in enumerate(batches):
            sums += self._step(epoch, step, rows)
        if isinstance(self._network, Pack):
            self._network.push()
        results = [EpochResult(loss / num_images, correct / num_images) for loss, correct in sums.T.tolist()]
        for result in results:
            if not math.isfinite(result.loss):
                raise RunError(f"the training loss is {result.loss} in epoch {epoch} (step size {self.lr:g})")
        return results

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Each network's parameters, buffers and momenta: a copy from which training goes on exactly."""
        states = []
        for member, module in enumerate(self.modules):
            state = {f"module.{name}": tensor.clone() for name, tensor in module.state_dict().items()}
            for number, parameter in enumerate(self._network.parameters()):
                buffer = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
                if buffer is not None:
                    state[f"momentum.{number}"] = (buffer[member] if len(self.modules) > 1 else buffer).clone()
            states.append(state)
        return states

    def load_state_dicts(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what `state_dicts` returned, all after the same epoch."""
        for module, state in zip(self.modules, states, strict=True):
            own = {name.removeprefix("module."): t for name, t in state.items() if name.startswith("module.")}
            module.load_state_dict(own)
        if isinstance(self._network, Pack):
            self._network.pull()
        self._optimizer.state.clear()
        for number, parameter in enumerate(self._network.parameters()):
            if f"momentum.{number}" in states[0]:
                momenta = torch.stack([state[f"momentum.{number}"].to(parameter.device) for state in states])
                self._optimizer.state[parameter]["momentum_buffer"] = momenta.view_as(parameter)

    def _step(self, epoch: int, step: int, rows: Sequence[Tensor]) -> Tensor:
        """One update of every network by its own rows int64 [B]; returns summed losses and numbers correct [2, E]."""
        draws = [
            self._augmentation.draw(key.child("augment", epoch, step), row)
            for key, row in zip(self.keys, rows, strict=True)
        ]
        images = [draw(self.images[row]) for draw, row in zip(draws, rows, strict=True)]
        targets = [self.targets[row] for row in rows]
        packed = len(self.modules) > 1
        batch = Batch(
            torch.stack(images) if packed else images[0], torch.stack(targets) if packed else targets[0], len(rows[0])
        )
        measured = self._backward(batch)
        if self.recipe.is_gsam:
            self._sharpen(batch)
        self._optimizer.step()
        return measured

    def _backward(self, batch: "Batch") -> Tensor:
        """Set the gradients of the mean loss; returns summed losses and numbers correct [2, E]."""
        chosen = _compiled_measure() if batch.size in self._compiled_sizes else measure
        losses, correct = chosen(self._network, batch.images, batch.targets)
        self._optimizer.zero_grad(set_to_none=True)
        (losses.sum() / batch.size).backward()
        return torch.stack([losses.detach(), correct]).view(2, -1)

    def _sizes_worth_compiling(self) -> frozenset[int]:
        """The sizes of batches; that of the last one where it is one in few."""
        whole, last = self.recipe.batch_size, len(self.images) % self.recipe.batch_size
        if len(self.images) > FEW_STEPS * whole:
            return frozenset([whole])
        return frozenset([min(whole, len(self.images)), last or whole])

    @torch.no_grad()
    def _sharpen(self, batch: "Batch") -> None:
        """Turn the gradients into GSAM's by a second look at the same batch, which leaves no other trace."""
        recipe, parameters = self.recipe, list(self._network.parameters())
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        before, gradient = self._flat(parameters), self._flat([_gradient(parameter) for parameter in parameters])
        moved = before + gsam.perturbation(before, gradient, recipe.gsam_rho, recipe.gsam_adaptive)
        self._unflatten(moved, parameters)
        with torch.enable_grad():
            self._backward(batch)
        gradients = [_gradient(parameter) for parameter in parameters]
        self._unflatten(gsam.descent(gradient, self._flat(gradients), recipe.gsam_alpha), gradients)
        self._unflatten(before, parameters)
        for buffer, kept in zip(self._network.buffers(), buffers, strict=True):
            buffer.copy_(kept)

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of every network one vector [E, P], a copy."""
        return torch.cat([tensor.detach().reshape(len(self.modules), -1) for tensor in tensors], 1)

    def _unflatten(self, vectors_EP: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy the vectors [E, P] back into the tensors."""
        pieces = vectors_EP.split([tensor.numel() // len(self.modules) for tensor in tensors], 1)
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.reshape(tensor.shape))

    def _follow_schedule(self, epoch: int) -> None:
        """Set the epoch's step size; where it falls, the optimiser forgets its momenta."""
        decay_epoch = self.recipe.decay_epoch
        if self.recipe.schedule == "constant" or epoch < decay_epoch:
            return
        if epoch == decay_epoch:
            self._optimizer.state.clear()
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * 0.1


def measure(network: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a batch, summed over its samples, and how many are classified correctly.

    Args:
        network: one network, or a `Pack` of E.
        images: [B, C, H, W]; for a pack [E, B, C, H, W].
        targets: int64 [B] classes or [B, K] label logits; for a pack [E, B] or [E, B, K].

    Returns:
        Two scalars; for a pack two [E].
    """
    soft = targets.is_floating_point()
    loss = soft_cross_entropy if soft else hard_cross_entropy
    logits: Tensor = network(images)
    correct = logits.detach().argmax(-1) == (targets.argmax(-1) if soft else targets)
    return (torch.vmap(loss) if logits.ndim == 3 else loss)(logits, targets), correct.sum(-1)


@cache
def _compiled_measure() -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """One for the whole process, so that what was compiled for a network serves all of its architecture."""
    return compiling.compiled(measure)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@torch.no_grad()
def predict(module: nn.Module, images_NCHW: Tensor, batch_size: int = 256) -> Tensor:
    """Logits float32 [N, K] of un-augmented images, in evaluation mode, on the CPU."""
    device = next(module.parameters()).device
    module.eval()
    return torch.cat([module(batch.to(device)).float().cpu() for batch in images_NCHW.split(batch_size)])


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is their class."""
    return float((logits_NK.argmax(1) == labels_N).double().mean())
