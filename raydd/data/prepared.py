"""A dataset as the networks see it, computed once a run and memory-mapped by every process that needs it.

Letters: N real images, C H W.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.data import fit_preprocessing, loading, streamed_splits
from raydd.data.config import DataConfig
from raydd.data.image_set import ImageSet, Splits
from raydd.data.images import Images, Resident, as_images
from raydd.data.loading import Undecoded
from raydd.data.preprocessing import Preprocessing, restore
from raydd.data.streamed_images import ImageReader, Streamed
from raydd.data.streamed_splits import StreamedSplits
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.storage.readable import legible

KIND = "data"
_TENSORS, _CARD = "data.safetensors", "card.json"
_FORM = "pixels"  # of the files; another one has another name, so that it is made anew and not misread


@dataclass(frozen=True, init=False)
class LabelledImages:
    """Images in network space with their classes."""

    images: Images
    """[N, C, H, W], float32 when indexed."""
    labels: Tensor
    """int64 [N]"""

    def __init__(self, images: Images | Tensor, labels: Tensor) -> None:
        """Put together N images, which may be a tensor in network space, and their labels, int64 [N]."""
        object.__setattr__(self, "images", as_images(images))
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)


@dataclass(frozen=True)
class PreparedData:
    """Every split in network space, and how it got there."""

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    """Of the training images as they were before preprocessing; of streamed ones, of their files."""
    preprocessing: Preprocessing
    train: LabelledImages
    test: LabelledImages
    validation: LabelledImages | None = None
    test_fingerprint: str = ""
    """Of the images that students are tested on, before preprocessing: the test split and the validation split."""
    listed_by: DataConfig | None = None
    """What every process lists the images by again, where they are streamed."""
    skipped: tuple[int, ...] = ()
    """Rows of the training listing that cannot be decoded and were left out, where images are not streamed."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def read_by(self, reader: ImageReader) -> "PreparedData":
        """The same; what is streamed is decoded by somebody else."""

        def read(split: LabelledImages) -> LabelledImages:
            images = split.images
            return replace(split, images=replace(images, reader=reader)) if isinstance(images, Streamed) else split

        held_out = None if self.validation is None else read(self.validation)
        return replace(self, train=read(self.train), test=read(self.test), validation=held_out)


def prepare(config: DataConfig, key: Key, report: Folder | None = None) -> PreparedData:
    """Load the dataset, fit the preprocessing on its training split, and apply it to all splits.

    Where images are to be streamed, they are looked at and not kept; see `streamed_splits`. The report is a folder that
    gets the list of images that cannot be decoded, or not as they are stored, where there are any; see `data.load`.
    """
    if streamed_splits.streams(config):
        listed = streamed_splits.look(config, key, report)
        return _streamed(
            listed, fit_preprocessing.fit(config, listed.training_blocks()), config, *_fingerprints(listed)
        )
    splits = loading.load(config, key, report)
    return _apply(splits, fit_preprocessing.fit(config, splits.train))


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
    wanted = {"images of": shape, "the classes": class_names}
    if streamed_splits.streams(config):
        listed = streamed_splits.look(config, key)
        listing = listed.test.listing
        _require_same(listing.dataset, {"images of": listed.shape, "the classes": listing.class_names}, wanted)
        return _streamed(listed, preprocessing, config, *_fingerprints(listed))
    splits = loading.load(config, key)
    test = splits.test
    _require_same(test.name, {"images of": test.shape, "the classes": test.class_names}, wanted)
    return _apply(splits, preprocessing)


