"""The way from a config to the splits of a dataset."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from itertools import chain

import torch
from torch import Tensor

from raydd.core.errors import DataError, UserError
from raydd.core.keyed_random import Key
from raydd.data import problems
from raydd.data.config import DataConfig
from raydd.data.decoding import Decoded, decode, decode_all, fitted, look_at
from raydd.data.facts import DataFacts
from raydd.data.folder_layout import flags_of, take
from raydd.data.image_set import ImageSet, Splits
from raydd.data.listing import Listing, check_same_classes, first_per_class, of_classes, path_below, some
from raydd.data.long_tail import long_tail_rows
from raydd.data.place import Place
from raydd.data.problems import ImageProblem
from raydd.data.sources.table import files, has_any, listings, places, published
from raydd.data.splits import check_divided
from raydd.data.stratified import drawn, drawn_of
from raydd.storage import Folder
from raydd.storage.cache import cache_folder


@dataclass(frozen=True)
class Undecoded:
    """Images of a split, not decoded yet: labels and files are known."""

    root: Folder
    listing: Listing
    rows: Tensor
    """int64 [N], ascending: where in the listing each of them is."""
    image_size: int | None

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self.listing.labels[self.rows]

    def subset(self, index: Tensor) -> "Undecoded":
        """Some of them, int64 ascending or bool [N]."""
        return replace(self, rows=self.rows[index])

    def paths(self) -> list[str]:
        """For each the file below the root that it is in, with "#" and its number there where a file holds many."""
        below = cache(lambda folder: path_below(self.root, folder))
        places = (self.listing.place(row) for row in self.rows.tolist())
        return [str(below(folder) / file) for folder, file in places]

    def decode(self, index: Tensor, channels: int) -> Tensor:
        """Some of them (int64 [B], ascending) as `load` decodes them, uint8 [B, C, H, W].

        Raises:
            DataError: images cannot be decoded, or differ in size although there is no `data.image_size`.
        """
        return decode(self.listing.items(self.rows[index]), len(index), self.image_size, channels)

    def first_size(self) -> tuple[int, int]:
        """Height and width of the first of them that can be decoded.

        Raises:
            DataError: none can.
        """
        for item in self.listing.items(self.rows):
            size = look_at(lambda image, mode: fitted(image, self.image_size).size, item).value
            if size is not None:
                return size[1], size[0]
        raise DataError(f"{self.listing.where}: no image can be decoded")


def undecoded(config: DataConfig, key: Key, skipped: Sequence[int] = ()) -> Undecoded:
    """List the images of `load(config, key).train`, in that order, without reading a pixel.

    Args:
        config: the dataset.
        key: of the validation split.
        skipped: rows that cannot be decoded, which nobody knows before all have been: `Splits.skipped`.

    Raises:
        DataError: as `load`.
    """
    train, _ = listed(config)
    can_be = train.subset(~torch.isin(train.rows, torch.tensor(skipped, dtype=torch.int64)))
    return hold_out_files(can_be, config.validation_fraction, key)[0]


def listed(config: DataConfig) -> tuple[Undecoded, Undecoded]:
    """The images that are trained on or held out, and those that are tested on; no pixel is read.

    Raises:
        DataError: as `load`.
    """
    root, train, test = checked_listings(config)
    rows = training_rows(train.labels, config), torch.arange(len(test.labels))
    return Undecoded(root, train, rows[0], config.size), Undecoded(root, test, rows[1], config.size)


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of the classes in the order of their labels, without reading a pixel.

    Raises:
        DataError: as `load`.
    """
    return checked_listings(config)[1].class_names


def paths(config: DataConfig, key: Key, skipped: Sequence[int] = ()) -> list[str]:
    """Where each image of `load(config, key).train` comes from: see `Undecoded.paths`."""
    return undecoded(config, key, skipped).paths()


