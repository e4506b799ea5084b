"""Where a source finds its images, and what it is told about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from raydd.storage import Folder

Nested: TypeAlias = Literal["skip", "classes", "images"]
"""What folders inside class folders are."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the user says of a dataset besides its source."""

    root: Folder
    """The folder that `data.root` names."""
    name: str = ""
    """What follows the first colon of `data.source`: one of a family of datasets."""
    image_column: str | None = None
    """`data.image_column`."""
    label_column: str | None = None
    """`data.label_column`."""
    nested: Nested = "skip"
    """`data.nested`."""

    def label_columns(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The columns that may hold the labels, the best first: the user's, or else those that are known."""
        return (self.label_column,) if self.label_column else known

    def image_columns(self) -> tuple[str, ...]:
        """The columns that may hold the images, the best first: the user's, or else those of the Hugging Face Hub."""
        return (self.image_column,) if self.image_column else ("image", "img")


def is_there(root: Folder, path: str) -> bool:
    """Whether there is a file or a folder at this path below the root."""
    return (root / path).exists() or root.has(path)


def traces(root: Folder, path: str = "") -> Iterator[str]:
    """A line with name, size and time for every file at a path below the root, and below it; none is read."""
    above, _, name = path.rpartition("/")
    if name and root.has(path):
        folder = root / above if above else root
        yield from (_trace(folder, info) for info in folder.listing() if info.base_name == name)
    else:
        yield from _walk(root / path if path else root)


def _walk(folder: Folder) -> Iterator[str]:
    yield from (_trace(folder, info) for info in folder.listing() if info.is_file)
    for name in folder.folders():
        yield from _walk(folder / name)


def _trace(folder: Folder, info: Any) -> str:
    return f"{folder.uri} {info.base_name} {info.size} {info.mtime_ns}"
