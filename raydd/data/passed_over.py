"""The files of a dataset's folder that are no images of it, and why."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from raydd.data.config import DataConfig
from raydd.data.division import Division
from raydd.data.image_files import LEFT_BY_SYSTEMS, suffixes
from raydd.data.listing import path_below
from raydd.data.loading import checked_listings
from raydd.data.sources.imagefolder import split_folders
from raydd.storage import Folder
from raydd.storage.folder import leads_back

_DANGLING: Final = "links to nothing: what they stand for was not fetched, as by git-annex or DVC"
_LOOPS: Final = "links to a folder that they lie in"
_SPECIAL: Final = "no files that can be read (pipes, sockets, devices)"
_OF_HEIF: Final = (".heic", ".heif", ".hif")
_UNREADABLE: Final = "under names that are not UTF-8: rename them"
_IN_FOLDERS: Final = ("imagefolder", "parquet")
"""Sources that look in the whole of their folder."""


def passed_over(config: DataConfig) -> Counter[str]:
    """How many files below the folder are not read, by the reason; empty for sources with files of their own.

    Raises:
        DataError: as `load`.
    """
    if config.source not in _IN_FOLDERS:
        return Counter()
    root, *listings = checked_listings(config)
    used = {
        str(path_below(root, folder) / name.partition("#")[0])
        for listing in listings
        for folder, name in map(listing.place, range(len(listing.labels)))
    }
    reason = _Reason(config, root, listings[1].division)
    counts = Counter(reason.of(PurePosixPath(path)) for path in _files(root) if path not in used)
    return counts + (_no_files(root.path) if root.is_local else Counter())


def division(config: DataConfig) -> Division | None:
    """Whose division into training and test images it is, and which splits are not read; None as published.

    Raises:
        DataError: as `load`.
    """
    if config.source.partition(":")[0] not in (*_IN_FOLDERS, "huggingface"):
        return None
    _, _, test = checked_listings(config)
    return test.division


class _Reason:
    """Why files are not read."""

    def __init__(self, config: DataConfig, root: Folder, division: Division | None) -> None:
        self._config = config
        unread = () if division is None else division.unread
        used = split_folders(root).used if config.source == "imagefolder" else ()
        self._splits = [name for name in used if f"{name}/" not in unread]

    def of(self, path: PurePosixPath) -> str:
        """Of a file below the root."""
        if self._config.source == "parquet":
            return "no file of the splits that are read"
        top, *inside = path.parts
        if systems := [part for part in path.parts[:-1] if part in LEFT_BY_SYSTEMS]:
            return f"in {systems[0]}/, which no person has made"
        if self._splits and inside and top not in self._splits:
            return f"in {top}/, which is not read"
        if path.suffix.lower() not in suffixes():
            heif = "; pip install pillow-heif" if path.suffix.lower() in _OF_HEIF else ""
            return f"no image by its name ({path.suffix.lower() or 'no suffix'}{heif})"
        below = inside if self._splits else path.parts
        if len(below) == 1 or not inside:
            return "beside the class folders"
        if len(below) > 2 and self._config.nested == "skip":
            return "in folders inside class folders"
        return "of classes that are not asked for, or beside folders of classes"


def _no_files(folder: Path) -> Counter[str]:
    """What lies in the folders below under a name that is not hidden, and is neither a folder nor a file."""
    found: Counter[str] = Counter()
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if os.fsencode(entry.name).decode(errors="replace") != entry.name:
            found[_UNREADABLE] += 1
        elif leads_back(Path(entry.path)):
            found[_LOOPS] += 1
        elif entry.is_dir():
            found += _no_files(Path(entry.path))
        elif not entry.is_file():
            found[_DANGLING if entry.is_symlink() else _SPECIAL] += 1
    return found


def _files(folder: Folder, path: str = "") -> Iterator[str]:
    """The paths of all files below a folder."""
    yield from (f"{path}{name}" for name in folder.files())
    for name in folder.folders():
        yield from _files(folder / name, f"{path}{name}/")
