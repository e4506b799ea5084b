"""How large a dataset is: all that a plan of the work needs to know of it.

Letters: N real images, K classes, C H W, D = C * H * W.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from raydd.data.subsets import SUBSETS


@dataclass(frozen=True)
class DataFacts:
    """A dataset's size, which is all that a plan needs to know of it."""

    num_train: int
    """N, without the validation images."""
    num_test: int
    shape: tuple[int, int, int]
    """C, H, W."""
    num_classes: int
    num_validation: int = 0
    published: bool = False
    """Whether the numbers are the published ones, for want of the data."""

    @property
    def values(self) -> int:
        """D."""
        return math.prod(self.shape)

    @property
    def num_images(self) -> int:
        """Of all splits."""
        return self.num_train + self.num_test + self.num_validation

    def of_classes(self, count: int) -> "DataFacts":
        """The size of so many of the classes, all of which are taken to be equally large."""
        sizes = (size * count // self.num_classes for size in (self.num_train, self.num_test, self.num_validation))
        num_train, num_test, num_validation = sizes
        return replace(self, num_train=num_train, num_test=num_test, num_validation=num_validation, num_classes=count)


_SUBSETS: Final = {"imagenette": 12_894, "imagewoof": 12_454, "imagenet-100": 126_689}
"""Training images of subsets of ImageNet-1K; of others there are at most 1,300 in a class."""
_MEDMNIST: Final = {
    "pathmnist": (89_996, 7_180, 3, 9),
    "dermamnist": (7_007, 2_005, 3, 7),
    "octmnist": (97_477, 1_000, 1, 4),
    "pneumoniamnist": (4_708, 624, 1, 2),
    "retinamnist": (1_080, 400, 3, 5),
    "breastmnist": (546, 156, 1, 2),
    "bloodmnist": (11_959, 3_421, 3, 8),
    "tissuemnist": (165_466, 47_280, 1, 8),
    "organamnist": (34_561, 17_778, 1, 11),
    "organcmnist": (12_975, 8_216, 1, 11),
    "organsmnist": (13_932, 8_827, 1, 11),
}
"""Training images, test images, C and K of the sets in 2 dimensions that give an image one class."""
_MEDMNIST_SIZES: Final = {"": 28, ":64": 64, ":128": 128, ":224": 224}
_SIDE: Final = 224  # to which the papers bring ImageNet's images


def _subset(name: str, num_classes: int) -> DataFacts:
    num_train = _SUBSETS.get(name, 1_300 * num_classes)
    return DataFacts(num_train, 50 * num_classes, (3, _SIDE, _SIDE), num_classes, published=True)


def _medmnist(num_train: int, num_test: int, channels: int, num_classes: int, side: int) -> DataFacts:
    return DataFacts(num_train, num_test, (channels, side, side), num_classes, published=True)


PUBLISHED: Final[Mapping[str, DataFacts]] = {
    "cifar10": DataFacts(50_000, 10_000, (3, 32, 32), 10, published=True),
    "cifar100": DataFacts(50_000, 10_000, (3, 32, 32), 100, published=True),
    "svhn": DataFacts(73_257, 26_032, (3, 32, 32), 10, published=True),
    "mnist": DataFacts(60_000, 10_000, (1, 28, 28), 10, published=True),
    "fashion-mnist": DataFacts(60_000, 10_000, (1, 28, 28), 10, published=True),
    "tiny-imagenet": DataFacts(100_000, 10_000, (3, 64, 64), 200, published=True),
    "imagenet": DataFacts(1_281_167, 50_000, (3, _SIDE, _SIDE), 1_000, published=True),
    **{f"imagenet:{name}": _subset(name, len(wnids)) for name, wnids in SUBSETS.items()},
    **{
        f"medmnist:{name}{suffix}": _medmnist(*facts, side)
        for name, facts in _MEDMNIST.items()
        for suffix, side in _MEDMNIST_SIZES.items()
    },
}
"""By `data.source`. The tests are those that the papers report on: validation images of Tiny-ImageNet and ImageNet-1K.
ImageNet-1K's images differ in size; here is that of the papers, which `data.image_size` has to name."""
