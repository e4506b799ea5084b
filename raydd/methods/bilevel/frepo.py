"""FRePo: neural feature regression with pooling (Zhou, Nezhadarya and Ba, NeurIPS 2022).

https://arxiv.org/abs/2206.00719. In every iteration one network of a few, which are all trained on the synthetic images
while these are learned, gives features; the last layer that the synthetic images and their labels determine in closed
form (`regression`) is asked for the classes of real images, and images and labels take a step down its squared error.

Labels are regression targets: one-hot vectors less 1/K, which are learned on. Students have a squared loss.

Letters: M new images, L of earlier stages, n rows of the support, B real images, F features, K classes, C H W.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.distributed import all_reduce_sum, shard
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.methods.base import Method, MethodState, Start, Task
from raydd.methods.bilevel.cost import Regressing, regressing_cost
from raydd.methods.bilevel.lamb import Lamb
from raydd.methods.bilevel.online import OnlineNetworks, OnlineTraining
from raydd.methods.bilevel.regression import Regression, margin, squared_loss
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.defaults import KeepsClasses
from raydd.methods.initial import class_labels, earlier_images, random_real
from raydd.networks import Network
from raydd.networks.losses import LabelKind, centred
from raydd.sets.synthetic import SyntheticSet

AT_ONCE: Final = 256
"""Images whose features nobody differentiates, and that go through a network together."""


@dataclass(frozen=True, kw_only=True)
class FRePoConfig(KeepsClasses):
    """FRePo; the defaults are the published ones (for CIFAR-100 and larger from 10 images per class: mirrored false).

    The network should have no norm, `growth: doubled` and `init: lecun`; batch norm is refused.
    """

    usual: ClassVar[Mapping[str, Any]] = {
        "recipe_name": "frepo",
        "recipe": {
            "epochs": 1000,
            "lr": 3e-4,
            "optimizer": "adamw",
            "batch_size": 500,
            "schedule": "cosine_floor",
            "warmup_epochs": 500,
            "augmentation": "dsa",
            "loss": "squared",
        },
    }
    name: Literal["frepo"] = "frepo"
    images_per_class: int = 10
    """Synthetic images of each class."""
    iterations: int = 500_000
    """Outer updates."""
    image_lr: float = 3e-4
    """LAMB's: how far a step moves the images, and the labels, as a part of their norm."""
    lr_floor: float = 0.1
    """What the step size falls to along a cosine, as a part of what it begins with."""
    image_init: Literal["random", "noise"] = "random"
    """random: random real images. noise: standard normal values in network space."""
    labels: Literal["learned", "hard"] = "learned"
    """learned: regression targets of every image, which begin as its class and are learned. hard: the classes."""
    label_scale: float | None = None
    """What labels are divided by; null takes the root of a tenth of the number of classes."""
    ridge: float = 1e-6
    """What is added to the diagonal of the kernel, as a part of its mean."""
    mirrored: bool = True
    """Whether images take part a second time as their mirror images."""
    margin: bool = True
    """Whether learned labels are kept from having two largest entries that are closer than 1/K."""
    real_batch_size: int = 1024
    """Real images of an iteration, of whatever class; all where there are fewer."""
    pool_size: int = 10
    """Networks that are trained side by side."""
    max_online_steps: int = 100
    """The age at which a network takes its last step and gives way to a fresh one; 0 takes fresh ones only."""
    online_lr: float = 3e-4
    """Adam's, of the networks."""
    online_batch_size: int = 500
    """Synthetic images of a step of a network; all where there are fewer."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("images_per_class", "iterations", "real_batch_size", "pool_size", "online_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name}", f"must be at least 1, is {getattr(self, name)}")
        if self.max_online_steps < 0:
            raise ConfigError("method.max_online_steps", f"must be 0 or larger, is {self.max_online_steps}")
        for name in ("image_lr", "ridge", "online_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"method.{name}", f"must be positive, is {getattr(self, name)}")
        if self.label_scale is not None and not 0 < self.label_scale < math.inf:
            raise ConfigError("method.label_scale", f"must be positive, is {self.label_scale}")
        if not 0 <= self.lr_floor <= 1:
            raise ConfigError("method.lr_floor", f"must be from 0 to 1, is {self.lr_floor}")

    @property
    def has_soft_labels(self) -> bool:
        """Whether labels are learned."""
        return self.labels == "learned"

    @property
    def label_kind(self) -> LabelKind:
        """Targets of a squared loss."""
        return "regression"

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1

    def rate(self, iteration: int) -> float:
        """LAMB's step size in an iteration."""
        course = (1 + math.cos(math.pi * iteration / self.iterations)) / 2
        return self.image_lr * (self.lr_floor + (1 - self.lr_floor) * course)

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes."""
        work = Regressing(
            makes=f"outer iterations of {self.name}",
            iterations=self.iterations,
            num_images=self.images_per_class * setting.facts.num_classes,
            copies=2 if self.mirrored else 1,
            real_batch_size=min(self.real_batch_size, setting.facts.num_train),
            online_batch_size=self.online_batch_size,
            pool_size=self.pool_size,
            soft=self.has_soft_labels,
            real_start=self.image_init == "random",
        )
        return regressing_cost(work, setting)

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at its starting images.

        Raises:
            ConfigError: the network has batch norms, or earlier stages' images are to be learned on.
        """
        return FRePo(self, task, start, key)


