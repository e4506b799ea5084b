"""Files of unfinished work that say their own digest and name, as no manifest vouches for them yet.

What goes on from a state that was damaged on its disk, or from another one's that lies under its name, would end with
a wrong result that looks like a right one. A name is that of the file and of the folder that it lies in, so that a run
may be moved. Files of earlier versions say none.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.storage.folder import Folder
from raydd.storage.readable import legible

_SEAL: Final = "raydd"
"""The one entry of a safetensors file's metadata, whose order is not kept where there are several."""

_LONGEST_HEADER: Final = 2**24
"""Bytes in which the seal is looked for."""


def write(folder: Folder, name: str, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
    """Make or replace a safetensors file of tensors on any device, and of facts that JSON can say."""
    folder.write(name, pack(tensors, facts, _name(folder, name)))


def read(folder: Folder, name: str) -> tuple[dict[str, Tensor], Any]:
    """What `write` was given.

    Raises:
        ArtefactError: the file is not as it was written, or is that of another name.
        UserError: there is none.
    """
    return unpack(folder.read(name), (folder / name).uri, _name(folder, name))


def pack(tensors: Mapping[str, Tensor], facts: Any = None, name: str | None = None) -> bytes:
    """The content of such a file; see `write`."""
    own = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    said = json.dumps(facts)
    return save(own, {_SEAL: json.dumps(_seal({"facts": said}, name, own, said))})


def unpack(raw: bytes, where: str, name: str | None = None) -> tuple[dict[str, Tensor], Any]:
    """What `pack` was given; see `read`.

    Args:
        raw: the file's content.
        where: its address, for the message.
        name: which it must say, if it says any.
    """
    with legible(where):
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        seal = json.loads(header["__metadata__"][_SEAL])
        said, tensors = seal["facts"], load(raw)
        _require(seal, tensors, said, where, name)
        return tensors, json.loads(said)


def verify(folder: Folder, name: str) -> bool:
    """Check a file of either kind; returns whether it is one.

    Raises:
        ArtefactError: it is not as it was written, or is that of another name.
    """
    if name.endswith(".safetensors"):
        with folder.local(name).open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER))
        if is_one := f'"{_SEAL}"'.encode() in header:
            read(folder, name)
        return is_one
    if not name.endswith(".json"):
        return False
    with legible((folder / name).uri):
        said = json.loads(folder.read(name))
    if is_one := isinstance(said, dict) and {"facts", "sha256"} <= said.keys():
        read_facts(folder, name)
    return is_one


def write_facts(folder: Folder, name: str, facts: Any) -> None:
    """Make or replace a JSON file of facts."""
    seal = _seal({"facts": facts}, _name(folder, name), {}, json.dumps(facts))
    folder.write(name, json.dumps(seal, indent=2).encode())


def read_facts(folder: Folder, name: str) -> Any:
    """What `write_facts` was given.

    Raises:
        ArtefactError: the file is not as it was written, or is that of another name.
        UserError: there is none.
    """
    where = (folder / name).uri
    with legible(where):
        seal = json.loads(folder.read(name))
        _require(seal, {}, json.dumps(seal["facts"]), where, _name(folder, name))
        return seal["facts"]


def _name(folder: Folder, name: str) -> str:
    return f"{folder.uri.rstrip('/').rpartition('/')[2]}/{name}"


def _seal(content: dict[str, Any], name: str | None, tensors: Mapping[str, Tensor], said: str) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {**content, **named, "sha256": _digest(tensors, said, name)}


def _digest(tensors: Mapping[str, Tensor], said: str, name: str | None) -> str:
    digest = hashlib.sha256(said.encode())
    for own, tensor in sorted(tensors.items()):
        digest.update(json.dumps([own, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    if name is not None:
        digest.update(name.encode())
    return digest.hexdigest()


def _require(seal: Mapping[str, Any], tensors: Mapping[str, Tensor], said: str, where: str, name: str | None) -> None:
    own = seal.get("name")
    if _digest(tensors, said, own) != seal["sha256"]:
        raise ValueError("the content is not what was written, its SHA-256 differs")
    if None not in (name, own) and name != own:
        raise ArtefactError(f"{where}: is the file {own} under another name; delete it and run again")
