"""A dataset as the networks see it, computed once a run and memory-mapped by every process that needs it.

Letters: N real images, D = C * H * W.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from raydd import datasets, whitening
from raydd.datasets import DataConfig, ImageSet, Splits
from raydd.errors import DataError
from raydd.random import Key
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.whitening import Preprocessing

KIND = "data"
_TENSORS, _CARD = "data.safetensors", "card.json"


@dataclass(frozen=True)
class LabelledImages:
    """Images in network space with their classes."""

    images: Tensor
    """float32 [N, C, H, W]"""
    labels: Tensor
    """int64 [N]"""

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)


@dataclass(frozen=True)
class PreparedData:
    """Every split in network space, and how it got there."""

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    """Of the training images as they were before preprocessing."""
    preprocessing: Preprocessing
    train: LabelledImages
    test: LabelledImages
    validation: LabelledImages | None = None
    test_fingerprint: str = ""
    """Of the images that students are tested on, before preprocessing: the test split and the validation split."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)


def prepare(config: DataConfig, key: Key) -> PreparedData:
    """Load the dataset, fit the preprocessing on its training split, and apply it to all splits."""
    splits = datasets.load(config, key)
    return _apply(splits, whitening.fit(config, splits.train))


def apply(
    config: DataConfig, preprocessing: Preprocessing, shape: tuple[int, ...], class_names: tuple[str, ...], key: Key
) -> PreparedData:
    """Load the dataset and bring it into the network space of somebody else's preprocessing.

    Args:
        config: the dataset.
        preprocessing: fitted elsewhere.
        shape: C, H, W of the images that it was fitted on.
        class_names: their classes.
        key: of the validation split.

    Raises:
        DataError: the dataset has images of another shape, or other classes.
    """
    splits = datasets.load(config, key)
    for what, wanted, found in (
        ("images of", shape, splits.test.shape),
        ("the classes", class_names, splits.test.class_names),
    ):
        if found != wanted:
            raise DataError(
                f"{splits.test.name}: has {what} {found}, but the set was distilled for {wanted}; "
                "give the dataset, and the data.image_size, that it was distilled from"
            )
    return _apply(splits, preprocessing)


def _apply(splits: Splits, preprocessing: Preprocessing) -> PreparedData:
    def seen(images: ImageSet) -> LabelledImages:
        return LabelledImages(preprocessing.forward(images.images), images.labels)

    return PreparedData(
        name=splits.train.name,
        class_names=splits.train.class_names,
        fingerprint=splits.train.fingerprint,
        preprocessing=preprocessing,
        train=seen(splits.train),
        test=seen(splits.test),
        validation=None if splits.validation is None else seen(splits.validation),
        test_fingerprint=content_key(
            {
                "test": splits.test.fingerprint,
                "validation": None if splits.validation is None else splits.validation.fingerprint,
            }
        ),
    )


def save(data: PreparedData, folder: Folder, key: str) -> None:
    """Write the prepared data as one artefact."""
    tensors = {f"preprocessing.{name}": tensor for name, tensor in data.preprocessing.tensors().items()}
    for split in ("train", "test", "validation"):
        part: LabelledImages | None = getattr(data, split)
        if part is not None:
            tensors |= {f"{split}.{field.name}": getattr(part, field.name) for field in fields(part)}
    card: dict[str, Any] = {
        "name": data.name,
        "class_names": list(data.class_names),
        "fingerprint": data.fingerprint,
        "test_fingerprint": data.test_fingerprint,
        "preprocessing": data.preprocessing.describe(),
    }
    with new_artefact(folder, KIND, key) as writer:
        with writer.writing(_TENSORS) as path:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        writer.write(_CARD, json.dumps(card, indent=2).encode())


def open_saved(folder: Folder, key: str) -> PreparedData | None:
    """The data that `save` wrote under `key`, memory-mapped; None where there are none."""
    artefact = Artefact.find(folder, KIND)
    if artefact is None or artefact.manifest.key != key:
        return None
    card = json.loads(artefact.read(_CARD))
    tensors = load_file(artefact.local(_TENSORS))

    def split(name: str) -> LabelledImages | None:
        images = tensors.get(f"{name}.images")
        return None if images is None else LabelledImages(images, tensors[f"{name}.labels"])

    train, test = split("train"), split("test")
    assert train is not None and test is not None
    prefix = "preprocessing."
    parts = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return PreparedData(
        name=card["name"],
        class_names=tuple(card["class_names"]),
        fingerprint=card["fingerprint"],
        preprocessing=whitening.restore(card["preprocessing"], parts),
        train=train,
        test=test,
        validation=split("validation"),
        test_fingerprint=card["test_fingerprint"],
    )
