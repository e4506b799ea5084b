"""The files of a dataset's folder that are no images of it, and why."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from PIL import Image

from raydd.data.config import DataConfig
from raydd.data.listing import path_below
from raydd.data.loading import checked_listings, default_root
from raydd.data.sources.imagefolder import TEST_SPLITS
from raydd.storage import Folder

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
    reason = _Reason(config, root)
    return Counter(reason.of(PurePosixPath(path)) for path in _files(root) if path not in used)


def division(config: DataConfig) -> str:
    """Whose division into training and test images it is, in a sentence."""
    if config.source not in _IN_FOLDERS:
        return "training and test images are divided as the dataset was published"
    found, where = _test_split(config)
    if found is None:
        return (
            "no test images are given: raydd keeps one in five of every class for testing, drawn by chance, the same "
            "ones for every seed"
        )
    others = "; there is no test split" if found == "val" else ""
    if (
        found == "test"
        and config.source == "imagefolder"
        and "val" in Folder.at(config.root or default_root()).folders()
    ):
        others = "; val/ is not read: raydd holds out images of its own with data.validation_fraction"
    return f"test images are those of {where}, as given{others}"


def _test_split(config: DataConfig) -> tuple[str | None, str]:
    """The name of the split that is tested on, and where it is."""
    root = Folder.at(config.root or default_root())
    for split in TEST_SPLITS:
        if config.source == "imagefolder" and split in root.folders():
            return split, f"{split}/"
        if config.source == "parquet" and any(name.startswith(split) for name in root.files()):
            return split, f"{split}*.parquet"
    return None, ""


class _Reason:
    """Why files are not read."""

    def __init__(self, config: DataConfig, root: Folder) -> None:
        self._config, self._suffixes = config, Image.registered_extensions()
        folders = root.folders() if config.source == "imagefolder" else []
        test = next((name for name in TEST_SPLITS if name in folders), None)
        self._splits = [name for name in ("train", test) if name in folders]

    def of(self, path: PurePosixPath) -> str:
        """Of a file below the root."""
        if self._config.source == "parquet":
            return "no file of the splits that are read"
        top, *inside = path.parts
        if self._splits and inside and top not in self._splits:
            return f"in {top}/, which is not read"
        if path.suffix.lower() not in self._suffixes:
            return f"no image by its name ({path.suffix.lower() or 'no suffix'})"
        below = inside if self._splits else path.parts
        if len(below) == 1 or not inside:
            return "beside the class folders"
        if len(below) > 2 and self._config.nested == "skip":
            return "in folders inside class folders"
        return "of classes that are not asked for, or beside folders of classes"


def _files(folder: Folder, path: str = "") -> Iterator[str]:
    """The paths of all files below a folder."""
    yield from (f"{path}{name}" for name in folder.files())
    for name in folder.folders():
        yield from _files(folder / name, f"{path}{name}/")