def size_of(config: DataConfig) -> DataFacts | None:
    """The size of a dataset that has a name of its own, without reading a pixel; None for others.

    Counted in its labels where it is there; if not, as published, with classes of equal size.

    Raises:
        DataError: it is there, and damaged.
    """
    known = published(config.source)
    if known is None:
        return None
    root = Folder.at(config.root or default_root())
    if has_any(config.source, root):
        _, train, test = checked_listings(config)
        labels = train.labels
        known = replace(known, num_test=len(test.labels), num_classes=len(train.class_names), published=False)
    else:
        known = known.of_classes(known.num_classes if config.classes is None else len(config.classes))
        labels = torch.arange(known.num_train).remainder(known.num_classes)
    kept = labels[training_rows(labels, config)].bincount().tolist()
    held_out = sum(_held_out_size(count, config.validation_fraction) for count in kept)
    channels, height, width = known.shape
    shape = (channels, config.size or height, config.size or width)
    return replace(known, num_train=sum(kept) - held_out, num_validation=held_out, shape=shape)


def training_rows(labels: Tensor, config: DataConfig) -> Tensor:
    """Which rows of a training listing are trained on or held out, by its labels alone; int64, ascending."""
    rows = first_per_class(labels, config.train_limit_per_class)
    return rows if config.imbalance_factor is None else rows[long_tail_rows(labels[rows], config.imbalance_factor)]


def has_files(source: str) -> bool:
    """Whether a source reads its images from files of the user's."""
    return places(source) != ()


def load(config: DataConfig, key: Key, report: Folder | None = None) -> Splits:
    """Read, check and decode a dataset.

    Labels are read first and only the images that are kept are decoded. `key` draws the validation images, out of
    those that `train_limit_per_class` leaves and that can be decoded.

    Args:
        config: the dataset.
        key: of the validation split.
        report: gets a file `problems.csv` with all images that cannot be decoded or are not as they are stored.

    Raises:
        DataError: the dataset is missing or is not what it says; names the file, the class or the field to set.
    """
    train, test = listed(config)
    items = chain.from_iterable(part.listing.items(part.rows) for part in (train, test))
    found = decode_all(items, len(train) + len(test), config.size)
    wrong = _problems(found, len(train))
    tell_problems(wrong, config, report)
    is_train, is_test = found.is_kept[: len(train)], found.is_kept[len(train) :]
    num_train = int(is_train.sum())
    whole = _image_set(train.subset(is_train), found.images[:num_train])
    kept, held_out = hold_out(whole, config.validation_fraction, key)
    tested = _image_set(test.subset(is_test), found.images[num_train:])
    return Splits(kept, tested, held_out, tuple(train.rows[~is_train].tolist()), wrong)


def _problems(found: Decoded, num_train: int) -> tuple[ImageProblem, ...]:
    return tuple(
        ImageProblem("train" if number < num_train else "test", where, what, bool(found.is_kept[number]))
        for number, where, what in found.problems
    )


def tell_problems(wrong: Sequence[ImageProblem], config: DataConfig, report: Folder | None) -> None:
    """List what is wrong, and raise a DataError where the config says so; see `load`."""
    list_of_all = f"raydd inspect {config.source} lists them all"
    if report is not None and wrong:
        problems.write(wrong, report)
        list_of_all = f"all are in {problems.uri(report)}"
    elif report is not None:
        report.delete(problems.FILE)
    if config.on_error == "raise" and not all(one.kept for one in wrong):
        raise problems.undecodable(wrong, list_of_all)


def require_every_class(listing: Listing, rows: Tensor) -> None:
    """Raise a DataError where a class has no image among these rows, which are all that can be decoded."""
    counts = listing.labels[rows].bincount(minlength=len(listing.class_names)).tolist()
    if empty := [name for name, count in zip(listing.class_names, counts, strict=True) if count == 0]:
        raise DataError(f"{listing.where}: no image of class {some(empty)} can be decoded")


def _image_set(decoded: Undecoded, images: Tensor) -> ImageSet:
    """The images, none of whose classes may be empty."""
    require_every_class(decoded.listing, decoded.rows)
    return ImageSet(images, decoded.labels, decoded.listing.class_names, decoded.listing.dataset)


