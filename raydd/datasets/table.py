"""The table of sources."""

from collections.abc import Callable

from raydd.datasets.cifar import cifar10, cifar100
from raydd.datasets.digits import digits
from raydd.datasets.imagefolder import imagefolder
from raydd.datasets.imagenet import imagenet
from raydd.datasets.listing import Listing
from raydd.datasets.parquet import parquet
from raydd.datasets.tiny_imagenet import tiny_imagenet
from raydd.errors import ConfigError
from raydd.storage import Folder

SOURCES: dict[str, Callable[[Folder], tuple[Listing, Listing]]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "imagefolder": imagefolder,
    "parquet": parquet,
}
"""What `data.source` may be: from the root folder to the training and the test split."""

PLACES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "cifar10": ("cifar10", "cifar-10-batches-py"),
    "cifar100": ("cifar100", "cifar-100-python"),
    "tiny-imagenet": ("tiny-imagenet", "tiny-imagenet-200"),
    "imagenet": ("imagenet",),
    "imagefolder": ("train", "test", "val"),
}
"""The folders below the root in which a source looks, where it does not look in the whole of it."""


def check_source(name: str) -> None:
    """Raise a ConfigError where there is no such source."""
    if name not in SOURCES:
        raise ConfigError("data.source", f"{name!r} is not one of {', '.join(SOURCES)}")


def listings(source: str, root: Folder) -> tuple[Listing, Listing]:
    """The training and the test split of a source, before anything is checked or decoded."""
    return SOURCES[source](root)
