"""Dataset condensation: images that stand for each class's real ones in freshly initialised networks.

What DC (Zhao, Mopuri and Bilen, ICLR 2021, https://arxiv.org/abs/2006.05929), DSA (Zhao and Bilen, ICML 2021,
https://arxiv.org/abs/2102.08259) and DM (Zhao and Bilen, WACV 2023, https://arxiv.org/abs/2110.04181) share. Every
iteration draws a network, and in one round or several compares real with synthetic images class by class, under the
same augmentation, and takes one step down the sum of what differs. What is compared is an `Objective`'s.

As the classes are independent given the network, workers share them out; one exchange a round gives all of them the
gradient of all images.

Letters: R real images of a class, F frozen and S learned synthetic ones of it, M learned ones of all classes, B batch,
K classes, C H W.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from raydd import networks, random
from raydd.augment import DSA, Augmentation, Chain, augmentation
from raydd.errors import ConfigError, RunError
from raydd.functional import all_reduce_sum, shard
from raydd.methods.base import KeepsClasses, Start, State, Task, WorksOn
from raydd.methods.initial import class_labels, random_real, require_images
from raydd.networks import Network
from raydd.prepared import PreparedData
from raydd.random import Key
from raydd.synthetic import SyntheticSet

Pool = Sequence[Mapping[str, Tensor]]
"""States (parameters and buffers) of networks to draw from."""


@dataclass(frozen=True, kw_only=True)
class CondensationConfig(KeepsClasses):
    """What DC, DSA and DM share; in brackets the names of the papers' flags."""

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

    @property
    def works_on(self) -> WorksOn:
        """What has to be trained first: nothing."""
        return "data"

    @property
    def uses_ranking(self) -> bool:
        """Whether real images are ranked by a teacher first."""
        return False

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1


@dataclass(frozen=True)
class ClassImages:
    """What is compared of one class, in network space, augmented."""

    label: int
    real: Tensor
    """[R, C, H, W]"""
    frozen: Tensor
    """[F, C, H, W], of earlier stages; F may be 0."""
    learned: Tensor
    """[S, C, H, W], differentiable."""


class RealImages:
    """The real training images, by class."""

    def __init__(self, data: PreparedData, device: torch.device, dtype: torch.dtype) -> None:
        """Keep them on the device."""
        require_images(data, 1)
        self._images, self._dtype = data.train.images.to(device), dtype
        labels = data.train.labels.to(device)
        self._rows = [(labels == label).nonzero().squeeze(1) for label in range(data.num_classes)]

    def draw(self, key: Key, label: int, count: int) -> Tensor:
        """Random images [R, C, H, W] of a class, none twice: `count`, or all where there are fewer."""
        rows = self._rows[label]
        chosen = rows[random.permutation(key.child("real", label), len(rows), rows.device)[:count]]
        return self._images[chosen].to(self._dtype)

    def draw_all(self, key: Key, count: int) -> Tensor:
        """So many of each class, class-major."""
        return torch.cat([self.draw(key, label, count) for label in range(len(self._rows))])


@dataclass(frozen=True)
class Round:
    """Where an iteration is, before its images are compared once more."""

    number: int
    """Counted from 0 in each iteration."""
    key: Key
    """Of this round's draws."""
    images: Tensor
    """[B, C, H, W]: all synthetic images as they are now, those of earlier stages first."""
    labels: Tensor
    """int64 [B]"""
    real: RealImages


class Objective(Protocol):
    """What is compared, and in how many rounds."""

    rounds: int
    """Updates of the images in one iteration, with the same network."""
    joint: bool
    """Whether all classes have to be compared together, as one worker's work; else each is on its own."""

    def prepare(self, network: Network, now: Round) -> None:
        """Bring the network to where the round compares; all workers come here together."""

    def loss(self, network: Network, block: Sequence[ClassImages]) -> Tensor:
        """What differs (a scalar), summed over the classes of the block: all of them where `joint`, and else one."""