def checked_listings(config: DataConfig) -> tuple[Folder, Listing, Listing]:
    """The root, and both splits with their labels checked."""
    root = Folder.at(config.root or default_root())
    if config.root is not None and has_files(config.source) and config.source.partition(":")[0] != "huggingface":
        _require_folder(root)
    place = Place(root=root, image_column=config.image_column, label_column=config.label_column, nested=config.nested)
    try:
        train, test = listings(config.source, place)
        if config.classes is not None:
            train = of_classes(train, config.classes)
            test = of_classes(test, [name for name in train.class_names if name in test.class_names])
        check_divided(train, test)
        train.check()
        check_same_classes(train, test)
        test.check()
    except DataError as error:
        raise DataError(f"{error}{_read_otherwise(config, root)}") from error
    return root, train, test


def _read_otherwise(config: DataConfig, root: Folder) -> str:
    """By which other source or from which folder below the data could be read, in words; nothing where by none."""
    if config.source not in ("imagefolder", "parquet"):
        return ""
    with suppress(UserError):
        taken = take(root.uri)
        if (taken.data.source, taken.data.root) != (config.source, root.uri):
            inner = Place(root=Folder.at(taken.data.root or ""), nested=taken.data.nested)
            listings(taken.data.source, inner)
            return f"; it can be read with {' '.join(flags_of(taken.data, '--data.'))}"
    return ""


def _require_folder(root: Folder) -> None:
    """Raise a DataError where there is no such folder; names one beside it that is called nearly so."""
    if root.exists():
        return
    if root.is_local and root.path.exists():
        raise DataError(f"data.root: {root.uri} is a file; name the folder that holds the data, unpacked")
    near = []
    if root.is_local:
        above = next(path for path in root.path.parents if path.is_dir())
        missing = root.path.relative_to(above).parts[0]
        names = [path.name for path in above.iterdir() if path.is_dir()]
        lower = {name.lower(): name for name in names}
        near = [str(above / lower[name]) for name in get_close_matches(missing.lower(), lower, 3)]
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    raise DataError(f"data.root: there is no folder {root.uri}{guess}")


def signature(config: DataConfig) -> str:
    """Tells one state of a dataset's files from another by names, sizes and times, without reading them.

    Sha256 over the files below the folders where the source looks; over the version of scikit-learn for `digits`.
    """
    root = Folder.at(config.root or default_root())
    found = sorted(files(config.source, root))
    return hashlib.sha256("\n".join([version("scikit-learn"), *found]).encode()).hexdigest()


def hold_out(train: ImageSet, fraction: float, key: Key) -> tuple[ImageSet, ImageSet | None]:
    """Split off a stratified share of every class: the images that stay, and the validation images (None for 0).

    Of a class with n images, `fraction * n` are drawn, rounded halves up, but at least 1 and at most n - 1; class k's
    draw is a permutation under `key.child("validation", k)`. Both parts stay in source order.

    Raises:
        DataError: a class has a single image.
    """
    if fraction == 0:
        return train, None
    is_held_out = _held_out(train.labels, train.class_names, fraction, key)
    return train.subset(_rows(~is_held_out)), train.subset(_rows(is_held_out))


def hold_out_files(train: Undecoded, fraction: float, key: Key) -> tuple[Undecoded, Undecoded | None]:
    """`hold_out` of images that are not decoded."""
    if fraction == 0:
        return train, None
    is_held_out = _held_out(train.labels, train.listing.class_names, fraction, key)
    return train.subset(~is_held_out), train.subset(is_held_out)


def _held_out(labels: Tensor, class_names: tuple[str, ...], fraction: float, key: Key) -> Tensor:
    """Which images `hold_out` takes, bool [N]."""
    counts = labels.bincount(minlength=len(class_names)).tolist()
    for class_name, count in zip(class_names, counts, strict=True):
        if count < 2:
            raise DataError(
                f"class {class_name} has a single training image, which cannot be on both sides: "
                "set data.validation_fraction to 0 or add images"
            )
    return drawn(labels, len(class_names), fraction, key, "validation")


def _held_out_size(count: int, fraction: float) -> int:
    """How many of a class's images are held out; see `hold_out`."""
    return drawn_of(count, fraction) if fraction else 0


def default_root() -> str:
    """$RAYDD_DATA, or else `data` in raydd's cache folder."""
    return os.environ.get("RAYDD_DATA") or str(cache_folder().with_name("data"))


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
