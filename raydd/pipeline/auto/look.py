"""What a dataset is like: all that settings are chosen by, and whether there is enough of it."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from raydd.core.errors import ConfigError, DataError, UserError
from raydd.core.progress import Progress
from raydd.data import DataConfig, DataFacts
from raydd.data.inspection import inspect
from raydd.data.stratified import drawn_of

FEWEST: Final = 5
"""Images of a class to learn from; fewer cannot be divided into those to distil and those to hold out."""
_GREY: Final = ("1", "L", "LA", "I", "I;16", "F")
_HELD_OUT: Final = 1_000
"""Images that tell methods apart to a percent or two."""

_OF_ANY_SIZE: Final = ("imagefolder", "parquet")
"""Sources whose images are brought to one size."""


@dataclass(frozen=True, kw_only=True)
class DataLook:
    """What was found in all images of a dataset."""

    dataset: str
    where: str
    """Its root, or its source."""
    class_names: tuple[str, ...]
    train: tuple[int, ...]
    """Images of each class to learn from, held-out ones among them."""
    num_test: int
    median_side: int
    """Of the images' shorter sides, in pixels."""
    smallest_side: int
    """The shortest side of all."""
    is_grey: bool
    undecodable: int
    """Images that cannot be decoded."""
    leaked: int
    """Test images that are training images, too."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def num_train(self) -> int:
        """All images to learn from."""
        return sum(self.train)

    def left_of_classes(self, validation_fraction: float) -> list[int]:
        """Images of each class that are left when a share of them is held out."""
        return [count - drawn_of(count, validation_fraction) for count in self.train]

    def facts(self, side: int, validation_fraction: float) -> DataFacts:
        """The size of the data as they are when images are squares of a side and a share of each class is held out."""
        held_out = sum(drawn_of(count, validation_fraction) for count in self.train)
        shape = (1 if self.is_grey else 3, side, side)
        return DataFacts(self.num_train - held_out, self.num_test, shape, self.num_classes, held_out)


def look(data: DataConfig, progress: Progress) -> DataLook:
    """Look through all images.

    Raises:
        DataError: they are missing, or not what they say.
    """
    found = inspect(data, progress)
    sizes: Counter[int] = Counter()
    smallest, modes = [], set()
    for stored, count in found.stored.items():
        size, _, mode = stored.partition(" ")
        sides = sorted(map(int, size.split("x")))
        sizes[sides[0]] += count
        smallest.append(sides[0])
        modes.add(mode)
    if not sizes:
        raise DataError(f"{data.root or data.source}: no image can be decoded")
    return DataLook(
        dataset=found.dataset,
        where=data.root or data.source,
        class_names=found.class_names,
        train=tuple(found.counts["train"]),
        num_test=sum(found.counts["test"]),
        median_side=_median(sizes),
        smallest_side=min(smallest),
        is_grey=all(mode in _GREY for mode in modes),
        undecodable=sum(found.lost(split) for split in found.counts),
        leaked=found.leaked(),
    )


def held_out_fraction(data: DataConfig, found: DataLook) -> float:
    """The share of each class's images that methods are compared on: the config's; a fifth of few, a tenth of many."""
    return data.validation_fraction or min(0.2, max(0.1, round(_HELD_OUT / found.num_train, 2)))


def require_enough(found: DataLook, images_per_class: int, validation_fraction: float) -> None:
    """See that there are classes to tell apart, and images of each to choose from and to hold out.

    Raises:
        UserError: there are not; names the class.
    """
    if found.num_classes < 2:
        raise DataError(
            f"{found.where}: there is one class, {found.class_names[0]!r}; give a folder with two classes at least"
        )
    for name, count in zip(found.class_names, found.train, strict=True):
        if count < FEWEST:
            raise DataError(
                f"{found.where}: class {name!r} has {count} images to learn from, and {FEWEST} are needed to hold some "
                "out; add images, or leave the class out"
            )
    smallest = min(range(found.num_classes), key=found.train.__getitem__)
    left = found.train[smallest] - drawn_of(found.train[smallest], validation_fraction)
    if images_per_class > left:
        raise UserError(
            f"--images-per-class: {images_per_class} asked for, but class {found.class_names[smallest]!r} has {left} "
            f"images to distil when some are held out; ask for {left} at most"
        )


def sides_to_try(data: DataConfig, found: DataLook) -> tuple[int, ...]:
    """The sizes that images may be brought to, the largest first; one where the config or the images say it."""
    if data.image_size is not None:
        return (data.image_size,)
    if data.source not in _OF_ANY_SIZE or found.median_side < SIDES[-1]:
        return (found.smallest_side,)
    return tuple(side for side in SIDES if side <= found.median_side)


SIDES: Final = (128, 96, 64, 32)
"""Of images in pixels, where there is a choice."""


def as_used(data: DataConfig, found: DataLook, side: int, validation_fraction: float) -> DataConfig:
    """The data part of all configs.

    Raises:
        ConfigError: the config asks for whitened images, which a teacher cannot see.
    """
    if data.preprocess == "zca":
        raise ConfigError("data.preprocess", "whitened images have no pixels to crop; take standardise or none")
    size = side if data.source in _OF_ANY_SIZE else data.image_size
    errors = "skip" if found.undecodable else data.on_error
    return replace(data, image_size=size, validation_fraction=validation_fraction, on_error=errors)


def _median(sizes: Counter[int]) -> int:
    middle, seen = sizes.total() / 2, 0
    for size, count in sorted(sizes.items()):
        seen += count
        if seen >= middle:
            return size
    raise AssertionError
