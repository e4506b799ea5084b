"""What condensation compares: real and synthetic images of a class, and what networks see of the synthetic ones.

Letters: R real images of a class, S synthetic ones of it that are learned, B batch, K classes, C H W.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.methods.initial import random_real, require_images
from raydd.networks import Network
from raydd.sets.formation import Formation

CONSTANTS_AT_ONCE: Final = 256
"""Images of earlier stages that are augmented, and compared, together."""


@dataclass(frozen=True)
class ClassImages:
    """What is compared of one class, in network space, augmented."""

    label: int
    real: Tensor
    """[R, C, H, W]"""
    constants: Iterable[Tensor]
    """Those of earlier stages that are not learned: a few at a time, [B, C, H, W] each, none of them empty; to be gone
    through once."""
    learned: Tensor
    """[S, C, H, W], differentiable."""


class RealImages:
    """The real training images, by class."""

    def __init__(self, data: PreparedData, device: torch.device, dtype: torch.dtype) -> None:
        """Keep them on the device."""
        require_images(data, 1)
        self._images, self._labels, self._dtype = data.train.images.to(device), data.train.labels.to(device), dtype
        self._rows = [(self._labels == label).nonzero().squeeze(1) for label in range(data.num_classes)]

    def draw(self, key: Key, label: int, count: int) -> Tensor:
        """Random images [R, C, H, W] of a class, none twice: `count`, or all where there are fewer."""
        rows = self._rows[label]
        chosen = rows[keyed_random.permutation(key.child("real", label), len(rows), rows.device)[:count]]
        return self._images[chosen].to(self._dtype)

    def draw_all(self, key: Key, count: int) -> Tensor:
        """So many of each class, class-major."""
        return torch.cat([self.draw(key, label, count) for label in range(len(self._rows))])

    def draw_any(self, key: Key, count: int) -> tuple[Tensor, Tensor]:
        """Random images [B, C, H, W] of whatever class, none twice, and their labels int64 [B]; all where few."""
        chosen = keyed_random.permutation(key.child("any"), len(self._labels), self._labels.device)[:count]
        return self._images[chosen].to(self._dtype), self._labels[chosen]


@dataclass(frozen=True)
class Round:
    """Where an iteration is, before its images are compared once more."""

    number: int
    """Counted from 0 in each iteration."""
    key: Key
    """Of this round's draws."""
    union: Callable[[], Tensor]
    """Puts together [B, C, H, W], all synthetic images as they are held now, those of earlier stages first."""
    labels: Tensor
    """int64 [B]"""
    real: RealImages


class Objective(Protocol):
    """What is compared, and in how many rounds."""

    rounds: int
    """Updates of the images in one iteration, with the same network."""
    joint: bool
    """Whether all classes have to be compared together, as one worker's work; else each is on its own."""
    in_turn: bool
    """Whether classes take their steps one after the other, while their momenta move all others on."""

    def prepare(self, network: Network, now: Round) -> None:
        """Bring the network to where the round compares; all workers come here together."""

    def loss(self, network: Network, block: Sequence[ClassImages]) -> Tensor:
        """What differs (a scalar), summed over the classes of the block: all of them where `joint`, and else one."""


class Form(Protocol):
    """How synthetic images are held while they are learned, and what networks see of them."""

    @property
    def formation(self) -> Formation | None:
        """How students decode what is stored; None where there is nothing to decode."""

    def starting(self, data: PreparedData, images_per_class: int, real: bool, key: Key, repeat: bool) -> Tensor:
        """Where images start, in network space, float32 [B, C, H, W], class-major: real ones, or noise.

        Raises:
            ConfigError: they are to be real ones, and a class has too few, which are not to be repeated.
        """

    def held(self, images_BCHW: Tensor) -> Tensor:
        """Images in network space as they are held."""

    def bounded(self, held_BCHW: Tensor) -> Tensor:
        """Them, brought back into their range; a copy where anything changes."""

    def stored(self, held_BCHW: Tensor) -> Tensor:
        """Them in network space, as a synthetic set has them."""

    def seen(self, held_SCHW: Tensor, others: int, key: Key) -> Tensor:
        """What networks see of images of a class, in network space [B, C, H, W], differentiable.

        Args:
            held_SCHW: the images.
            others: how many more there are of the class, which are seen beside them.
            key: of what is random about it.
        """


@dataclass(frozen=True)
class AsTheyAre:
    """Images that are held as networks see them."""

    formation: Formation | None = None

    def starting(self, data: PreparedData, images_per_class: int, real: bool, key: Key, repeat: bool) -> Tensor:
        """Random real images, or standard normal values."""
        if real:
            return data.train.images[random_real(data, images_per_class, key, repeat)]
        ids = torch.arange(data.num_classes * images_per_class)
        return keyed_random.normal(key, ids, math.prod(data.shape)).view(-1, *data.shape)

    def held(self, images_BCHW: Tensor) -> Tensor:
        """The images."""
        return images_BCHW

    def bounded(self, held_BCHW: Tensor) -> Tensor:
        """The images: there are no bounds."""
        return held_BCHW

    def stored(self, held_BCHW: Tensor) -> Tensor:
        """The images."""
        return held_BCHW

    def seen(self, held_SCHW: Tensor, others: int, key: Key) -> Tensor:
        """The images."""
        return held_SCHW
