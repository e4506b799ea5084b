"""Dataset condensation: images that stand for each class's real ones in networks of little or no training.

What DC (Zhao, Mopuri and Bilen, ICLR 2021, https://arxiv.org/abs/2006.05929), DSA (Zhao and Bilen, ICML 2021,
https://arxiv.org/abs/2102.08259), DM (Zhao and Bilen, WACV 2023, https://arxiv.org/abs/2110.04181) and IDC (Kim et al.,
ICML 2022, https://arxiv.org/abs/2205.14959) share. Every iteration draws a network, and in one round or several
compares real with synthetic images class by class, under the same augmentation, and takes one step down what differs.
What is compared is an `Objective`'s, and what networks see of an image its `Form`'s.

As the classes are independent given the network, workers share them out; one exchange a round gives all of them the
gradient of all images. Images of earlier stages take part: as constants, of which no gradient is ever asked, or as
learned ones with a step size of their own.

Letters: S learned images of a class, L learned ones of all classes, M new ones of them, B batch, K classes, C H W.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from raydd.core.distributed import all_reduce_sum, shard
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.methods.base import MethodState, Start, Task
from raydd.methods.condensation.compared import (
    CONSTANTS_AT_ONCE,
    AsTheyAre,
    ClassImages,
    Form,
    Objective,
    RealImages,
    Round,
)
from raydd.methods.condensation.cost import Comparisons, Condensing, condensing_cost
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.defaults import KeepsClasses
from raydd.methods.drawn import drawn_network
from raydd.methods.initial import class_labels
from raydd.networks import Network
from raydd.sets.synthetic import SyntheticSet
from raydd.training.dsa import DSA, Augmentation, Chain, augmentation

FARTHEST: Final = 1000.0
"""The largest value of an image while it is learned; those of real ones are about 3, and of pixels 1."""


@dataclass(frozen=True, kw_only=True)
class CondensationConfig(KeepsClasses):
    """What DC, DSA, DM and IDC share; in brackets the names of the papers' flags."""

    images_per_class: int = 10
    """[ipc] synthetic images of each class."""
    iterations: int = 1_000
    """[Iteration] outer updates, each with a network of its own."""
    image_lr: float = 0.1
    """[lr_img]"""
    momentum: float = 0.5
    """Of the images."""
    real_batch_size: int = 256
    """[batch_real] real images of each class that are drawn for a comparison; all where there are fewer."""
    image_init: Literal["random", "noise"] = "random"
    """[init: real or noise] random: random real images. noise: standard normal values in network space."""
    augmentation: str = "none"
    """[dsa_strategy] none, dsa, or some of DSA's groups: color_crop_cutout_flip_scale_rotate. Real and synthetic images
    of a class see the same draw, whose parameters all of them share."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("images_per_class", "iterations", "real_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name}", f"must be at least 1, is {getattr(self, name)}")
        if not 0 < self.image_lr < math.inf:
            raise ConfigError("method.image_lr", f"must be positive, is {self.image_lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError("method.momentum", f"must be 0 or larger, and below 1, is {self.momentum}")
        siamese(self.augmentation)

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1

    def rate(self, shape: tuple[int, int, int]) -> float:
        """The step size of images of a shape C, H, W."""
        return self.image_lr

    def comparisons(self, setting: CostSetting) -> Comparisons | None:
        """What an iteration compares, for the plan; None where that is not stated."""
        return None

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes, where it is stated what an iteration compares."""
        compared = self.comparisons(setting)
        if compared is None:
            return super().cost(setting)
        condensing = Condensing(
            makes=f"outer iterations of {self.name}",
            iterations=self.iterations,
            num_images=(self.images_per_class + setting.learned) * setting.facts.num_classes,
            real_batch_size=self.real_batch_size,
            real_start=self.image_init == "random",
        )
        return condensing_cost(condensing, compared, setting)


