"""A trained student that is kept: an artefact of its parameters, with all that is needed to ask it about an image.

Letters: B images, K classes, C H W.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from raydd import networks
from raydd.data.preprocessing import Preprocessing, restore
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, new_artefact
from raydd.storage.readable import legible

KIND: Final = "student"
PARAMETERS: Final = "student.safetensors"
_CARD: Final = "card.json"
_PREPROCESSING: Final = "preprocessing.safetensors"


@dataclass(frozen=True, kw_only=True)
class KeptStudent:
    """A student and what it may be used with."""

    network: NetworkConfig
    parameters: Mapping[str, Tensor]
    """With the buffers, by the network's own names."""
    shape: tuple[int, int, int]
    """C, H, W of its images."""
    class_names: tuple[str, ...]
    """In the order of its logits."""
    preprocessing: Preprocessing
    about: Mapping[str, Any]
    """What is known of it, as JSON: its record, its accuracies, its recipe."""

    def save(self, folder: Folder, key: str) -> None:
        """Write the artefact."""
        card = {
            "network": asdict(self.network),
            "shape": self.shape,
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.describe(),
            "about": self.about,
        }
        with new_artefact(folder, KIND, key) as writer:
            writer.write(PARAMETERS, save({name: tensor.contiguous() for name, tensor in self.parameters.items()}))
            if tensors := self.preprocessing.tensors():
                writer.write(_PREPROCESSING, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
            writer.write(_CARD, json.dumps(card, indent=2).encode())

    @classmethod
    def load(cls, folder: Folder) -> "KeptStudent":
        """Read the artefact.

        Raises:
            ArtefactError: there is none, or it is damaged.
        """
        artefact = Artefact.require(folder, KIND)
        with legible(folder.uri):
            card = json.loads(artefact.read(_CARD))
            large = load(artefact.read(_PREPROCESSING)) if _PREPROCESSING in artefact.names() else {}
            return cls(
                network=NetworkConfig(**card["network"]),
                parameters=load(artefact.read(PARAMETERS)),
                shape=tuple(card["shape"]),
                class_names=tuple(card["class_names"]),
                preprocessing=restore(card["preprocessing"], large),
                about=card["about"],
            )

    def module(self) -> nn.Module:
        """From pixels in [0, 1], float32 [B, C, H, W], to logits [B, K]."""
        network = networks.build(self.network, self.shape, len(self.class_names))
        network.load_state_dict(dict(self.parameters))
        return OnPixels(network, self.preprocessing).eval()


class OnPixels(nn.Module):
    """A network behind the map into its space."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Of this network."""
        super().__init__()
        self.network = network
        self._into_space = preprocessing.on(torch.device("cpu"), torch.float32)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K] of pixels in [0, 1]."""
        logits: Tensor = self.network(self._into_space(images_BCHW))
        return logits
