"""What gives a class away that is no content of its images: their size, their shape, their colour mode.

Each image's class is guessed from one of these alone, by how often each value occurs in each class among all other
images (leave-one-out), all classes counting alike. Guessing at random is right once in K.

Letters: N images, K classes.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

_BINS: Final = 8
_COMMON: Final = 0.01  # of all images: sizes that are more frequent are values of their own
_FEWEST: Final = 5
_EXCESS: Final = 0.1
_EXCESS_OF_ONE: Final = 0.25
_DEVIATIONS: Final = 3.3  # of guessing a class's images at random; 100 draws of 5 random datasets stay below 3.1

StoredForm = tuple[int, int, str]
"""Width, height and colour mode of an image as it is stored."""


@dataclass(frozen=True)
class Giveaway:
    """How well one property of the files tells their class."""

    what: str
    """In words, such as size."""
    label: int | None
    """The class that is told from all others; None where each is told from each."""
    accuracy: float
    """Of guessing, on average over the classes."""
    chance: float
    """1 / K, or 1 / 2."""
    num_images: int
    """N, or the images of the class."""

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the class is told by far more often than chance allows."""
        of_a_class = self.num_images * (self.chance if self.label is None else 1)
        deviation = math.sqrt(self.chance * (1 - self.chance) / max(1, of_a_class))
        enough = _EXCESS if self.label is None else _EXCESS_OF_ONE
        return self.accuracy - self.chance > max(enough, _DEVIATIONS * deviation)


def giveaways(by_class: Sequence[Counter[str]]) -> list[Giveaway]:
    """Of each property, how well it tells all classes, and where there are several, how well each from all others.

    Args:
        by_class: of each of the K classes, how many images there are of each size and mode, as in "32x32 RGB".
    """
    forms = [Counter({form_of(stored): count for stored, count in counts.items()}) for counts in by_class]
    all_of = sum(forms, Counter[StoredForm]())
    kinds: dict[str, Callable[[StoredForm], Hashable]] = {
        "size": _size_kind(all_of),
        "shape": lambda form: round(4 * math.log2(form[0] / form[1])),
        "colour mode": lambda form: form[2],
    }
    found = []
    for what, kind in kinds.items():
        values = [_grouped(own, kind) for own in forms]
        found.append(Giveaway(what, None, leave_one_out(values), 1 / max(1, len(by_class)), all_of.total()))
        whole = sum(values, Counter[Hashable]())
        for label, own in enumerate(values if len(values) > 2 else ()):
            found.append(Giveaway(what, label, leave_one_out([own, whole - own]), 1 / 2, own.total()))
    return found


def form_of(stored: str) -> StoredForm:
    """Width, height and mode of what is written as in "32x32 RGB"."""
    size, _, mode = stored.partition(" ")
    width, height = map(int, size.split("x"))
    return width, height, mode


def leave_one_out(counts: Sequence[Counter[Hashable]]) -> float:
    """The accuracy, on average over classes, of guessing each image's class from its value and all other images.

    The class is guessed in which the value is most frequent; where several are, the guess counts as wrong.

    Args:
        counts: of each of the K classes, how many images have each value; empty classes count for nothing.
    """
    totals = [own.total() for own in counts]
    best: dict[Hashable, list[tuple[float, int]]] = {}
    for label, own in enumerate(counts):
        for value, count in own.items():
            best[value] = sorted([*best.get(value, []), (count / totals[label], label)], reverse=True)[:2]
    accuracies = []
    for label, own in enumerate(counts):
        if totals[label]:
            right = 0
            for value, count in own.items():
                others = max((share for share, other in best[value] if other != label), default=0.0)
                right += count * (totals[label] > 1 and (count - 1) / (totals[label] - 1) > others)
            accuracies.append(right / totals[label])
    return sum(accuracies) / len(accuracies) if accuracies else 0.0


def _grouped(counts: Counter[StoredForm], kind: Callable[[StoredForm], Hashable]) -> Counter[Hashable]:
    grouped: Counter[Hashable] = Counter()
    for form, count in counts.items():
        grouped[kind(form)] += count
    return grouped


def _size_kind(forms: Counter[StoredForm]) -> Callable[[StoredForm], Hashable]:
    """Frequent sizes are told apart, all others by which eighth of the areas theirs is in."""
    sizes: Counter[tuple[int, int]] = Counter()
    for (width, height, _), count in forms.items():
        sizes[width, height] += count
    enough = max(_FEWEST, _COMMON * sizes.total())
    rare = sorted((width * height, count) for (width, height), count in sizes.items() if count < enough)
    total, seen = sum(count for _, count in rare), 0
    eighth: dict[int, int] = {}
    for area, count in rare:
        eighth.setdefault(area, _BINS * seen // total)
        seen += count

    def kind(form: StoredForm) -> Hashable:
        width, height, _ = form
        return (width, height) if sizes[width, height] >= enough else eighth[width * height]

    return kind