class Condensation:
    """Learns images by comparing them with real ones, in another network every iteration.

    One step is a whole iteration, so that the state is images, momentum and a number: the network in between comes from
    keyed draws. A step that fails leaves the state as it was.
    """

    units = 1

    def __init__(
        self,
        config: CondensationConfig,
        task: Task,
        start: Start,
        key: Key,
        objective: Objective,
        form: Form | None = None,
    ) -> None:
        """Begin at the starting images.

        Args:
            config: everything that the methods share.
            task: data and network.
            start: earlier parts, which are compared together with the new images, and networks to draw from.
            key: of this stage's draws.
            objective: what is compared.
            form: how images are held; as networks see them by default.
        """
        self.config, self.task, self.start, self.key = config, task, start, key
        self.iteration = 0
        self._objective, self._form = objective, form or AsTheyAre()
        self._augmentation = siamese(config.augmentation)
        self._real = RealImages(task.data, task.device, task.dtype)
        classes = task.data.num_classes
        self._labels = class_labels(classes, config.images_per_class)
        count, real = config.images_per_class, config.image_init == "random"
        new = self._own(self._form.starting(task.data, count, real, key.child("init"), config.repeat_images))
        earlier, labels = new[:0], self._labels[:0]
        if start.frozen is not None:
            earlier, labels = self._own(start.frozen.images), start.frozen.labels
        self._num_earlier = len(earlier) if start.frozen_lr_scale else 0
        learned = torch.cat([labels[: self._num_earlier], self._labels])
        self._images = self._form.held(torch.cat([earlier[: self._num_earlier], new]))
        self._velocity = torch.zeros_like(self._images)
        self._constants = self._form.held(earlier[self._num_earlier :])
        self._learned_rows = _rows_by_class(learned, classes)
        self._constant_rows = _rows_by_class(labels[self._num_earlier :], classes)
        self._all_labels = torch.cat([labels, self._labels]).to(task.device)
        scales = torch.ones(len(learned), dtype=torch.float64)
        scales[: self._num_earlier] = start.frozen_lr_scale
        self._rates = self._own(scales * config.rate(task.data.shape)).view(-1, 1, 1, 1)
        self._turns = self._own(learned).view(-1, 1, 1, 1)

    def step(self) -> dict[str, float]:
        """Update the images in every round of one network; returns the `loss`, its mean over rounds and classes.

        Raises:
            RunError: the loss or its gradient is not finite, or the images are nothing like pixels any more, although
                networks that normalise what they see may not mind.
        """
        images, velocity, losses = self._form.bounded(self._images), self._velocity, []
        network = drawn_network(self.task, self.key, self.iteration, self.start)
        for number in range(self._objective.rounds):
            key = self.key.child("round", self.iteration, number)
            union = partial(torch.cat, [self._constants, images])
            self._objective.prepare(network, Round(number, key, union, self._all_labels, self._real))
            images, velocity, loss = self._descend(network, images, velocity, key)
            losses.append(loss)
        if not (largest := float(self._form.bounded(images).abs().max())) <= FARTHEST:
            raise RunError(
                f"iteration {self.iteration}: the images have left the pixels far behind (a value of {largest:.3g}); "
                "lower method.image_lr"
            )
        self._images, self._velocity = images, velocity
        self.iteration += 1
        return {"loss": sum(losses) / len(losses) / self.task.data.num_classes}

    def result(self) -> SyntheticSet:
        """The images as they are now, class by class."""
        return SyntheticSet(
            images=self._stored(slice(self._num_earlier, None)),
            labels=self._labels.clone(),
            stage=torch.full((len(self._labels),), self.start.stage, dtype=torch.int32),
            learned_lr=(None,),
            class_names=self.task.data.class_names,
            preprocessing=self.task.data.preprocessing,
            formation=self._form.formation,
        )

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def revised(self) -> SyntheticSet | None:
        """The earlier stages' images, where they are learned too."""
        if self.start.frozen is None or not self.start.frozen_lr_scale:
            return None
        return replace(self.start.frozen, images=self._stored(slice(self._num_earlier)))

    def state_dict(self) -> MethodState:
        """Images and momenta, learned ones of earlier stages first, and how many iterations are done."""
        return {"images": self._images.clone(), "velocity": self._velocity.clone(), "iteration": self.iteration}

    def load_state_dict(self, state: MethodState) -> None:
        """Continue from what `state_dict` returned."""
        self._images, self._velocity = self._own(state["images"]), self._own(state["velocity"])
        self.iteration = state["iteration"]

    def _descend(
        self, network: Network, images_LCHW: Tensor, velocity_LCHW: Tensor, key: Key
    ) -> tuple[Tensor, Tensor, float]:
        """Images and momenta after one step of every class, and the loss before."""
        momentum, in_turn = self.config.momentum, self._objective.in_turn
        if in_turn:
            images_LCHW, velocity_LCHW = drift(images_LCHW, velocity_LCHW, self._rates, momentum, self._turns)
        loss, gradient = self._compare(network, images_LCHW, key)
        if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
            raise RunError(f"iteration {self.iteration}: the loss is {loss}; lower method.image_lr")
        velocity_LCHW = momentum * velocity_LCHW + gradient
        images_LCHW = images_LCHW - self._rates * velocity_LCHW
        if in_turn:
            left = self.task.data.num_classes - 1 - self._turns
            images_LCHW, velocity_LCHW = drift(images_LCHW, velocity_LCHW, self._rates, momentum, left)
        return images_LCHW, velocity_LCHW, loss

    def _compare(self, network: Network, images_LCHW: Tensor, key: Key) -> tuple[float, Tensor]:
        """The loss of all classes and its gradient [L, C, H, W], the same on every worker."""
        classes = torch.arange(self.task.data.num_classes)
        gradient, total = torch.zeros_like(images_LCHW), images_LCHW.new_zeros(1)
        blocks = torch.stack([classes]) if self._objective.joint else classes[:, None]
        for block in shard(blocks).tolist():
            rows = [self._learned_rows[label] for label in block]
            leaf = images_LCHW[torch.cat(rows)].requires_grad_()
            parts = zip(block, leaf.split([len(part) for part in rows]), strict=True)
            loss = self._objective.loss(network, [self._of_class(label, part, key) for label, part in parts])
            (gradient[torch.cat(rows)],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        summed = all_reduce_sum(torch.cat([gradient.flatten(), total]))
        return float(summed[-1]), summed[:-1].view_as(images_LCHW)

    def _of_class(self, label: int, learned_SCHW: Tensor, key: Key) -> ClassImages:
        """A class's images under one draw of the augmentation."""
        new = self.config.images_per_class
        earlier, own = learned_SCHW.split([len(learned_SCHW) - new, new])
        others = len(earlier) + len(self._constant_rows[label])
        shown = [
            self._form.seen(part, beside, key.child("seen", label, name))
            for name, part, beside in (("earlier", earlier, new), ("new", own, others))
            if len(part)
        ]
        return ClassImages(
            label,
            self._augmented(self._real.draw(key, label, self.config.real_batch_size), key, label),
            self._constants_of(label, key),
            self._augmented(torch.cat(shown), key, label),
        )

    def _constants_of(self, label: int, key: Key) -> Iterator[Tensor]:
        """A class's constants, a few at a time."""
        if len(rows := self._constant_rows[label]):
            own = self.config.images_per_class
            seen = self._form.seen(self._constants[rows], own, key.child("seen", label, "earlier"))
            for first in range(0, len(seen), CONSTANTS_AT_ONCE):
                yield self._augmented(seen[first : first + CONSTANTS_AT_ONCE], key, label)

    def _augmented(self, images_BCHW: Tensor, key: Key, label: int) -> Tensor:
        """Images of a class as networks see them in a round."""
        ids = torch.arange(len(images_BCHW), device=images_BCHW.device)
        return self._augmentation.draw(key.child("augment", label), ids)(images_BCHW)

    def _stored(self, rows: slice) -> Tensor:
        return self._form.stored(self._form.bounded(self._images[rows])).float().cpu().clone()

    def _own(self, tensor: Tensor) -> Tensor:
        """A copy on the task's device, in its precision."""
        return tensor.detach().to(self.task.device, self.task.dtype, copy=True)


def drift(
    images_LCHW: Tensor, velocity_LCHW: Tensor, rates: Tensor, momentum: float, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Images and velocities after steps along the momentum alone, v <- m v and x <- x - lr v, as many as are given.

    In closed form v_n = m^n v and x_n = x - lr (m + m^2 + ... + m^n) v.

    Args:
        images_LCHW: x.
        velocity_LCHW: v.
        rates: lr of each image, [L, 1, 1, 1].
        momentum: m, below 1.
        steps: n of each image, floating point [L, 1, 1, 1].
    """
    left = torch.pow(momentum, steps)
    reach = momentum * (1 - left) / (1 - momentum)
    return images_LCHW - rates * reach * velocity_LCHW, left * velocity_LCHW


def siamese(name: str) -> Augmentation:
    """The augmentation of that name (see `raydd.training.dsa.augmentation`) whose samples share one set of parameters.

    Raises:
        ConfigError: there is no such group.
    """
    return _shared(augmentation(name))


def _shared(independent: Augmentation) -> Augmentation:
    match independent:
        case DSA():
            return replace(independent, shared=True)
        case Chain():
            return Chain(tuple(_shared(part) for part in independent.parts))
        case _:
            return independent


def _rows_by_class(labels: Tensor, num_classes: int) -> list[Tensor]:
    return [(labels == label).nonzero().squeeze(1) for label in range(num_classes)]
