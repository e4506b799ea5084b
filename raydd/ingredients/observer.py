"""A network that was trained on all the real images of the training split, by whose features images are compared."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from raydd import networks
from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.ingredients.real_training import real_training, real_training_identity
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.training.recipe import Recipe

KIND: Final = "observer"
_FILE: Final = "model.safetensors"


def observer_identity(recipe: Recipe, network: NetworkConfig, data: PreparedData, seed: int) -> dict[str, Any]:
    """What determines the network, for content keys."""
    return real_training_identity(KIND, recipe, network, data, seed)


def save(observer: Network, folder: Folder, key: str) -> None:
    """Write its parameters and buffers as one artefact."""
    state = {name: tensor.cpu().contiguous() for name, tensor in observer.state_dict().items()}
    with new_artefact(folder, KIND, key) as writer:
        writer.write(_FILE, save_tensors(state))


def load(folder: Folder, config: NetworkConfig, data: PreparedData, device: torch.device) -> Network:
    """The network, in evaluation mode.

    Raises:
        ArtefactError: there is none, or it was altered.
    """
    observer = networks.build(config, data.shape, data.num_classes)
    observer.load_state_dict(load_tensors(Artefact.require(folder, KIND).read(_FILE)))
    return observer.to(device).eval()


@dataclass(frozen=True)
class Observer(Ingredient[Network]):
    """The network by whose features real and distilled images are compared."""

    recipe: Recipe
    seed: int
    within: Folder | None = None
    """A folder other than the kitchen's."""

    kind = KIND
    title = KIND

    @cached_property
    def _key(self) -> str:
        return content_key(observer_identity(self.recipe, self.kitchen.network, self.kitchen.data, self.seed))

    def key(self) -> str:
        """Of network, data, recipe and seed."""
        return self._key

    @property
    def folder(self) -> Folder:
        """One for each key: other questions ask others."""
        return (self.within or self.kitchen.folder) / KIND / self.key()

    def verify(self, is_read: bool) -> None:
        """See that it is as it was written, where it is read."""
        if is_read:
            super().verify(is_read)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train it."""
        training = real_training(
            self.kitchen, self.recipe, Key.root(self.seed).child("selection"), f"observer-{self.key()}"
        )
        save(training.run(Work(KIND), progress), self.folder, self.key())
        training.checkpoints.delete()

    @cached_property
    def _opened(self) -> Network:
        return load(self.folder, self.kitchen.network, self.kitchen.data, self.kitchen.device)

    def open(self) -> Network:
        """The network, on this process's device, in evaluation mode."""
        return self._opened
