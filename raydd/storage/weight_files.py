"""Files of parameters that others made: .safetensors, or torchvision's .pt and .pth."""

import io
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.storage.folder import Folder


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
    """The tensors in a file, by name; of a training checkpoint those of its `model`.

    Args:
        raw: its content.
        name: of the file, whose ending says what it is.

    Raises:
        ArtefactError: it holds none, or other things too.
    """
    try:
        if name.endswith(".safetensors"):
            return load_tensors(raw)
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ArtefactError(
            f"{name}: holds no parameters that can be read ({first_line}); give another file"
        ) from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ArtefactError(f"{name}: is not a mapping of names to tensors; save the network's state_dict() alone")
    return state
