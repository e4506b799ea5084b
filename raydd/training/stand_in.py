"""Stand-ins for real data, by which work is timed: a seeded network, random images, classes in turn.

Letters: B images, C H W.
"""

from typing import Final

import torch
from torch import Tensor

from raydd import networks
from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.data import DataFacts
from raydd.networks import Network
from raydd.networks.config import NetworkConfig

STAND_IN_KEY: Final = Key.root(0)


def network_on(network: NetworkConfig, facts: DataFacts, device: torch.device) -> Network:
    """A freshly initialised network on a device, always the same."""
    with keyed_random.seeded(STAND_IN_KEY):
        return networks.build(network, facts.shape, facts.num_classes).to(device)


def random_images(facts: DataFacts, count: int, device: torch.device) -> Tensor:
    """Images [B, C, H, W] of noise, always the same."""
    with keyed_random.seeded(STAND_IN_KEY):
        return torch.randn(count, *facts.shape).to(device)


def some_labels(facts: DataFacts, count: int, device: torch.device) -> Tensor:
    """Every class in turn: int64 [B]."""
    return torch.arange(count, device=device) % facts.num_classes
