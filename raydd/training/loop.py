"""The one epoch loop: minibatch SGD on labelled images, for experts, students and whatever else is trained.

Letters: N images, B batch, K classes, C H W.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydd.core import compilation
from raydd.core.distributed import all_reduce_sum
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.data.images import Images, as_images
from raydd.networks import Network, global_batch_norm
from raydd.training import gsam, optimizers
from raydd.training.batches import Batch, measure
from raydd.training.epochs import Epochs, Views
from raydd.training.recipe import Recipe
from raydd.training.stacked import Pack

FEW_STEPS = 10
"""An epoch of at most so many whole batches is short enough for the last one to be compiled for its own size."""


@dataclass(frozen=True)
class EpochResult:
    """Running means over one epoch of training, under augmentation."""

    loss: float
    accuracy: float

    @property
    def numbers(self) -> dict[str, float]:
        """Both under the names that files and curves have."""
        return {"train_loss": self.loss, "train_accuracy": self.accuracy}

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Self:
        """The result that has these `numbers`."""
        return cls(numbers["train_loss"], numbers["train_accuracy"])


class Training:
    """Networks being trained side by side, each as if it were alone.

    Every draw is keyed by epoch and step, so that any epoch can be the first.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        images: Images | Tensor,
        targets: Tensor,
        recipe: Recipe,
        keys: Sequence[Key],
        *,
        compiled: bool = False,
        views: Views | None = None,
        shared: bool = False,
    ) -> None:
        """Set up the training of the modules in place.

        Args:
            modules: E networks of one architecture, on the device to train on; several are trained as one `Pack`.
            images: N images; a tensor is in network space, and may be memory-mapped. Another device gets one copy of
                those that are resident; those that are not are asked for an epoch ahead, batch by batch.
            targets: class indices int64 [N], or soft labels [N, K]: logits, or what the squared loss compares with.
            recipe: optimiser, step size, batches, schedule and augmentation.
            keys: of each network's draws.
            compiled: whether steps are compiled; results then differ in the last digits. A last, smaller batch is
                left out where epochs are long.
            views: what steps train on in place of augmented images, which are not looked at then.
            shared: whether all workers of `torch.distributed` take the steps of one network together, each with its
                share of every batch's rows. What comes out does not depend on their number beyond rounding, and all of
                them hold the same: gradients are summed, and batch norm sees the whole batch.
        """
        assert len(modules) == 1 or not shared
        if recipe.views is not None and views is None:
            raise ConfigError("views", "only students that learn from a teacher's labels of each view have them")
        if recipe.lr is None:
            raise ConfigError("lr", "this set has learned no step size: give the recipe one")
        device = next(modules[0].parameters()).device
        self.modules = tuple(modules)
        self.images = as_images(images) if views is not None else as_images(images).to(device)
        self.targets = targets.to(device)
        self.recipe = recipe
        self.keys = tuple(keys)
        self.lr = recipe.lr
        self._workers = dist.get_world_size() if shared and dist.is_initialized() else 1
        for layer in (layer for module in modules for layer in module.modules()):
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = recipe.norm_momentum
        if self._workers > 1:
            global_batch_norm.convert(modules[0])
        self._network = modules[0] if len(modules) == 1 else Pack(modules)
        self._epochs = Epochs(self.images, self.targets, recipe, self.keys, views=views, shared=self._workers > 1)
        self._compiled_sizes = self._sizes_worth_compiling() if compiled else frozenset()
        self._optimizer = optimizers.build(
            recipe.optimizer,
            list(self._network.parameters()),
            recipe.lr,
            recipe.momentum,
            recipe.weight_decay,
            stacked=len(modules) > 1,
            decays_all=recipe.decays_all,
        )

    def run_epoch(self, epoch: int) -> list[EpochResult]:
        """Train for one epoch; returns one result a network.

        Raises:
            RunError: a loss is not finite any more.
        """
        self._follow_schedule(epoch)
        num_images = len(self.targets)
        sums = torch.zeros(2, len(self.modules), device=self.targets.device)
        self._network.train()
        with closing(self._epochs.batches(epoch)) as batches:
            for batch in batches:
                sums += self._step(batch)
        if self._workers > 1:
            all_reduce_sum(sums)
        if isinstance(self._network, Pack):
            self._network.push()
        results = [EpochResult(loss / num_images, correct / num_images) for loss, correct in sums.T.tolist()]
        for result in results:
            if not math.isfinite(result.loss):
                raise RunError(f"the training loss is {result.loss} in epoch {epoch} (step size {self.lr:g})")
        return results

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Each network's parameters, buffers and momenta: a copy from which training goes on exactly."""
        slots = optimizers.slots(self._optimizer, self._network.parameters())
        states = []
        for member, module in enumerate(self.modules):
            state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
            for name, tensor in slots.items():
                state[name] = tensor[member] if len(self.modules) > 1 and tensor.ndim else tensor
            states.append({name: tensor.clone() for name, tensor in state.items()})
        return states

    def load_state_dicts(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what `state_dicts` returned, all after the same epoch."""
        for module, state in zip(self.modules, states, strict=True):
            own = {name.removeprefix("module."): t for name, t in state.items() if name.startswith("module.")}
            module.load_state_dict(own)
        if isinstance(self._network, Pack):
            self._network.pull()
        names = [name for name in states[0] if not name.startswith("module.")]
        slots = {name: torch.stack([state[name] for state in states]) for name in names}
        optimizers.load_slots(self._optimizer, self._network.parameters(), slots)

    def _step(self, batch: Batch) -> Tensor:
        """One update of every network; returns summed losses and numbers correct [2, E]."""
        measured = self._backward(batch)
        if self.recipe.is_gsam:
            rho, alpha, adaptive = self.recipe.gsam_rho, self.recipe.gsam_alpha, self.recipe.gsam_adaptive
            gsam.sharpen(self._network, len(self.modules), lambda: self._backward(batch), rho, alpha, adaptive)
        self._optimizer.step()
        return measured

    def _backward(self, batch: Batch) -> Tensor:
        """Set the gradients of the mean loss; returns summed losses and numbers correct [2, E]."""
        chosen = _compiled_measure() if batch.size in self._compiled_sizes else measure
        recipe = self.recipe
        losses, correct = chosen(
            self._network, batch.images, batch.targets, recipe.temperature, *batch.mixed, kind=recipe.loss
        )
        self._optimizer.zero_grad(set_to_none=True)
        factor = recipe.temperature**2 if recipe.squares_temperature else 1.0
        (losses.sum() * factor / batch.size).backward()
        if self._workers > 1:
            optimizers.sum_gradients(self._network.parameters())
        return torch.stack([losses.detach(), correct]).view(2, -1)

    def _sizes_worth_compiling(self) -> frozenset[int]:
        """The sizes of batches, that of the last one where it is one in few; no worker's share of them is empty."""
        whole, num_images = self.recipe.batch_size, len(self.targets)
        few = num_images <= FEW_STEPS * whole
        sizes = [min(whole, num_images), num_images % whole or whole] if few else [whole]
        return frozenset(size for size in sizes if size >= self._workers)

    def _follow_schedule(self, epoch: int) -> None:
        """Set the epoch's step size; where `step` lowers it, the optimiser forgets its momenta."""
        recipe = self.recipe
        if recipe.schedule == "step" and epoch == recipe.decay_epoch:
            self._optimizer.state.clear()
        factor = optimizers.lr_factor(recipe.schedule, epoch, recipe.epochs, recipe.warmup_epochs, recipe.decay_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * factor


@cache
def _compiled_measure() -> Callable[..., tuple[Tensor, Tensor]]:
    """One for the whole process, so that what was compiled for a network serves all of its architecture."""
    return compilation.compiled(measure)


@torch.no_grad()
def predict(module: nn.Module, images: Images | Tensor, batch_size: int = 256) -> Tensor:
    """Logits float32 [N, K] of un-augmented images, in evaluation mode, on the CPU."""
    device = next(module.parameters()).device
    module.eval()
    return torch.cat([module(batch.to(device)).float().cpu() for batch in images.split(batch_size)])


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is their class."""
    return float((logits_NK.argmax(1) == labels_N).double().mean())


@torch.no_grad()
def features(network: Network, images_MCHW: Images | Tensor, batch_size: int = 256) -> Tensor:
    """What a network's last layer sees of images in network space, in evaluation mode: float32 [M, F] on the CPU."""
    device = next(network.parameters()).device
    network.eval()
    return torch.cat([network.features(batch.to(device)).float().cpu() for batch in images_MCHW.split(batch_size)])
