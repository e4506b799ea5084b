"""ImageNet-1K (Russakovsky et al., IJCV 2015): 1,000 classes of photographs that differ in size, and its subsets."""

from collections.abc import Mapping, Sequence
from typing import Final

from raydd.core.errors import DataError
from raydd.data.listing import Listing, some
from raydd.data.place import Place
from raydd.data.sources.imagefolder import in_class_folders, listing_of
from raydd.data.subsets import SUBSETS
from raydd.storage import Folder

NAME: Final = "imagenet"
SPLITS: Final = ("train", "val")
OWN_FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(f"{name}2{size}" for size in ("", "-320", "-160")) for name in ("imagenette", "imagewoof")
}
"""Folders that fast.ai's archives of a subset unpack to, the largest images first."""


def imagenet(place: Place) -> tuple[Listing, Listing]:
    """The training split (1,281,167) and, to test on as the papers do, the validation split (50,000); or a subset.

    From `root/imagenet/{train,val}/<wnid>/*`, as torchvision's `ImageNet` unpacks the archives. Classes are in the
    order of their wnids, which is that of torchvision's networks; images in that of their files' names.

    A subset, which `place.name` names, is read from its class folders alone; its classes are in the order of
    `SUBSETS`, which is that of the labels in the papers' code. ImageNette and ImageWoof are read from fast.ai's own
    folders, too, where the first one lacks them: those divide the images otherwise (9,469 and 3,925; 9,025 and 3,929).

    Raises:
        DataError: it is not there; says where it was looked for.
    """
    wnids = SUBSETS.get(place.name)
    folders = [place.root / name for name in (NAME, *OWN_FOLDERS.get(place.name, ()))]
    missing = [_missing(folder, wnids) for folder in folders]
    found = next((folder for folder, lacks in zip(folders, missing, strict=True) if not lacks), None)
    if found is None:
        raise DataError(
            f"{place.name or 'ImageNet-1K'} was looked for in {', '.join(folder.uri for folder in folders)}, and there "
            f"are no class folders {some(min(missing, key=len))} and so on: have torchvision.datasets.ImageNet unpack "
            "the archives there, or set data.root (or RAYDD_DATA) to the folder above imagenet"
        )
    train, val = (_split(place.name or NAME, found / split, wnids) for split in SPLITS)
    return train, val


def _missing(folder: Folder, wnids: Sequence[str] | None) -> list[str]:
    """The class folders that are not there; of all classes, of which none is known, the first one's."""
    present = {split: (folder / split).folders() for split in SPLITS}
    if wnids is None:
        return [f"{split}/n01440764" for split in SPLITS if not present[split]]
    return [f"{split}/{wnid}" for split in SPLITS for wnid in wnids if wnid not in present[split]]


def _split(name: str, folder: Folder, wnids: tuple[str, ...] | None) -> Listing:
    class_names = wnids or tuple(folder.folders())
    return listing_of(name, folder.uri, class_names, in_class_folders(folder, class_names))