def _require_same(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for what, value in wanted.items():
        if found[what] != value:
            raise DataError(
                f"{name}: has {what} {found[what]}, but the set was distilled for {value}; "
                "give the dataset, and the data.image_size, that it was distilled from"
            )


def _apply(splits: Splits, preprocessing: Preprocessing) -> PreparedData:
    def seen(images: ImageSet) -> LabelledImages:
        return LabelledImages(Resident.of(images.images, preprocessing), images.labels)

    held_out = splits.validation
    return PreparedData(
        name=splits.train.name,
        class_names=splits.train.class_names,
        fingerprint=splits.train.fingerprint,
        preprocessing=preprocessing,
        train=seen(splits.train),
        test=seen(splits.test),
        validation=None if held_out is None else seen(held_out),
        test_fingerprint=_tested(splits.test.fingerprint, None if held_out is None else held_out.fingerprint),
        skipped=splits.skipped,
    )


def _streamed(
    splits: StreamedSplits, preprocessing: Preprocessing, config: DataConfig, fingerprint: str, test_fingerprint: str
) -> PreparedData:
    def seen(files: Undecoded) -> LabelledImages:
        return LabelledImages(splits.streamed(files, preprocessing), files.labels)

    held_out, listing = splits.validation, splits.train.listing
    return PreparedData(
        name=listing.dataset,
        class_names=listing.class_names,
        fingerprint=fingerprint,
        preprocessing=preprocessing,
        train=seen(splits.train),
        test=seen(splits.test),
        validation=None if held_out is None else seen(held_out),
        test_fingerprint=test_fingerprint,
        listed_by=config,
    )


def _fingerprints(splits: StreamedSplits) -> tuple[str, str]:
    """Of the training images, and of those that students are tested on."""
    held_out = None if splits.validation is None else splits.fingerprint(splits.validation)
    return splits.fingerprint(splits.train), _tested(splits.fingerprint(splits.test), held_out)


def _tested(test: str, validation: str | None) -> str:
    return content_key({"test": test, "validation": validation})


def save(data: PreparedData, folder: Folder, key: str) -> None:
    """Write the prepared data as one artefact: the pixels that are in memory, and the rows of images that are not."""
    tensors = {f"preprocessing.{name}": tensor for name, tensor in data.preprocessing.tensors().items()}
    for split in ("train", "test", "validation"):
        part: LabelledImages | None = getattr(data, split)
        if part is not None:
            tensors |= {f"{split}.labels": part.labels, **_stored(split, part.images)}
    card: dict[str, Any] = {
        "name": data.name,
        "class_names": list(data.class_names),
        "fingerprint": data.fingerprint,
        "test_fingerprint": data.test_fingerprint,
        "preprocessing": data.preprocessing.describe(),
        "skipped": list(data.skipped),
    }
    if data.listed_by is not None:
        card |= {"listed_by": asdict(data.listed_by), "shape": list(data.shape)}
    with new_artefact(folder, KIND, _stored_key(key)) as writer:
        with writer.writing(_TENSORS) as path:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        writer.write(_CARD, json.dumps(card, indent=2).encode())


def open_saved(folder: Folder, key: str) -> PreparedData | None:
    """The data that `save` wrote under `key`, memory-mapped; None where there are none."""
    artefact = Artefact.find(folder, KIND)
    if artefact is None or artefact.manifest.key != _stored_key(key):
        return None
    with legible(folder.uri):
        return _read(artefact)


def _read(artefact: Artefact) -> PreparedData:
    """The data in an artefact."""
    card = json.loads(artefact.read(_CARD))
    tensors = load_file(artefact.local(_TENSORS))
    prefix = "preprocessing."
    parts = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    preprocessing = restore(card["preprocessing"], parts)
    if "listed_by" in card:
        rows = {name.removesuffix(".rows"): tensor for name, tensor in tensors.items() if name.endswith(".rows")}
        config = DataConfig(**card["listed_by"])
        listed = streamed_splits.list_again(config, rows, tuple(card["shape"]))
        return _streamed(listed, preprocessing, config, card["fingerprint"], card["test_fingerprint"])

    def split(name: str) -> LabelledImages | None:
        pixels = tensors.get(f"{name}.images")
        if pixels is None:
            return None
        labels = tensors[f"{name}.labels"]
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(card["class_names"]):
            raise ValueError(f"labels of {name} that are no class")
        return LabelledImages(Resident(pixels, preprocessing if pixels.dtype == torch.uint8 else None), labels)

    train, test = split("train"), split("test")
    assert train is not None and test is not None
    return PreparedData(
        name=card["name"],
        class_names=tuple(card["class_names"]),
        fingerprint=card["fingerprint"],
        preprocessing=preprocessing,
        train=train,
        test=test,
        validation=split("validation"),
        test_fingerprint=card["test_fingerprint"],
        skipped=tuple(card["skipped"]),
    )


def _stored(split: str, images: Images) -> dict[str, Tensor]:
    if isinstance(images, Streamed):
        return {f"{split}.rows": images.files.rows}
    assert isinstance(images, Resident)
    return {f"{split}.images": images.pixels}


def _stored_key(key: str) -> str:
    return content_key({"data": key, "form": _FORM})
