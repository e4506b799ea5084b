"""What is trained on the real data, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Kitchen
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.training.loop import Training
from raydd.training.recipe import Recipe


@dataclass(frozen=True)
class Setting:
    """A network that learns the training split of real data on some device."""

    network: NetworkConfig
    data: PreparedData
    device: torch.device
    compiled: bool = False
    """Whether steps are compiled."""

    def fresh(self, key: Key) -> Network:
        """The network on the device, with torch's initialisation drawn from the key."""
        return build_seeded(self.network, self.data, key).to(self.device)

    def training(
        self, modules: Sequence[nn.Module], recipe: Recipe, keys: Sequence[Key], shared: bool = False
    ) -> Training:
        """That of such networks side by side; see `Training`."""
        train = self.data.train
        return Training(modules, train.images, train.labels, recipe, keys, compiled=self.compiled, shared=shared)


def build_seeded(network: NetworkConfig, data: PreparedData, key: Key) -> Network:
    """A network for the dataset, with torch's initialisation drawn from the key."""
    with keyed_random.seeded(key):
        return networks.build(network, data.shape, data.num_classes)


def setting(kitchen: Kitchen, network: NetworkConfig, recipe: Recipe, data: PreparedData | None = None) -> Setting:
    """What learns real data by a recipe in this process: all of a kitchen's, unless others are given."""
    learned = kitchen.data if data is None else data
    return Setting(network, learned, kitchen.device, kitchen.compiles(network, recipe, len(learned.train)))
