"""Which images, and how they are read."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from raydd.core.errors import ConfigError
from raydd.core.switch import Switch
from raydd.data.place import Nested
from raydd.data.sources.table import check_source, places

_FOLDER_SIZE: Final = 32  # of photographs, which no two folders have of one size


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and in which space networks see them."""

    source: str = "digits"
    """Where images come from: imagefolder for your own (a folder a class), digits, cifar10, ...; `raydd methods` lists
    all. Of a family the member's name, too: medmnist:pathmnist."""
    root: str | None = None
    """Folder or URI that holds the dataset; by default $RAYDD_DATA, or else the user's cache folder."""
    image_size: int | None = None
    """Height and width in pixels to resize and crop to; needed where images differ in size. Of imagefolder 32, where it
    is not given."""
    image_column: str | None = None
    """Of Parquet and Hugging Face sources: what holds the images; by default image or img."""
    label_column: str | None = None
    """Of Parquet and Hugging Face sources: what holds the labels; by default label, or another that is known."""
    nested: Nested = "skip"
    """Of imagefolder, folders inside class folders: they are passed over; or each innermost one is a class, named by
    its path; or what is in them are images of the class."""
    preprocess: Literal["none", "standardise", "zca"] = "standardise"
    """Pixels as they are, standardised per channel, or ZCA-whitened."""
    statistics: Literal["computed", "literature"] = "computed"
    """Standardise by the training images' mean and deviation, or by the constants that the papers use."""
    validation_fraction: float = 0.0
    """Share of every class's training images kept aside for selecting; 0 selects nothing."""
    classes: tuple[int | str, ...] | None = None
    """Only these classes, by name, or by number from 0 where names are no numbers; they are numbered from 0 in the
    order of the dataset."""
    train_limit_per_class: int | None = None
    """Keep only the first this many training images of every class, in source order."""
    imbalance_factor: float | None = None
    """How many times more training images the largest class has than the smallest: a long tail is cut out."""
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of images that cannot be decoded: nothing is loaded, or all others are. They are named anyway."""
    streaming: Switch = "auto"
    """Whether images are decoded from their files whenever they are needed, and not kept in memory; auto: where memory
    does not hold them."""

    def __post_init__(self) -> None:
        """Refuse values that no dataset fits, with a ConfigError."""
        check_source(self.source)
        if self.streaming == "on" and places(self.source) == ():
            problem = f"the images of {self.source} are in no files; set it to auto or off"
            raise ConfigError("data.streaming", problem)
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                "data.validation_fraction", f"must be at least 0 and below 1, is {self.validation_fraction}"
            )
        for field in ("image_size", "train_limit_per_class"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise ConfigError(f"data.{field}", f"must be at least 1, is {value}")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise ConfigError("data.classes", f"must be at least two, and none twice, are {list(self.classes)}")
        if self.imbalance_factor is not None and not 1 <= self.imbalance_factor < math.inf:
            raise ConfigError("data.imbalance_factor", f"must be at least 1, is {self.imbalance_factor}")
        if self.nested != "skip" and self.source != "imagefolder":
            raise ConfigError("data.nested", f"is for imagefolder; {self.source} has no class folders: take skip")
        if self.source.partition(":")[0] == "imagenet" and self.image_size is None:
            raise ConfigError("data.image_size", "must be given, as the images differ in size; the papers take 224")

    def identity(self) -> dict[str, Any]:
        """What tells these images from others: plain values, of fields that came later only those that differ."""
        said = asdict(self)
        if self.nested == "skip":
            del said["nested"]
        return said

    @property
    def size(self) -> int | None:
        """Height and width in pixels that images are brought to; None where they stay as they are."""
        return self.image_size or (_FOLDER_SIZE if self.source == "imagefolder" else None)
