"""MedMNIST v2 (Yang et al., Scientific Data 2023, https://arxiv.org/abs/2110.14795): medical images of one size."""

from typing import Any

import torch
from PIL import Image

from raydd.core.errors import ConfigError, DataError
from raydd.data.indexed import indexed
from raydd.data.listing import Listing
from raydd.data.place import Place
from raydd.storage import Folder

FOLDER = "medmnist"


def file_of(name: str) -> str:
    """The file below the root that holds a set, called by its name, or by name and size (`pathmnist:64`)."""
    return f"{FOLDER}/{name.replace(':', '_')}.npz"


def medmnist(place: Place) -> tuple[Listing, Listing]:
    """The training and the test split of a 2-D set with one class an image; MedMNIST's validation split is left out.

    From `root/medmnist/<name>.npz` (`<name>_64.npz` and so on for larger images), where the package `medmnist`
    downloads it and checks its sum. Ordered grades (RetinaMNIST) are classes like others.

    Args:
        place: its name is that of the set, with `:64`, `:128` or `:224` after it for images of this size.

    Raises:
        ConfigError: the package is not installed.
        DataError: the file is nowhere, or damaged; says where it was looked for.
    """
    try:
        import medmnist as package  # here, because it is optional
    except ImportError as error:
        problem = "needs the package medmnist: pip install 'raydd[medmnist]'"
        raise ConfigError("data.source", f"medmnist:{place.name} {problem}") from error
    name, _, size = place.name.partition(":")
    info = package.INFO[name]
    train, test = _read(place, getattr(package, info["python_class"]), info, size)
    class_names = tuple(info["label"][str(label)] for label in range(len(info["label"])))
    dataset = place.name.replace(":", "-")
    folder = place.root / FOLDER
    return _listing(dataset, "train", class_names, train, folder), _listing(dataset, "test", class_names, test, folder)


def _read(place: Place, reader: Any, info: Any, size: str) -> tuple[Any, Any]:
    """The package's own readers of both splits."""
    from torchvision.datasets.utils import check_integrity

    file = file_of(place.name)
    where = f"{place.name} was looked for in {(place.root / file).uri}"
    remedy = "Put the file there, or set data.root (or RAYDD_DATA) to the folder above medmnist."
    if not place.root.is_local:
        raise DataError(f"{where}, which is no local folder. {remedy}")
    path = place.root.path / file
    present = path.exists()
    if present and not check_integrity(path, info[f"MD5_{size}" if size else "MD5"]):
        raise DataError(f"{where}, and what is there is damaged: its MD5 is not MedMNIST's. Delete it. {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"root": str(path.parent), "size": int(size) if size else None, "download": not present}
    try:
        return reader(split="train", **options), reader(split="test", **options)
    except Exception as error:  # the package turns all that goes wrong in downloading into a RuntimeError of ten lines
        failed = "what is there is damaged" if present else "downloading it failed"
        reason = " ".join(str(error.__context__ or error).split())
        raise DataError(f"{where}, and {failed}: {reason}. {remedy}") from error


def _listing(dataset: str, split: str, class_names: tuple[str, ...], images: Any, folder: Folder) -> Listing:
    def opened(row: int) -> Image.Image:
        image: Image.Image = images[row][0]
        return image

    labels = torch.as_tensor(images.labels[:, 0], dtype=torch.int64)
    return indexed(dataset, split, class_names, labels, opened, folder)
