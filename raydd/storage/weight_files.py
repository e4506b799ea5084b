"""Files of parameters that others made: .safetensors, or what torch.save wrote of a network or of its training."""

import io
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Final

from safetensors.torch import load as load_tensors
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.storage.folder import Folder
from raydd.storage.foreign_files import guarded, pickled, require_stored

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
    with guarded(name, "a file of parameters", raw, ArtefactError):
        if name.endswith(".safetensors"):
            return load_tensors(raw)
        state = pickled(io.BytesIO(raw), name, [Namespace], ArtefactError)  # torchvision's trainer keeps its arguments
    if not isinstance(state, dict):
        raise ArtefactError(f"{name}: is not a mapping of names to tensors; save the network's state_dict() alone")
    found = next((state[key] for key in _OF_NETWORK if _are_tensors(state.get(key))), state)
    if not _are_tensors(found):
        inside = ", ".join(map(str, list(state)[:5]))
        raise ArtefactError(
            f"{name}: holds {inside}, and no mapping of names to tensors under {', '.join(_OF_NETWORK)}; save the "
            "network's state_dict() alone"
        )
    for inside, tensor in found.items():
        require_stored(tensor, f"{name}: {inside}", ArtefactError)
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{name}: {inside} has values that are not finite; give another file")
    return dict(found)


def _are_tensors(state: Any) -> bool:
    return isinstance(state, Mapping) and bool(state) and all(isinstance(tensor, Tensor) for tensor in state.values())
