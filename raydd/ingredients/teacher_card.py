"""What a teacher is, and which data it may be used with.

A teacher belongs to one order of classes, one preprocessing and one image size; published ones that were used with
others gave labels near chance.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.data.prepared import PreparedData
from raydd.networks.config import NetworkConfig
from raydd.storage.readable import legible


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """What a teacher is, and what it may be used with."""

    network: Mapping[str, Any]
    """The fields of its `NetworkConfig`."""
    dataset: str
    fingerprint: str
    """Of the training images and labels."""
    class_names: tuple[str, ...]
    """In the order of its logits."""
    shape: tuple[int, int, int]
    """C, H, W."""
    preprocessing: Mapping[str, Any]
    """The map into network space, as it describes itself."""
    recipe: Mapping[str, Any]
    """How it was trained, or the `weights` that it was taken from (SHA-256 of the file)."""
    seed: int | None
    test_accuracy: float
    train_accuracy: float | None
    """Over the last epoch, under augmentation; None where it was not trained here."""
    check_accuracy: float
    """On some held-out images, by which the teacher is known again."""

    @property
    def epochs(self) -> int | None:
        """How many it was trained for; None where it was not trained here."""
        epochs: int | None = self.recipe.get("epochs")
        return epochs

    def dump(self) -> bytes:
        """The card as JSON."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def parse(cls, data: bytes, place: str) -> "TeacherCard":
        """Read what `dump` wrote.

        Raises:
            ArtefactError: another version of the card; names the place.
        """
        with legible(place):
            values = json.loads(data)
            differing = values.keys() ^ {entry.name for entry in fields(cls)}
            differing |= values.get("network", {}).keys() - {entry.name for entry in fields(NetworkConfig)}
            if differing:
                names = ", ".join(sorted(differing))
                raise ArtefactError(
                    f"{place}: written by another version of raydd (the cards differ in {names}); "
                    "delete the folder and make the teacher anew"
                )
            return cls(**{**values, "class_names": tuple(values["class_names"]), "shape": tuple(values["shape"])})

    def require_fit(self, data: PreparedData) -> None:
        """See that a dataset has the teacher's classes in their order, its preprocessing and its image size.

        Raises:
            ConfigError: the images have another shape or another preprocessing.
            DataError: the classes are others, or in another order.
        """
        _require_same_classes(self.class_names, data)
        if self.shape != data.shape:
            raise ConfigError(
                "data.image_size",
                f"the teacher is for images of {_size(self.shape)}, the dataset has {_size(data.shape)}; "
                "give the size of the teacher, or train another",
            )
        if not _agree(dict(self.preprocessing), data.preprocessing.describe()):
            raise ConfigError(
                "data.preprocess",
                f"the teacher knows images mapped by {_map(self.preprocessing)}, the dataset's are mapped by "
                f"{_map(data.preprocessing.describe())}; give data.preprocess, data.statistics and the training images "
                "of the teacher, or train another",
            )


def _require_same_classes(names: tuple[str, ...], data: PreparedData) -> None:
    if names == data.class_names:
        return
    if sorted(names) == sorted(data.class_names):
        number = next(n for n, (a, b) in enumerate(zip(names, data.class_names, strict=True)) if a != b)
        raise DataError(
            f"{data.name}: has the teacher's classes in another order: class {number} is "
            f"{data.class_names[number]!r} here and {names[number]!r} for the teacher; name the classes (for an "
            "imagefolder: the folders) so that they sort as they did for the teacher, or train another"
        )
    here, there = set(data.class_names), set(names)
    only_here, only_there = (", ".join(sorted(some)[:3]) or "none" for some in (here - there, there - here))
    raise DataError(
        f"{data.name}: has {data.num_classes} classes and the teacher knows {len(names)}; only here: {only_here}; "
        f"only there: {only_there}; give the data that the teacher was trained on, or train another"
    )


def _agree(here: Any, there: Any) -> bool:
    """Whether two descriptions say the same, numbers to six digits."""
    if isinstance(here, float) and isinstance(there, float):
        return math.isclose(here, there, rel_tol=1e-6)
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(map(_agree, here, there))
    if isinstance(here, dict) and isinstance(there, dict):
        return here.keys() == there.keys() and all(_agree(here[name], there[name]) for name in here)
    return bool(here == there)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _map(description: Mapping[str, Any]) -> str:
    """A preprocessing in a few words: its name, then its numbers."""
    numbers = {name: value for name, value in description.items() if name != "name"}
    rounded = json.loads(json.dumps(numbers), parse_float=lambda text: round(float(text), 4))
    return " ".join([str(description["name"]), *(f"{name} {value}" for name, value in rounded.items())])
