"""Tiny-ImageNet (Le and Yang, 2015): 200 classes of ImageNet at 64x64, from Parquet files or as it is handed out."""

from dataclasses import replace

from raydd.core.errors import DataError
from raydd.data.image_files import image_files
from raydd.data.listing import Listing, some
from raydd.data.place import Place
from raydd.data.sources.imagefolder import File, listing_of
from raydd.data.sources.parquet import parquet
from raydd.storage import Folder

NAME = "tiny-imagenet"
_NATIVE = "tiny-imagenet-200"
_ANNOTATIONS = "val_annotations.txt"


def tiny_imagenet(place: Place) -> tuple[Listing, Listing]:
    """The training split (100,000) and, to test on as the papers do, the validation split (10,000).

    From the first of: `root/tiny-imagenet/{train,val}*.parquet` in the Hugging Face image layout;
    `root/tiny-imagenet-200` as it is handed out, with `train/<wnid>/images/*` and `val/images/*` under
    `val/val_annotations.txt`, or with the validation images sorted into `val/<wnid>` or `val/images/<wnid>`. The
    unlabelled test images are not used. Classes are in the order of their wnids, images in that of their files' names,
    however the folders are laid out.

    Raises:
        DataError: it is nowhere, or images and annotations do not belong together; says where it was looked for.
    """
    root, folder = place.root, place.root / NAME
    if any(file.endswith(".parquet") for file in folder.files()):
        return parquet(replace(place, root=folder), is_published=True)
    native = root / _NATIVE
    if not native.exists():
        raise DataError(
            f"Tiny-ImageNet was looked for in {folder.uri} (train*.parquet, val*.parquet, columns image and label) and "
            f"in {native.uri} (train/<wnid>/images, val). Put the files into one of these folders, or set data.root "
            "(or RAYDD_DATA) to the folder above them."
        )
    train = _in_class_folders(native / "train")
    return train, _validation(native / "val", train.class_names)


def _in_class_folders(folder: Folder) -> Listing:
    """`folder/<wnid>/*`, or `folder/<wnid>/images/*`."""
    wnids = tuple(name for name in folder.folders() if name != "images")
    if not wnids:
        raise DataError(f"{folder.uri}: there are no class folders, named n01443537 and so on")
    files: list[File] = []
    for label, wnid in enumerate(wnids):
        place = folder / wnid
        place = place / "images" if "images" in place.folders() else place
        files += [(label, place, file) for file in image_files(place)]
    return listing_of(NAME, folder.uri, wnids, files)


def _validation(folder: Folder, wnids: tuple[str, ...]) -> Listing:
    images = folder / "images"
    if image_files(images):
        return _annotated(folder, wnids)
    return _in_class_folders(images if images.folders() else folder)


def _annotated(folder: Folder, wnids: tuple[str, ...]) -> Listing:
    """`folder/images/*`, whose classes `folder/val_annotations.txt` tells: file, wnid and bounding box between tabs."""
    where, images = (folder / _ANNOTATIONS).uri, folder / "images"
    if not folder.has(_ANNOTATIONS):
        raise DataError(f"{where}: there is no such file, which tells the classes of the images in {images.uri}")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    lines = folder.read(_ANNOTATIONS).decode("utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise DataError(
                f"{where}, line {number}: expected a file and one of the {len(wnids)} wnids of the training images, "
                f"with a tab between them, is {line!r}"
            )
        labels[file] = label_of[wnid]
    present = image_files(images)
    if odd := sorted(set(present) ^ set(labels)):
        raise DataError(f"{where}: these have only one of image and line: {some(odd)}; unpack the dataset again")
    files = sorted((labels[file], file) for file in present)
    return listing_of(NAME, images.uri, wnids, [(label, images, file) for label, file in files])
