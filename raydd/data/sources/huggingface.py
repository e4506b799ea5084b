"""Datasets that the package `datasets` loads: from the Hugging Face Hub, from its cache, or from a local folder."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from raydd.core.errors import ConfigError, DataError
from raydd.data.columns import LabelColumn, check_one_kind, has_labels, holds_labels, labels_of, numbered
from raydd.data.listing import Item, Listing, open_encoded, some
from raydd.data.place import Place
from raydd.data.sources.parquet import class_names_in
from raydd.data.splits import divided, named_splits
from raydd.storage import Folder


def huggingface(place: Place) -> tuple[Listing, Listing]:
    """The training and the test split of what `datasets.load_dataset` loads, under any name of `raydd.data.splits`.

    Where there is no test split whose images have labels, it is the validation split; without one the training images
    are divided.

    Images are in the only column of type Image, labels in the only one of type ClassLabel (else in `label`), or in
    those that `data.image_column` and `data.label_column` name. Labels that are text become classes in the alphabetical
    order of the training labels. Rows are in the dataset's order. Nothing is read from the root.

    Args:
        place: its name is that on the Hub (`user/set`) or a local path (`./folder`); after a colon, if any, the
            configuration (`user/set:config`).

    Raises:
        ConfigError: the package is not installed, or a column must be named.
        DataError: there is no such dataset, or it lacks a split.
    """
    try:
        import datasets as package  # here, because it is optional
    except ImportError as error:
        problem = "needs the package datasets: pip install datasets"
        raise ConfigError("data.source", f"huggingface:{place.name} {problem}") from error
    name, _, configuration = place.name.partition(":")
    try:
        splits = package.load_dataset(name, configuration or None)
    except Exception as error:  # whatever the network, the cache and many kinds of files may come to
        raise DataError(f"huggingface:{place.name} cannot be loaded: {error}") from error
    named = named_splits(splits)
    if not named.train:
        raise DataError(f"huggingface:{place.name}: there is no split train, only {', '.join(splits)}; it is needed")
    features = splits[named.train[0]].features
    image, label = _columns(place, features, package)
    images = package.Image(decode=False)

    if (names := getattr(features[label], "names", None)) is not None and Path(name).is_dir():
        _require_one_order(Path(name), label, names)

    def opened(split: str) -> _Split:
        rows = splits[split].select_columns([image, label]).cast_column(image, images)
        return _Split(place, split, rows, image, label)

    train = opened(named.train[0])
    listing = train.listing(getattr(features[label], "names", None))
    for (split,) in named.tests:
        if has_labels(splits[split].select_columns([label]).with_format("arrow")[:].column(0)):
            tested = opened(split)
            check_one_kind([train.labels, tested.labels], train.where)
            return listing, replace(tested.listing(listing.class_names), division=named.division((split,)))
    return divided(listing, named.division())


def _require_one_order(folder: Path, label: str, names: Sequence[str]) -> None:
    """Raise a DataError where a file has its classes in another order: `datasets` takes the first one's for all."""
    for file in sorted(folder.rglob("*.parquet")):
        with suppress(pa.ArrowException, OSError):
            own = class_names_in(pq.read_schema(file), label, str(file))
            if own is not None and list(own) != list(names):
                raise DataError(
                    f"{file}: has the classes {some(own)} in this order, and the package datasets reads its labels as "
                    f"{some(names)}; read the folder with data.source parquet, which takes each file by its own names"
                )


def _columns(place: Place, features: Any, package: Any) -> tuple[str, str]:
    """The names of the columns with the images and with the labels."""
    images = [name for name, feature in features.items() if _is_image(feature, package)]
    classes = [name for name, feature in features.items() if isinstance(feature, package.ClassLabel)]
    if not classes and "label" in features:
        classes = ["label"]
    image = _only("data.image_column", place.image_column, images, list(features))
    label = _only("data.label_column", place.label_column, classes, list(features))
    if not _is_image(features[image], package):
        raise ConfigError("data.image_column", f"{image!r} must be of type Image, is {features[image]}")
    kind = getattr(features[label], "pa_type", None)
    if kind is None or not holds_labels(kind):
        raise ConfigError("data.label_column", f"{label!r} must be classes, integers or text, is {features[label]}")
    return image, label


def _is_image(feature: Any, package: Any) -> bool:
    """Whether a column is of images: said to be, or laid out as they are."""
    return isinstance(feature, package.Image) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _only(field: str, wanted: str | None, found: list[str], present: list[str]) -> str:
    if wanted is not None and wanted in present:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    unclear = "several columns may be meant" if found else "no column has the type"
    problem = f"there is no {wanted!r}" if wanted is not None else f"must be given, as {unclear}"
    raise ConfigError(field, f"{problem}; columns are {', '.join(present)}")


class _Split:
    """One split."""

    def __init__(self, place: Place, split: str, rows: Any, image: str, label: str) -> None:
        self.where = f"huggingface:{place.name}, {split}"
        self._name, self._root, self._path = place.name, place.root, f"huggingface:{place.name}/{split}"
        self._image, self._images = image, rows.select_columns([image])
        self.labels: LabelColumn = labels_of(rows.select_columns([label]).with_format("arrow")[:].column(0), self.where)

    def listing(self, class_names: Any) -> Listing:
        """Before decoding, with these classes, if they are known."""
        labels, names = numbered(self.labels, tuple(class_names) if class_names else None, self.where)
        dataset = Path(self._name.partition(":")[0]).name
        return Listing(dataset, self.where, names, labels, self._items, self._place)

    def _items(self, rows: Tensor) -> Iterator[Item]:
        for row in rows.tolist():
            yield Item(f"{self.where}, row {row}", partial(_open, self._images[row][self._image]))

    def _place(self, row: int) -> tuple[Folder, str]:
        return self._root, f"{self._path}#{row}"


def _open(cell: Any) -> Image.Image:
    """The image of a cell, which has its bytes or, of local files, their path."""
    if cell is None:
        return open_encoded(None)
    encoded, path = cell["bytes"], cell["path"]
    return open_encoded(Path(path).read_bytes() if encoded is None and path else encoded)
