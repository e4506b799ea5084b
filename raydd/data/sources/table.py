"""The table of sources."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from raydd.core import plugins
from raydd.core.errors import ConfigError
from raydd.data.facts import PUBLISHED, DataFacts
from raydd.data.listing import Listing
from raydd.data.place import Place, is_there, traces
from raydd.data.sources import imagenet, medmnist
from raydd.data.sources.cifar import CIFAR10, CIFAR100
from raydd.data.sources.digits import digits
from raydd.data.sources.huggingface import huggingface
from raydd.data.sources.imagefolder import imagefolder, split_folders
from raydd.data.sources.numerals import FASHION_MNIST, MNIST, SVHN
from raydd.data.sources.parquet import parquet
from raydd.data.sources.source import Source
from raydd.data.sources.tiny_imagenet import tiny_imagenet
from raydd.data.sources.torchvision_sets import torchvision_set
from raydd.data.subsets import SUBSETS
from raydd.storage import Folder

SOURCES: Final[Mapping[str, Callable[[Place], tuple[Listing, Listing]]]] = {
    "digits": digits,
    "cifar10": partial(torchvision_set, CIFAR10),
    "cifar100": partial(torchvision_set, CIFAR100),
    "svhn": partial(torchvision_set, SVHN),
    "mnist": partial(torchvision_set, MNIST),
    "fashion-mnist": partial(torchvision_set, FASHION_MNIST),
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet.imagenet,
    "medmnist": medmnist.medmnist,
    "imagefolder": imagefolder,
    "parquet": parquet,
    "huggingface": huggingface,
}
"""What `data.source` may be, or may begin with before a colon: from a place to the training and the test split.

Other packages add theirs: see `added_sources`."""

_NAMELESS: Final = ("digits", "imagefolder", "parquet")  # sources that are no published dataset, and take no name
NAMED: Final = {
    "imagenet": "imagenet[:<subset>]",
    "medmnist": "medmnist:<name>",
    "huggingface": "huggingface:<name>",
}
"""How sources that take a name are written."""


def _places(source: str) -> tuple[str, ...]:
    """Where a published dataset is looked for; see `PLACES`."""
    family, _, name = source.partition(":")
    if family == "medmnist":
        return (medmnist.file_of(name),)
    classes = [f"/{split}/{wnid}" for split in imagenet.SPLITS for wnid in SUBSETS[name]]
    return tuple(folder + below for folder in (family, *imagenet.OWN_FOLDERS.get(name, ())) for below in classes)


PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "digits": (),
    "cifar10": ("cifar10", CIFAR10.layout),
    "cifar100": ("cifar100", CIFAR100.layout),
    "svhn": (SVHN.layout,),
    "mnist": ("mnist", MNIST.layout),
    "fashion-mnist": ("fashion-mnist", FASHION_MNIST.layout),
    "tiny-imagenet": ("tiny-imagenet", "tiny-imagenet-200"),
    "imagenet": (imagenet.NAME,),
    **{source: _places(source) for source in PUBLISHED if ":" in source},
}
"""The folders and files below the root in which a source looks, where it does not look in the whole of it."""


def added_sources() -> Mapping[str, plugins.Plugin]:
    """Those of other packages: each a `Source`."""
    return plugins.added(plugins.SOURCES, Source, frozenset(SOURCES))


def added_source(source: str) -> Source | None:
    """What another package says of a `data.source`; None of raydd's own."""
    family = source.partition(":")[0]
    found = None if family in SOURCES else added_sources().get(family)
    return None if found is None else found.added


def published(source: str) -> DataFacts | None:
    """The size of a dataset as it was published; None where nobody tells it."""
    if (added := added_source(source)) is None:
        return PUBLISHED.get(source)
    facts = added.facts(source.partition(":")[2])
    return None if facts is None else replace(facts, published=True)


def places(source: str) -> tuple[str, ...] | None:
    """The folders and files below the root in which a source looks; None where it looks in the whole of it."""
    return PLACES.get(source) if (added := added_source(source)) is None else added.places


def check_source(source: str) -> None:
    """Raise a ConfigError, which names what comes nearest, where there is no such source."""
    family, _, name = source.partition(":")
    if source in PUBLISHED or source in _NAMELESS or (family == "huggingface" and name):
        return
    if (added := added_source(source)) is not None:
        if added.has_name == bool(name):
            return
        raise ConfigError("data.source", f"must be {added.form(family)}, is {source!r}")
    if name.startswith("chestmnist"):
        raise ConfigError(
            "data.source", f"{source!r} gives an image several labels at once; one class an image is needed"
        )
    names = [known for known in (*_NAMELESS, *PUBLISHED) if known.count(":") < 2]
    members = [known for known in names if known.startswith(f"{family}:")]
    others = added_sources()
    shown = members or [
        *(NAMED.get(known, known) for known in SOURCES),
        *(one.added.form(k) for k, one in others.items()),
    ]
    short = {known.rpartition(":")[2]: known for known in names}
    near = get_close_matches(source, [*short, *names, *others], 1) if source not in SOURCES else []
    guess = f"; did you mean {short.get(near[0], near[0])}?" if near else f"; {plugins.WHERE}"
    raise ConfigError("data.source", f"{source!r} is not one of {', '.join(shown)}{guess}")


def listings(source: str, place: Place) -> tuple[Listing, Listing]:
    """The training and the test split of a source, before anything is checked or decoded."""
    family, _, name = source.partition(":")
    added = added_source(source)
    return (SOURCES[family] if added is None else added.listings)(replace(place, name=name))


def has_any(source: str, root: Folder) -> bool:
    """Whether there are files of a dataset that has places of its own, or needs none."""
    found = places(source)
    return not found or any(is_there(root, path) for path in found)


def files(source: str, root: Folder) -> Iterator[str]:
    """A line with name, size and time for every file that a source may read; none is read."""
    family, _, name = source.partition(":")
    if family == "huggingface":
        found = [Folder.at(name)] if Path(name).exists() else []  # a name on the hub stands for its content
        return (line for folder in found for line in traces(folder))
    if source == "imagefolder":
        splits = split_folders(root)
        return (line for path in sorted((*splits.used, *splits.unused)) or [""] for line in traces(root, path))
    paths = places(source)
    below = (line for path in (("",) if paths is None else paths) for line in traces(root, path))
    return chain(_version(family), below)


def _version(family: str) -> Iterator[str]:
    """What tells one state of a package's dataset from another, beside its files."""
    if family not in SOURCES:
        yield added_sources()[family].package
