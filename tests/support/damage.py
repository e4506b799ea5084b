"""Files of a run as disks, programs and people damage them."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from raydd.storage.artefact import FileEntry, Manifest

Draw = Callable[[st.SearchStrategy[Any]], Any]


def flipped(content: bytes, draw: Draw) -> bytes:
    """One byte is another."""
    if not content:
        return b"\0"
    place = draw(st.integers(0, len(content) - 1))
    return content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]


def cut(content: bytes, draw: Draw) -> bytes:
    """The end is missing."""
    return content[: draw(st.integers(0, max(0, len(content) - 1)))]


def emptied(content: bytes, draw: Draw) -> bytes:
    """All is missing, or zeros stand in its place, as after a power cut."""
    return draw(st.sampled_from([b"", bytes(len(content))]))


def longer(content: bytes, draw: Draw) -> bytes:
    """Something follows."""
    return content + draw(st.binary(min_size=1, max_size=9))


def header(content: bytes, draw: Draw) -> bytes:
    """The lengths at the beginning and at the end are others, by which formats find their parts."""
    place = draw(st.sampled_from([0, 4, 8, max(0, len(content) - 8), max(0, len(content) - 4)]))
    return content[:place] + draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x01\0\0\0"])) + content[place + 4 :]


_VALUES: list[Any] = [None, True, -1, 0, 10**30, 1e308, "", "x", "../x", [], {}, [[1]], {"a": 1}, "0" * 64]


def edited(content: bytes, draw: Draw) -> bytes:
    """A JSON file with another value, one name more or one less."""
    try:
        values = json.loads(content)
    except ValueError:
        return flipped(content, draw)
    for _ in range(3):
        part, steps = values, draw(st.integers(0, 3))
        for _ in range(steps):
            inner = [inside for inside in _parts(part) if isinstance(inside, dict | list) and inside]
            part = draw(st.sampled_from(inner)) if inner else part
        if isinstance(part, dict | list) and part:
            name = draw(st.sampled_from([*part] if isinstance(part, dict) else range(len(part))))
            if draw(st.booleans()):
                part[name] = draw(st.sampled_from(_VALUES))
            else:
                del part[name]
            break
    text = json.dumps(values, indent=2).encode()
    return text if text != content else content + b" "


def _parts(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


KINDS: Sequence[Callable[[bytes, Draw], bytes]] = (flipped, flipped, cut, emptied, longer, header, edited)
"""What happens to the content of one file."""


def harm(file: Path, others: Sequence[Path], draw: Draw) -> bool:
    """Damage a file, delete it, or put another in its place; returns whether it is different now."""
    content = file.read_bytes()
    what = draw(st.sampled_from([*KINDS, None, "another"]))
    if what is None:
        file.unlink()
        return True
    if what == "another":
        file.write_bytes(draw(st.sampled_from(others)).read_bytes())
    else:
        file.write_bytes(what(content, draw))
    return file.read_bytes() != content


def vouch(file: Path) -> None:
    """Make the manifest beside a file say that it is as it was written."""
    manifest = file.with_name("manifest.json")
    said = json.loads(manifest.read_bytes())
    for entry in said["files"].values():
        if entry["file"] == file.name and file.exists():
            content = file.read_bytes()
            entry |= {"size": len(content), "sha256": sha256(content).hexdigest()}
    files = {name: FileEntry(**entry) for name, entry in said["files"].items()}
    manifest.write_bytes(Manifest(kind=said["kind"], key=said["key"], files=files).dump())
