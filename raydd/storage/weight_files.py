"""Files of parameters that others made: .safetensors, or what torch.save wrote of a network or of its training."""

import io
from argparse import Namespace
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.storage.folder import Folder

_OF_NETWORK: Final = ("model", "state_dict", "model_state_dict", "net", "network", "model_state")
"""What training code calls the parameters in a checkpoint."""


def read(path: str, field: str) -> bytes:
    """The content of a file at a path or a URI.

    Raises:
        ConfigError: naming the field, where there is no such file.
    """
    folder, name = Folder.of_file(path)
    try:
        return folder.read(name)
    except UserError as error:
        raise ConfigError(field, f"cannot be read: {error}") from error


def parameters(raw: bytes, name: str) -> dict[str, Tensor]:
    """The tensors in a file, by name; of a training checkpoint those of its network.

    Args:
        raw: its content.
        name: of the file, whose ending says what it is.

    Raises:
        ArtefactError: it holds none, or other things too.
    """
    try:
        if name.endswith(".safetensors"):
            return load_tensors(raw)
        with torch.serialization.safe_globals([Namespace]):  # torchvision's trainer keeps its arguments
            state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ArtefactError(
            f"{name}: holds no parameters that can be read ({first_line}); give another file"
        ) from error
    if not isinstance(state, dict):
        raise ArtefactError(f"{name}: is not a mapping of names to tensors; save the network's state_dict() alone")
    found = next((state[key] for key in _OF_NETWORK if _are_tensors(state.get(key))), state)
    if not _are_tensors(found):
        inside = ", ".join(map(str, list(state)[:5]))
        raise ArtefactError(
            f"{name}: holds {inside}, and no mapping of names to tensors under {', '.join(_OF_NETWORK)}; save the "
            "network's state_dict() alone"
        )
    return dict(found)


def _are_tensors(state: Any) -> bool:
    return isinstance(state, Mapping) and bool(state) and all(isinstance(tensor, Tensor) for tensor in state.values())
