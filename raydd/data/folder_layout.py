"""What a folder is, that somebody names alone: which source reads it, and how.

Nothing is decoded: names of files and folders tell it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raydd.core.errors import DataError, UserError
from raydd.data.config import DataConfig
from raydd.data.image_files import folders_of_images, image_files
from raydd.data.sources.imagefolder import split_folders
from raydd.data.sources.table import PLACES, has_any
from raydd.data.splits import kind_of, named_files
from raydd.storage import Folder

_PARQUET: Final = ".parquet"
_OWN_LAYOUT: Final = ("tiny-imagenet-200", "cifar-10-batches-py", "cifar-100-python")
"""Folders that are a dataset by themselves, and are looked for in the folder above."""


@dataclass(frozen=True)
class TakenFolder:
    """A folder as it is read."""

    data: DataConfig
    said: tuple[str, ...]
    """Why so, in sentences."""


def take(where: str) -> TakenFolder:
    """Find out what a folder, or a Parquet file in one, is.

    Args:
        where: a path or a URI.

    Raises:
        UserError: there is no such folder, or nothing in it that is read; says what would be.
    """
    if "://" not in where and Path(where).is_file():
        return _of_file(Path(where))
    root = Folder.at(where)
    if not root.exists():
        raise UserError(
            f"{where}: there is no such folder, and no dataset of this name; raydd methods lists the datasets"
        )
    if found := _known(root):
        return found
    inner, said = _unwrapped(root)
    if any(file.endswith(_PARQUET) for file in inner.files()):
        return TakenFolder(_config("parquet", inner), (*said, f"{inner.uri} is read as Parquet files"))
    _refuse_loose_images(inner)
    nested, why = _nested(inner)
    splits = split_folders(inner).used
    kind = f"with {' and '.join(splits)}" if splits else "of class folders"
    taken = f"{inner.uri} is read as a folder of images, {kind}"
    return TakenFolder(_config("imagefolder", inner, nested), (*said, taken, *why))


def flags_of(data: DataConfig, prefix: str) -> list[str]:
    """The flags by which a command reads the images of a folder that was taken."""
    said = {"source": data.source, "root": data.root or "", "nested": data.nested}
    default = {"root": "", "nested": "skip"}
    return [word for name, value in said.items() if value != default.get(name) for word in (f"{prefix}{name}", value)]


def _config(source: str, root: Folder, nested: str = "skip") -> DataConfig:
    assert nested in ("skip", "classes", "images")
    return DataConfig(source=source, root=root.uri, nested=nested)  # type: ignore[arg-type]


def _of_file(path: Path) -> TakenFolder:
    """A file of a split stands for its folder."""
    folder = Folder.at(path.parent)
    if path.suffix != _PARQUET:
        raise UserError(f"{path}: is a file; give the folder that holds a folder of images for each class")
    if not named_files([path.stem]).used:
        raise DataError(
            f"{path}: does not say by its name which split it is; name it train.parquet, put a test.parquet beside it, "
            "and give the folder"
        )
    return TakenFolder(_config("parquet", folder), (f"{folder.uri} is read as Parquet files, {path.name} among them",))


def _known(root: Folder) -> TakenFolder | None:
    """The dataset of the literature that a folder holds, or is; of several the question which."""
    names = {*root.files(), *root.folders()}
    looked_in = [(root, names)]
    if root.is_local and root.path.name in _OWN_LAYOUT:
        looked_in.append((Folder.at(root.path.parent), {root.path.name}))
    found = [
        (source, place)
        for source, paths in PLACES.items()
        for place, there in looked_in
        if ":" not in source and there & {path.partition("/")[0] for path in paths} and has_any(source, place)
    ]
    if len(found) > 1:
        (first, place), listed = found[0], ", ".join(source for source, _ in found)
        raise UserError(
            f"{root.uri}: holds several datasets, {listed}; name one, as in: raydd inspect {first} --root {place.uri}"
        )
    if not found:
        return None
    source, place = found[0]
    return TakenFolder(_config(source, place), (f"{root.uri} is read as {source}, as its files are laid out so",))


def _unwrapped(root: Folder) -> tuple[Folder, tuple[str, ...]]:
    """The folder that is meant where the one that is named holds nothing but another one."""
    inner = root
    while True:
        folders = folders_of_images(inner)
        if len(folders) != 1 or kind_of(folders[0]) or _holds_data(inner):
            break
        below = inner / folders[0]
        if image_files(below) or not (below.folders() or _holds_data(below)):
            break
        inner = below
    if inner == root:
        return root, ()
    return inner, (f"{root.uri} holds nothing but the folder {inner.uri}, which is read in its place",)


def _holds_data(folder: Folder) -> bool:
    return any(file.endswith(_PARQUET) for file in folder.files()) or bool(image_files(folder))


def _refuse_loose_images(root: Folder) -> None:
    """Raise a DataError where there are images, and no folders that would say of which class they are."""
    if (images := image_files(root)) and not folders_of_images(root):
        raise DataError(
            f"{root.uri}: holds {len(images):,} image{'s' * (len(images) != 1)} and no folders; put the images of each "
            "class into a folder of its own, whose name is that of the class"
        )


def _nested(root: Folder) -> tuple[str, tuple[str, ...]]:
    """How folders inside class folders are read, and why: see `DataConfig.nested`."""
    train = split_folders(root).train
    folder = root / train[0] if train else root
    names = folders_of_images(folder)
    inner = {
        name: [below for below in (folder / name).folders() if _has_images(folder / name / below)] for name in names
    }
    deep = [name for name in names if inner[name]]
    if not deep:
        return "skip", ()
    loose = [name for name in deep if image_files(folder / name)]
    if loose:
        return "skip", (
            f"{_some(loose)} in {folder.uri}: images inside folders of a class folder are passed over beside the "
            "images that lie in it; --data.nested images takes them as images of the class, too",
        )
    example = f"{deep[0]} holds no images but folders ({_some(inner[deep[0]])})"
    same = len({tuple(found) for found in inner.values()}) == 1 and len(names) > 1
    if same:
        return "images", (
            f"{example}, which are alike in every class: all that lies inside is read as images of the class "
            "(--data.nested images; --data.nested classes makes each a class)",
        )
    return "classes", (
        f"{example}: every innermost folder is read as a class (--data.nested classes; --data.nested images makes "
        f"{len(names)} classes, {_some(names)}, of what lies inside)",
    )


def _has_images(folder: Folder) -> bool:
    return bool(image_files(folder)) or any(_has_images(folder / name) for name in folder.folders())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
