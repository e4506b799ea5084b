"""A network that was trained on all the real images of the training split, by whose features images are compared."""

from typing import Any, Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from raydd import networks
from raydd.data.prepared import PreparedData
from raydd.ingredients.real_training import real_training_identity
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, new_artefact
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
