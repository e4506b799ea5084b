"""What tells classes apart besides the images' content: against a loop over all images, and planted cases."""

from collections import Counter
from collections.abc import Hashable

import numpy as np
import pytest

from raydd.data.giveaway import Giveaway, form_of, giveaways, leave_one_out


def naive(values: list[Hashable], labels: list[int], num_classes: int) -> float:
    """Each image's class is guessed from all others, one after the other."""
    right = [[0, 0] for _ in range(num_classes)]
    for number, (value, label) in enumerate(zip(values, labels, strict=True)):
        others = [(v, k) for at, (v, k) in enumerate(zip(values, labels, strict=True)) if at != number]
        shares = []
        for k in range(num_classes):
            own = [v for v, other in others if other == k]
            shares.append(own.count(value) / len(own) if own else 0.0)
        right[label][0] += shares[label] > max(s for k, s in enumerate(shares) if k != label)
        right[label][1] += 1
    return sum(hits / count for hits, count in right) / num_classes


@pytest.mark.parametrize("seed", range(5))
def test_guessing_as_a_loop_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = [int(k) for k in draw.integers(0, 3, 40)]
    values: list[Hashable] = [int(v) for v in draw.integers(0, 4, 40)]
    counts = [Counter(v for v, k in zip(values, labels, strict=True) if k == label) for label in range(3)]
    assert leave_one_out(counts) == pytest.approx(naive(values, labels, 3))


def found(*classes: dict[str, int]) -> dict[tuple[str, int | None], Giveaway]:
    return {(one.what, one.label): one for one in giveaways([Counter(own) for own in classes])}


def test_sizes_that_tell_everything() -> None:
    told = found({"640x480 RGB": 30}, {"480x640 RGB": 30}, {"64x48 RGB": 30})
    assert told["size", None].accuracy == 1 and told["size", None].is_beyond_chance
    assert told["shape", None].accuracy == pytest.approx(1 / 3) and not told["shape", None].is_beyond_chance
    assert told["shape", 1].accuracy == 1 and told["shape", 1].is_beyond_chance
    assert told["colour mode", None].accuracy == 0 and not told["colour mode", None].is_beyond_chance


def test_sizes_that_occur_once_are_told_apart_by_their_areas() -> None:
    small = {f"{40 + number}x40 RGB": 1 for number in range(40)}
    large = {f"{400 + number}x400 L": 1 for number in range(40)}
    told = found(small, large)
    assert told["size", None].accuracy > 0.9 and told["colour mode", None].accuracy == 1


@pytest.mark.parametrize("seed", range(10))
def test_chance_gives_nothing_away(seed: int) -> None:
    draw = np.random.default_rng(seed)
    classes = [Counter(f"{w}x{h} RGB" for w, h in draw.integers(50, 500, (60, 2))) for _ in range(4)]
    assert not any(one.is_beyond_chance for one in giveaways(classes))


def test_few_images_prove_nothing() -> None:
    assert not any(one.is_beyond_chance for one in found({"9x9 RGB": 2}, {"8x8 RGB": 2}).values())
    assert not any(one.is_beyond_chance for one in giveaways([Counter(), Counter()]))


def test_forms() -> None:
    assert form_of("12x7 I;16") == (12, 7, "I;16")
