"""Files of unfinished work that say their own digest, as no manifest vouches for them yet.

What goes on from a state that was damaged on its disk would end with a wrong result that looks like a right one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor

from raydd.storage.readable import legible

_SEAL: Final = "raydd"
"""The one entry of a safetensors file's metadata, whose order is not kept where there are several."""


def pack(tensors: Mapping[str, Tensor], facts: Any = None) -> bytes:
    """A safetensors file of tensors on any device, and of facts that JSON can say."""
    own = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    said = json.dumps(facts)
    return save(own, {_SEAL: json.dumps({"facts": said, "sha256": _digest(own, said)})})


def unpack(raw: bytes, where: str) -> tuple[dict[str, Tensor], Any]:
    """What `pack` was given.

    Args:
        raw: the file's content.
        where: its address, for the message.

    Raises:
        ArtefactError: it is not as it was written.
    """
    with legible(where):
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        seal = json.loads(header["__metadata__"][_SEAL])
        said, tensors = seal["facts"], load(raw)
        _require(_digest(tensors, said) == seal["sha256"])
        return tensors, json.loads(said)


def write_json(facts: Any) -> bytes:
    """A JSON file of facts."""
    return json.dumps({"facts": facts, "sha256": _digest({}, json.dumps(facts))}, indent=2).encode()


def read_json(raw: bytes, where: str) -> Any:
    """What `write_json` was given.

    Raises:
        ArtefactError: it is not as it was written; names `where`.
    """
    with legible(where):
        said = json.loads(raw)
        _require(_digest({}, json.dumps(said["facts"])) == said["sha256"])
        return said["facts"]


def _digest(tensors: Mapping[str, Tensor], said: str) -> str:
    digest = hashlib.sha256(said.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require(same: bool) -> None:
    if not same:
        raise ValueError("the content is not what was written, its SHA-256 differs")