class Condensation:
    """Learns images by comparing them with real ones, in a new network every iteration.

    One step is a whole iteration, so that the state is images, momentum and a number: the network in between comes from
    keyed draws. A step that fails leaves the state as it was.
    """

    units = 1

    def __init__(
        self, config: CondensationConfig, task: Task, start: Start, key: Key, objective: Objective, pool: Pool = ()
    ) -> None:
        """Begin at the starting images.

        Args:
            config: everything that the methods share.
            task: data and network.
            start: frozen earlier parts, which are compared together with the new images.
            key: of this stage's draws.
            objective: what is compared.
            pool: networks of which each iteration draws one; without any it gets a freshly initialised one.
        """
        self.config, self.task, self.start, self.key = config, task, start, key
        self.iteration = 0
        self._objective, self._pool = objective, pool
        self._augmentation = siamese(config.augmentation)
        self._real = RealImages(task.data, task.device, task.dtype)
        self._labels = class_labels(task.data.num_classes, config.images_per_class)
        self._images = self._own(starting_images(config, task.data, key.child("init")))
        self._velocity = torch.zeros_like(self._images)
        frozen = start.frozen
        self._frozen = self._images[:0] if frozen is None else self._own(frozen.images)
        frozen_labels = self._labels[:0] if frozen is None else frozen.labels
        self._frozen_rows = [(frozen_labels == label).nonzero().squeeze(1) for label in range(task.data.num_classes)]
        self._all_labels = torch.cat([frozen_labels, self._labels]).to(task.device)

    def step(self) -> dict[str, float]:
        """Update the images in every round of one network; returns the `loss`, its mean over rounds and classes.

        Raises:
            RunError: the loss or its gradient is not finite.
        """
        images, velocity, losses = self._images.clone(), self._velocity.clone(), []
        network = drawn_network(self.task, self.key, self.iteration, self._pool)
        for number in range(self._objective.rounds):
            key = self.key.child("round", self.iteration, number)
            union = torch.cat([self._frozen, images])
            self._objective.prepare(network, Round(number, key, union, self._all_labels, self._real))
            loss, gradient = self._compare(network, images, key)
            if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
                raise RunError(f"iteration {self.iteration}: the loss is {loss}; lower method.image_lr")
            velocity.mul_(self.config.momentum).add_(gradient)
            images.sub_(velocity, alpha=self.config.image_lr)
            losses.append(loss)
        self._images, self._velocity = images, velocity
        self.iteration += 1
        return {"loss": sum(losses) / len(losses) / self.task.data.num_classes}

    def result(self) -> SyntheticSet:
        """The images as they are now, class by class."""
        return SyntheticSet(
            images=self._images.float().cpu().clone(),
            labels=self._labels.clone(),
            stage=torch.full((len(self._labels),), self.start.stage, dtype=torch.int32),
            learned_lr=(None,),
            class_names=self.task.data.class_names,
            preprocessing=self.task.data.preprocessing,
        )

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def state_dict(self) -> State:
        """Images, momentum and how many iterations are done."""
        return {"images": self._images.clone(), "velocity": self._velocity.clone(), "iteration": self.iteration}

    def load_state_dict(self, state: State) -> None:
        """Continue from what `state_dict` returned."""
        self._images, self._velocity = self._own(state["images"]), self._own(state["velocity"])
        self.iteration = state["iteration"]

    def _compare(self, network: Network, images_MCHW: Tensor, key: Key) -> tuple[float, Tensor]:
        """The loss of all classes and its gradient [M, C, H, W], the same on every worker."""
        per_class, classes = self.config.images_per_class, torch.arange(self.task.data.num_classes)
        gradient, total = torch.zeros_like(images_MCHW), images_MCHW.new_zeros(1)
        blocks = torch.stack([classes]) if self._objective.joint else classes[:, None]
        for block in shard(blocks).tolist():
            rows = slice(block[0] * per_class, (block[-1] + 1) * per_class)
            leaf = images_MCHW[rows].clone().requires_grad_()
            parts = zip(block, leaf.split(per_class), strict=True)
            loss = self._objective.loss(network, [self._of_class(label, part, key) for label, part in parts])
            (gradient[rows],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        summed = all_reduce_sum(torch.cat([gradient.flatten(), total]))
        return float(summed[-1]), summed[:-1].view_as(images_MCHW)

    def _of_class(self, label: int, learned_SCHW: Tensor, key: Key) -> ClassImages:
        """A class's images under one draw of the augmentation."""

        def seen(images_BCHW: Tensor) -> Tensor:
            if not len(images_BCHW):
                return images_BCHW
            ids = torch.arange(len(images_BCHW), device=images_BCHW.device)
            return self._augmentation.draw(key.child("augment", label), ids)(images_BCHW)

        real = self._real.draw(key, label, self.config.real_batch_size)
        return ClassImages(label, seen(real), seen(self._frozen[self._frozen_rows[label]]), seen(learned_SCHW))

    def _own(self, tensor: Tensor) -> Tensor:
        """A copy on the task's device, in its precision."""
        return tensor.detach().to(self.task.device, self.task.dtype, copy=True)


def starting_images(config: CondensationConfig, data: PreparedData, key: Key) -> Tensor:
    """Where images start, float32 [M, C, H, W], class-major.

    Raises:
        ConfigError: they are to be real ones, and a class has too few.
    """
    if config.image_init == "random":
        return data.train.images[random_real(data, config.images_per_class, key)]
    ids = torch.arange(data.num_classes * config.images_per_class)
    return random.normal(key, ids, math.prod(data.shape)).view(-1, *data.shape)


def drawn_network(task: Task, key: Key, iteration: int, pool: Pool = ()) -> Network:
    """The network of an iteration, a copy of its own: freshly initialised, or one of a pool."""
    with random.seeded(key.child("network", iteration)):
        network = networks.build(task.network, task.data.shape, task.data.num_classes)
    if pool:
        network.load_state_dict(pool[random.integer(key.child("member", iteration), 0, len(pool))])
    return network.to(task.device, task.dtype).train()


def siamese(name: str) -> Augmentation:
    """The augmentation of that name (see `raydd.augment.augmentation`) whose samples share one set of parameters.

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
