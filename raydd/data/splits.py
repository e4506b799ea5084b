"""Training and test splits by the names that people give them, and a split of one's own where there is one alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.data.division import Division
from raydd.data.listing import Listing
from raydd.data.stratified import drawn

TEST_SHARE: Final = 0.2
"""Of every class, where there is no test split."""
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training", "trainset", "train set", "train images", "training set", "train data"),
    "test": ("test", "testing", "testset", "test set", "test images", "test data", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev", "valset", "val set", "validation set", "val images", "devel"),
}
"""By what they are for, the best name first; in small letters, with a space for - and _ and dots."""
_KINDS: Final = {name: kind for kind, names in _NAMES.items() for name in names}
_APART: Final = re.compile(r"[-_.\s]+")
_PART: Final = re.compile(r"[-_.\s]*\d+([-_.\s]*of[-_.\s]*\d+)?$")
"""The number of one file of several."""


@dataclass(frozen=True)
class NamedSplits:
    """Which of some names are splits: each of folders or of a dataset, or the files that it lies in."""

    train: tuple[str, ...]
    """Of the training split; empty where there is none."""
    tests: tuple[tuple[str, ...], ...]
    """Of those that may be tested on, the best first: test, then validation."""
    others: tuple[str, ...]
    """Further names that are of splits."""

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the training split, and of that which is tested on."""
        return (*self.train, *(self.tests[0] if self.tests else ()))

    @property
    def unused(self) -> tuple[str, ...]:
        """The names of the others."""
        return (*(name for names in self.tests[1:] for name in names), *self.others)

    def below(self, path: str) -> "NamedSplits":
        """The same names, with the path to the folder that they are in."""

        def named(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"{path}{name}" for name in names)

        return NamedSplits(named(self.train), tuple(map(named, self.tests)), named(self.others))

    def division(self, tested: tuple[str, ...] = (), form: str = "{}") -> Division:
        """What became of the splits.

        Args:
            tested: those of `tests` that are tested on; none where the training images were divided.
            form: how a source writes a name.
        """
        unread = [name for name in (*self.used, *self.unused) if name not in (*self.train, *tested)]
        return Division(
            tested=tuple(map(form.format, tested)),
            unread=tuple(map(form.format, unread)),
            has_test=not all(_kind_of_path(name) == "val" for name in tested),
            leaves_validation=any(_kind_of_path(name) == "val" for name in unread),
        )


def kind_of(name: str) -> str | None:
    """`train`, `test` or `val`; None for what is no name of a split."""
    return _KINDS.get(_plain(name))


def named_splits(names: Iterable[str]) -> NamedSplits:
    """The splits among names that are one split each: of several of a kind the best name counts."""
    found = sorted((name for name in names if kind_of(name)), key=lambda name: (_rank(name), name))
    best: dict[str, tuple[str, ...]] = {}
    for name in found:
        best.setdefault(str(kind_of(name)), (name,))
    return _chosen(best, found)


def named_files(stems: Iterable[str]) -> NamedSplits:
    """The splits among the names of files, without their endings: a split may lie in several, such as `train-00`.

    What follows the name of a split may be anything but the name of another: `train_val` is neither.
    """
    kinds: dict[str, tuple[str, ...]] = {}
    found = []
    for stem in sorted(stems):
        kind = kind_of_file(stem)
        found += [stem] if kind or _KINDS.get(_plain(stem).partition(" ")[0]) else []
        if kind:
            kinds[kind] = (*kinds.get(kind, ()), stem)
    return _chosen(kinds, found)


def kind_of_file(stem: str) -> str | None:
    """`kind_of` the split that a file is, or is a part of."""
    words = _plain(_PART.sub("", stem)).split(" ")
    known = [_KINDS.get(word) for word in words]
    return kind_of(" ".join(words)) or (None if any(known[1:]) else known[0])


def _kind_of_path(name: str) -> str | None:
    """Of a folder, a file, or a file in a folder of a split."""
    path = PurePosixPath(name)
    return kind_of_file(path.name) or kind_of(path.parent.name)


def _chosen(kinds: Mapping[str, tuple[str, ...]], found: Iterable[str]) -> NamedSplits:
    train, tests = kinds.get("train", ()), tuple(kinds[kind] for kind in ("test", "val") if kind in kinds)
    used = {*train, *(name for names in tests for name in names)}
    return NamedSplits(train, tests, tuple(name for name in found if name not in used))


def divided(whole: Listing, division: Division) -> tuple[Listing, Listing]:
    """A training and a test split of images that are in one: of every class 20 % are tested on.

    Rounded halves up, but at least one and not all. The draw is the same for every seed, so that all runs share the
    test images; it depends on each class's number of images and place among the classes alone.

    Args:
        whole: all the images.
        division: which other splits there are.

    Raises:
        DataError: as `Listing.check_labels`.
    """
    whole.check_labels()
    is_test = drawn(whole.labels, len(whole.class_names), TEST_SHARE, Key.root(0), "test")
    return _part(whole, ~is_test, "4 in 5"), replace(
        _part(whole, is_test, "1 in 5"), division=replace(division, whole=whole.where)
    )


def check_divided(train: Listing, test: Listing) -> None:
    """Raise a DataError where a class that was divided has one image or none."""
    if test.division is None or test.division.tested:
        return
    counts = torch.cat([train.labels, test.labels]).bincount(minlength=len(train.class_names)).tolist()
    for class_name, count in zip(train.class_names, counts, strict=True):
        if count < 2:
            raise DataError(
                f"{test.division.whole}, class {class_name}: there is {'one image' if count else 'no image'}, but one "
                "is needed to train on and one to test on; add images, leave the class out (data.classes names those "
                "to read), or give a test split"
            )


def _part(whole: Listing, mask: Tensor, share: str) -> Listing:
    rows = mask.nonzero().flatten()
    return replace(
        whole,
        where=f"{whole.where}, {share}",
        labels=whole.labels[rows],
        items=lambda own: whole.items(rows[own]),
        place=lambda row: whole.place(int(rows[row])),
    )


def _plain(name: str) -> str:
    return _APART.sub(" ", name).strip().lower()


def _rank(name: str) -> int:
    plain = _plain(name)
    return _NAMES[_KINDS[plain]].index(plain)
