"""DM: distribution matching (Zhao and Bilen, WACV 2023, https://arxiv.org/abs/2110.04181).

In the embedding phi of a randomly initialised network (all but its last layer) the synthetic images of a class have the
mean of its real ones: L = sum_c |mean phi(A(real_c)) - mean phi(A(synthetic_c))|^2, with one augmentation A for both.

Letters: B batch, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raydd.core.keyed_random import Key
from raydd.methods.base import Method, Start, Task
from raydd.methods.condensation.compared import ClassImages, Round
from raydd.methods.condensation.cost import Comparisons
from raydd.methods.condensation.family import Condensation, CondensationConfig
from raydd.methods.cost import CostSetting
from raydd.networks import Network


@dataclass(frozen=True, kw_only=True)
class DMConfig(CondensationConfig):
    """DM; the defaults are the published ones for up to 50 images per class (for CIFAR-10 from 100 on: image_lr 10)."""

    name: Literal["dm"] = "dm"
    iterations: int = 20_000
    image_lr: float = 1.0
    augmentation: str = "dsa"

    def comparisons(self, setting: CostSetting) -> Comparisons:
        """Features, once."""
        return Comparisons(
            rows=self.images_per_class + setting.learned,
            constants=setting.frozen,
            joint=setting.network.has_batch_norm,
        )

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at its starting images."""
        return Condensation(self, task, start, key, MeanFeatures(joint=task.network.has_batch_norm))


@dataclass
class MeanFeatures:
    """Compares class means in embedding space."""

    joint: bool
    """Whether all classes share the statistics of one forward pass, as networks with batch norm need it."""
    rounds: int = 1
    in_turn: bool = False

    def prepare(self, network: Network, now: Round) -> None:
        """The network stays as it was drawn."""
        network.requires_grad_(False)

    def loss(self, network: Network, block: Sequence[ClassImages]) -> Tensor:
        """The distance between class means, summed over the classes; earlier images count as the learned ones do."""
        with torch.no_grad():
            real = [features.mean(0) for features in _features(network, [part.real for part in block])]
        synthetic = self._together(network, block) if self.joint else [_mean_features(network, part) for part in block]
        return torch.stack([(one - other).square().sum() for one, other in zip(real, synthetic, strict=True)]).sum()

    def _together(self, network: Network, block: Sequence[ClassImages]) -> list[Tensor]:
        """The means of all classes, from one forward pass of all synthetic images."""
        unions = [torch.cat([*part.constants, part.learned]) for part in block]
        return [features.mean(0) for features in _features(network, unions)]


def _mean_features(network: Network, images: ClassImages) -> Tensor:
    """The mean [F] of all synthetic images of a class; what is constant goes through a few at a time, without graph."""
    learned = network.features(images.learned).sum(0)
    others, total = 0, torch.zeros_like(learned)
    with torch.no_grad():
        for chunk in images.constants:
            total += network.features(chunk).sum(0)
            others += len(chunk)
    return (learned + total) / (len(images.learned) + others)


def _features(network: Network, batches: Sequence[Tensor]) -> list[Tensor]:
    """Features [b, F] of each batch, in one forward pass."""
    return list(network.features(torch.cat(list(batches))).split([len(batch) for batch in batches]))