class FRePo:
    """Learns images and labels for the last layer that they determine, on the features of networks of all ages."""

    units = 1

    def __init__(self, config: FRePoConfig, task: Task, start: Start, key: Key) -> None:
        """Begin at the starting images.

        Args:
            config: the settings.
            task: data and network.
            start: earlier stages' images, which take part in the support, and networks to begin in.
            key: of this stage's draws.
        """
        if task.network.has_batch_norm:
            raise ConfigError("network.norm", "frepo takes features image by image: take none, not batch")
        if start.frozen_lr_scale:
            raise ConfigError("stages.frozen_lr_scale", "frepo keeps earlier stages' images as they are: take 0")
        self.config, self.task, self.start, self.key = config, task, start, key
        self.iteration = 0
        classes = task.data.num_classes
        self._scale = math.sqrt(classes / 10) if config.label_scale is None else config.label_scale
        self._labels = class_labels(classes, config.images_per_class)
        values = {"images": self._own(self._starting_images())}
        if config.has_soft_labels:
            values["labels"] = self._targets(self._labels)
        self._learned = Lamb(values)
        self._earlier = self._earlier_images()
        self._real = self._own(task.data.train.images[:]), task.data.train.labels.to(task.device)
        training = OnlineTraining(
            size=config.pool_size,
            max_steps=config.max_online_steps,
            lr=config.online_lr,
            batch_size=config.online_batch_size,
        )
        self._online = OnlineNetworks(training, task, start, key.child("online"))

    def step(self) -> dict[str, float]:
        """Update images and labels with one network, and then that network with them.

        Returns:
            The `loss` over the real images, without the margin's; `ridge_raised`: how many times the ridge had to be
            made ten times as large; the `age` of the network.

        Raises:
            RunError: features, loss or gradient are not finite.
        """
        slot = self._online.slot(self.iteration)
        age = int(self._online.updates[slot])
        loss, jitter, gradients = self._gradients(self._online.network(slot))
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients.values())
        if not (math.isfinite(loss) and finite):
            raise RunError(f"iteration {self.iteration}: the loss is {loss}; lower method.image_lr")
        self._learned.step(gradients, self.config.rate(self.iteration), self.iteration + 1)
        images, labels = torch.cat([self._earlier[0], self._images]), torch.cat([self._earlier[1], self._own_targets()])
        self._online.train(slot, images, labels, self.key.child("online batch", self.iteration))
        self.iteration += 1
        return {"loss": loss, "ridge_raised": jitter, "age": age}

    def result(self) -> SyntheticSet:
        """The images and labels as they are now, class by class."""
        soft = self._learned.values.get("labels")
        return SyntheticSet(
            images=self._images.float().cpu().clone(),
            labels=self._labels.clone(),
            soft_labels=None if soft is None else soft.float().cpu().clone(),
            stage=torch.full((len(self._labels),), self.start.stage, dtype=torch.int32),
            learned_lr=(None,),
            class_names=self.task.data.class_names,
            preprocessing=self.task.data.preprocessing,
            label_kind="logits" if soft is None else "regression",
        )

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def revised(self) -> SyntheticSet | None:
        """None: earlier stages' images are constants."""
        return None

    def state_dict(self) -> MethodState:
        """Images, labels and their moments, all networks with theirs, and how many iterations are done."""
        return {**self._learned.state_dict(), **self._online.state_dict(), "iteration": self.iteration}

    def load_state_dict(self, state: MethodState) -> None:
        """Continue from what `state_dict` returned."""
        self._learned.load_state_dict(state)
        self._online.load_state_dict(state)
        self.iteration = state["iteration"]

    @property
    def _images(self) -> Tensor:
        return self._learned.values["images"]

    def _gradients(self, network: Network) -> tuple[float, int, dict[str, Tensor]]:
        """The loss over real images, how often the ridge was raised, and the gradients by images and labels."""
        num_new, num_earlier = len(self._labels), len(self._earlier[1])
        rows = shard(torch.arange(num_new)).to(self.task.device)
        leaf = self._images[rows].requires_grad_()
        own = network.features(torch.cat(self._copies(leaf)))
        fit = self._fitted(network, own, rows)
        loss, cotangent = self._asked(network, fit)
        by_features, by_labels = fit.pull_back(cotangent)
        pulled = torch.cat([part[rows] for part in by_features[num_earlier:].split(num_new)])
        images = torch.zeros_like(self._images)
        if len(rows):
            (images[rows],) = torch.autograd.grad(own, leaf, pulled.to(own.dtype))
        gradients = {"images": all_reduce_sum(images)}
        if self.config.has_soft_labels:
            gradient = torch.stack(by_labels[num_earlier:].split(num_new)).sum(0)
            if self.config.margin:
                gradient = gradient + margin(self._own_targets())[1]
            gradients["labels"] = gradient.to(self._images.dtype)
        return loss, fit.jitter, gradients

    def _fitted(self, network: Network, own: Tensor, rows: Tensor) -> Regression:
        """The last layer of all support rows: earlier images, the new ones, and their mirror images."""
        num_new, num_earlier = len(self._labels), len(self._earlier[1])
        copies = self._num_copies
        gathered = torch.zeros(num_earlier + copies * num_new, own.shape[1], dtype=torch.float64, device=own.device)
        earlier = shard(torch.arange(num_earlier)).to(own.device)
        gathered[earlier] = _features(network, self._earlier[0][earlier])
        for number, part in enumerate(own.detach().double().chunk(copies) if len(rows) else ()):
            gathered[num_earlier + number * num_new + rows] = part
        labels = torch.cat([self._earlier[1], *[self._own_targets()] * copies])
        return Regression.fitted(all_reduce_sum(gathered), labels, self.config.ridge)

    def _asked(self, network: Network, fit: Regression) -> tuple[float, Tensor]:
        """The loss over a batch of real images, and G [F, K], from every worker's share of it."""
        images, labels = self._real
        key = self.key.child("real", self.iteration)
        drawn = keyed_random.permutation(key, len(labels), labels.device)[: self.config.real_batch_size]
        share = shard(drawn)
        targets = centred(labels[share], self.task.data.num_classes, torch.float64)
        features = _features(network, images[share])
        loss, residual = squared_loss(features @ fit.coefficients, targets, len(drawn))
        cotangent = features.T @ residual
        summed = all_reduce_sum(torch.cat([cotangent.flatten(), loss.view(1)]))
        return float(summed[-1]), summed[:-1].view_as(cotangent)

    @property
    def _num_copies(self) -> int:
        return 2 if self.config.mirrored else 1

    def _copies(self, images: Tensor) -> list[Tensor]:
        return [images, images.flip(-1)][: self._num_copies]

    def _targets(self, labels_M: Tensor) -> Tensor:
        """Classes as regression targets [M, K], divided by the scale."""
        return self._own(centred(labels_M, self.task.data.num_classes, torch.float64) / self._scale)

    def _own_targets(self) -> Tensor:
        """Regression targets of the new images as they are now, [M, K]."""
        learned = self._learned.values.get("labels")
        return self._targets(self._labels) if learned is None else learned

    def _starting_images(self) -> Tensor:
        config, data, key = self.config, self.task.data, self.key.child("init")
        if config.image_init == "random":
            return data.train.images[random_real(data, config.images_per_class, key, config.repeat_images)]
        ids = torch.arange(len(self._labels))
        return keyed_random.normal(key, ids, math.prod(data.shape)).view(-1, *data.shape)

    def _earlier_images(self) -> tuple[Tensor, Tensor]:
        """Images of earlier stages [L, C, H, W] and their regression targets [L, K]."""
        images, labels = earlier_images(self.task, self.start, self.config.has_soft_labels, "regression")
        if self.start.frozen is None:
            return self._own(images), self._images.new_zeros(0, self.task.data.num_classes)
        return images, labels if self.config.has_soft_labels else self._targets(labels)

    def _own(self, tensor: Tensor) -> Tensor:
        """A copy on the task's device, in its precision."""
        return tensor.detach().to(self.task.device, self.task.dtype, copy=True)


@torch.no_grad()
def _features(network: Network, images: Tensor) -> Tensor:
    """What a network's last layer sees, float64 [B, F], a few images at a time."""
    return torch.cat([network.features(chunk).double() for chunk in images.split(AT_ONCE)])
