"""Long tails: which images they keep, what starts from too few of them, balanced epochs, and accuracy by class size."""

import math
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load, size_of, undecoded
from raydd.data.long_tail import long_tail_counts, long_tail_rows
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.evaluation import records
from raydd.evaluation.students.metrics import class_size_accuracy
from raydd.ingredients.coreset import Selection
from raydd.ingredients.ranking import Ranking
from raydd.methods import (
    DATMConfig,
    DCConfig,
    DELTConfig,
    DMConfig,
    DSAConfig,
    FTDConfig,
    IDCConfig,
    MTTConfig,
    RDEDConfig,
    SRe2LConfig,
    Start,
    method_identity,
)
from raydd.methods.decoupled.selection import highest_rows, random_rows
from raydd.methods.initial import correctly_predicted, random_real, require_images
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from raydd.training.sampling import epoch_order
from tests.support import taught, tiny
from tests.support.small import COMMON, CONFIG, SmallRun, small_run

KEY = Key.root(11)
PUBLISHED = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}
"""Images of each class of CIFAR-10-LT by its imbalance factor."""
TOTALS = {10: 20431, 50: 13996, 100: 12406, 200: 11203}

needs_cifar10 = pytest.mark.skipif("RAYDD_DATA" not in os.environ, reason="RAYDD_DATA is not set: no real CIFAR-10")


# which images


@pytest.mark.parametrize("factor", PUBLISHED)
def test_the_counts_are_the_published_ones(factor: int) -> None:
    assert long_tail_counts(10, 5000, factor) == PUBLISHED[factor]
    assert sum(PUBLISHED[factor]) == TOTALS[factor]


@given(classes=st.integers(2, 25), largest=st.integers(1, 6000), factor=st.integers(1, 300))
def test_counts_are_exact(classes: int, largest: int, factor: int) -> None:
    """In whole numbers: n <= n_0 IF^(-c / (K - 1)) where n^(K - 1) IF^c <= n_0^(K - 1)."""
    for label, count in enumerate(long_tail_counts(classes, largest, factor)):
        bound = Fraction(largest ** (classes - 1), factor**label)
        assert count ** (classes - 1) <= bound < (count + 1) ** (classes - 1)


@pytest.mark.parametrize("rate", [0.1, 0.05, 0.02, 0.01])
def test_a_hundred_classes_end_with_their_share(rate: float) -> None:
    """As the published code counts, by rates in place of factors."""
    assert long_tail_counts(100, 500, 1 / rate) == [int(500 * rate ** (label / 99)) for label in range(100)]
    assert long_tail_counts(100, 500, 1 / rate)[-1] == round(500 * rate)


def test_a_single_class_keeps_all() -> None:
    assert long_tail_counts(1, 7, 100) == [7]


def test_rows_are_those_of_the_published_draw() -> None:
    labels = torch.arange(240)[torch.randperm(240, generator=torch.Generator().manual_seed(0))] % 6
    found = long_tail_rows(labels, 8)
    kept = []
    for label, count in enumerate([40, 26, 17, 11, 7, 5]):
        rows = [row for row in range(240) if labels[row] == label]
        kept += [rows[place] for place in np.random.RandomState(42).permutation(40)[:count]]
    assert found.tolist() == sorted(kept) and found.dtype == torch.int64


@pytest.mark.parametrize(
    "sizes, factor, said",
    [
        ([9, 10], 2, "class 0 is to keep 10 images, but has only 9.*train_limit_per_class of 9"),
        ([10, 3], 2, "class 1 is to keep 5 images, but has only 3.*train_limit_per_class of 3"),
        ([10, 10], 11, "class 1 would keep none of its 10 images; take 10 or less"),
    ],
)
def test_what_cannot_be_cut_is_refused(sizes: list[int], factor: float, said: str) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    with pytest.raises(DataError, match=rf"data\.imbalance_factor {factor}: {said}"):
        long_tail_rows(labels, factor)


@pytest.mark.parametrize("fraction, held_out", [(0.0, 0), (0.25, 31)])
def test_all_ways_to_the_images_agree_on_the_tail(fraction: float, held_out: int) -> None:
    config = DataConfig(train_limit_per_class=30, imbalance_factor=10, validation_fraction=fraction)
    splits, listed = load(config, KEY), undecoded(config, KEY)
    counts = [30, 23, 17, 13, 10, 8, 6, 5, 3, 3]
    shares = [max(1, math.floor(count / 4 + 0.5)) * (fraction > 0) for count in counts]
    assert splits.train.counts() == [count - share for count, share in zip(counts, shares, strict=True)]
    assert torch.equal(listed.labels, splits.train.labels)
    assert torch.equal(listed.decode(torch.arange(len(listed)), 1), splits.train.images)
    assert len(splits.train) == 118 - held_out and sum(shares) == held_out
    assert torch.equal(splits.test.images, load(DataConfig(), KEY).test.images)


def test_a_set_that_is_not_there_has_its_published_size_cut(tmp_path: Path) -> None:
    config = DataConfig(source="cifar10", root=str(tmp_path), imbalance_factor=50, validation_fraction=0.1)
    size = size_of(config)
    held_out = sum(math.floor(count / 10 + 0.5) for count in PUBLISHED[50])
    assert size is not None and size.num_validation == held_out
    assert (size.num_train, size.num_test) == (TOTALS[50] - held_out, 10_000)


def test_classes_of_different_size_are_told_how_to_become_equal() -> None:
    with pytest.raises(DataError, match=r"data\.imbalance_factor 10: .*train_limit_per_class of \d+$") as caught:
        undecoded(DataConfig(imbalance_factor=10), KEY)
    limit = int(str(caught.value).rpartition(" ")[2])
    counts = undecoded(DataConfig(imbalance_factor=10, train_limit_per_class=limit), KEY).labels.bincount()
    assert int(counts[0]) == limit


@needs_cifar10
@pytest.mark.parametrize("factor", PUBLISHED)
def test_cifar10_lt_has_the_published_counts(factor: int) -> None:
    config = DataConfig(source="cifar10", imbalance_factor=factor)
    listed, size = undecoded(config, KEY), size_of(config)
    assert listed.labels.bincount().tolist() == PUBLISHED[factor]
    assert size is not None and (size.num_train, size.num_test) == (TOTALS[factor], 10_000)


# balanced epochs


class Remembers(nn.Module):
    """A linear layer that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 3)
        self.shown: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown += images.flatten().tolist()
        return self.last(images.flatten(1))


def balanced(key: Key, labels: list[int]) -> list[int]:
    """Place by place: each class gives its next image, from a new permutation whenever it has none left."""
    classes, count = sorted(set(labels)), len(labels)
    extra = keyed_random.permutation(key.child("larger"), len(classes)).tolist()
    places = [count // len(classes) + (extra[k] < count % len(classes)) for k in range(len(classes))]
    sequence = [label for label, number in zip(classes, places, strict=True) for _ in range(number)]
    left: dict[int, list[int]] = {label: [] for label in classes}
    turn: Counter[int] = Counter()
    order = []
    for place in keyed_random.permutation(key.child("places"), count).tolist():
        label = sequence[place]
        if not left[label]:
            rows = [row for row, own in enumerate(labels) if own == label]
            drawn = keyed_random.permutation(key.child("images", label, turn[label]), len(rows)).tolist()
            left[label] = [rows[number] for number in drawn]
            turn[label] += 1
        order.append(left[label].pop(0))
    return order


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.sampled_from([0, 1, 1, 1, 1, 2, 5]), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_balanced_orders(labels: list[int], seed: int) -> None:
    key = Key.root(seed)
    order = epoch_order(key, torch.tensor(labels), "class_balanced")
    assert order.tolist() == balanced(key, labels) and order.dtype == torch.int64
    seen, present = [labels[row] for row in order.tolist()], set(labels)
    shares = [seen.count(label) for label in present]
    assert len(order) == len(labels) and max(shares) - min(shares) <= 1
    for label in present:
        own = [row for row in order.tolist() if labels[row] == label]
        size = labels.count(label)
        for start in range(0, len(own), size):
            assert len(set(own[start : start + size])) == len(own[start : start + size])


def test_uniform_orders_are_plain_permutations() -> None:
    labels = torch.arange(50) % 3
    assert torch.equal(epoch_order(KEY, labels, "uniform"), keyed_random.permutation(KEY, 50))


def test_orders_differ_from_key_to_key_and_logits_count_as_their_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 5 + [2] * 7)
    order = epoch_order(KEY, labels, "class_balanced")
    assert not torch.equal(order, epoch_order(KEY.child("other"), labels, "class_balanced"))
    logits = nn.functional.one_hot(labels).float() * 3 - 1
    assert torch.equal(order, epoch_order(KEY, logits, "class_balanced"))


def test_training_goes_through_balanced_orders() -> None:
    labels = torch.tensor([0] * 16 + [1] * 3 + [2] * 2)
    recipe = Recipe(epochs=2, lr=0.0001, batch_size=4, augmentation="none", sampling="class_balanced")
    network = Remembers()
    training = Training([network], torch.arange(21.0).view(21, 1, 1, 1), labels, recipe, [KEY])
    for epoch in range(2):
        network.shown.clear()
        training.run_epoch(epoch)
        assert network.shown == balanced(KEY.child("order", epoch), labels.tolist())


def test_packed_networks_have_balanced_orders_of_their_own() -> None:
    data = unbalanced()
    recipe = Recipe(epochs=1, lr=0.1, batch_size=4, augmentation="none", sampling="class_balanced")
    keys = [KEY.child("one"), KEY.child("other")]

    def trained(numbers: list[int]) -> list[dict[str, Tensor]]:
        modules = []
        for _ in numbers:
            with keyed_random.seeded(KEY):
                modules.append(networks.build(tiny.NETWORK, data.shape, data.num_classes).double())
        images, own = data.train.images[:].double(), [keys[number] for number in numbers]
        training = Training(modules, images, data.train.labels, recipe, own)
        training.run_epoch(0)
        return training.state_dicts()

    together, alone = trained([0, 1]), [trained([number])[0] for number in (0, 1)]
    for packed, single in zip(together, alone, strict=True):
        assert all(torch.allclose(packed[name], single[name], atol=1e-10) for name in single)
    assert any(not torch.allclose(alone[0][name], alone[1][name]) for name in alone[0])


def test_a_uniform_recipe_is_what_it_was() -> None:
    assert "sampling" not in Recipe().identity()
    assert Recipe(sampling="class_balanced").identity() == {**Recipe().identity(), "sampling": "class_balanced"}


# starting from too few


SIZES = [12, 5, 2]


def cut(data: PreparedData, sizes: list[int]) -> PreparedData:
    """The first so many training images of each class."""
    rows = torch.cat([(data.train.labels == k).nonzero().flatten()[:size] for k, size in enumerate(sizes)])
    return replace(data, train=LabelledImages(data.train.images[rows], data.train.labels[rows]))


@cache
def unbalanced() -> PreparedData:
    return cut(tiny.data(), SIZES)


def images_by_class(data: PreparedData, label: int) -> list[bytes]:
    return [image.numpy().tobytes() for image in data.train.images[data.train.labels == label]]


def require_repeated(found: SyntheticSet, data: PreparedData, per_class: int) -> None:
    """Fail unless each class starts from all its images, or that many, and then from the same in the same order."""
    for label in range(data.num_classes):
        own, real = found.images[found.labels == label], images_by_class(data, label)
        seen = [image.numpy().tobytes() for image in own]
        once = min(per_class, len(real))
        assert len(seen) == per_class and set(seen) <= set(real) and len(set(seen)) == once
        assert seen == [seen[place % once] for place in range(per_class)]


@pytest.mark.parametrize("repeat", [False, True])
def test_random_images(repeat: bool) -> None:
    data = unbalanced()
    if not repeat:
        with pytest.raises(ConfigError, match=r"6 asked for, but class 'bee' has only 5 images; .*repeat_images"):
            random_real(data, 6, KEY)
        return
    rows = random_real(data, 6, KEY, repeat=True).view(3, 6)
    assert torch.equal(rows[:, :2], random_real(data, 2, KEY).view(3, 2))
    assert rows[1].unique().tolist() == [*range(12, 17)] and rows[1, 5] == rows[1, 0]
    assert torch.equal(rows[2], rows[2, :2].repeat(3))
    require_images(data, 100, repeat=True)
    with pytest.raises(ConfigError, match=r"has only 0 images$"):
        require_images(cut(tiny.data(), [12, 0, 2]), 4, repeat=True)


def test_images_that_experts_know_come_first_and_then_again() -> None:
    task = replace(tiny.task(tiny.expert_folder(), torch.float32), data=unbalanced())
    with pytest.raises(ConfigError, match=r"^method\.images_per_class: 9 asked for, .* correctly; .*repeat_images"):
        correctly_predicted(task, 9, KEY)
    rows = correctly_predicted(task, 9, KEY, repeat=True).view(3, 9)
    for label, own in enumerate(rows.tolist()):
        known = list(dict.fromkeys(own))
        assert own == [known[place % len(known)] for place in range(9)]
        assert {int(task.data.train.labels[row]) for row in known} == {label}
        assert known == correctly_predicted(task, 1, KEY).view(3, 1)[label].tolist() + known[1:]
    assert len(set(rows[2].tolist())) <= 2


LOOPS: dict[str, Any] = {"outer_loops": 1, "inner_epochs": 1}
TRAJECTORIES = [MTTConfig(), FTDConfig(), DATMConfig(image_init="random", max_start_epoch=10, labels="hard")]
CONDENSATIONS = [DMConfig(), DCConfig(**LOOPS, image_init="random"), DSAConfig(**LOOPS)]


@pytest.mark.parametrize("config", [*TRAJECTORIES, *CONDENSATIONS], ids=lambda config: config.name)
def test_methods_start_from_repeated_images_if_asked(config: Any) -> None:
    task = replace(tiny.task(tiny.expert_folder(), torch.float32), data=unbalanced())
    config = replace(config, images_per_class=7)
    with pytest.raises(ConfigError, match=r"^method\.images_per_class: 7 asked for, .*method\.repeat_images"):
        config.build(task, Start(), KEY)
    found = replace(config, repeat_images=True).build(task, Start(), KEY).result()
    require_repeated(found, task.data, 7)


def test_mosaics_of_idc_repeat_images() -> None:
    data = unbalanced()
    task = replace(tiny.task(tiny.expert_folder(), torch.float32), data=data)
    config = IDCConfig(images_per_class=2, augmentation="none", network_augmentation="none")
    with pytest.raises(ConfigError, match=r"8 asked for, .*'bee' has only 5 images; set method\.repeat_images"):
        config.build(task, Start(), KEY)
    found = replace(config, repeat_images=True).build(task, Start(), KEY).result()
    parts = found.images[found.labels == 2].unfold(2, 4, 4).unfold(3, 4, 4).reshape(8, 16)
    small = data.train.images[data.train.labels == 2][:, :, ::2, ::2].reshape(2, 16)
    nearest = [int((small - part).abs().sum(1).argmin()) for part in parts]
    assert nearest == [nearest[place % 2] for place in range(8)] and set(nearest) == {0, 1}


TAUGHT_SIZES = [18, 9, 4, 3, 2]


@cache
def taught_task() -> Any:
    """The task of the taught pictures, cut to a tail, with the ranking of those that are left."""
    data = cut(taught.data(), TAUGHT_SIZES)
    rows = torch.cat([(taught.data().train.labels == k).nonzero().flatten()[:n] for k, n in enumerate(TAUGHT_SIZES)])
    paths = [str(number) for number in range(len(rows))]
    ranking = Ranking(data.train.labels, torch.arange(len(rows)), paths, taught.ranking().p_true[rows])
    return replace(taught.task(*range(5)), data=data, ranking=ranking)


def whole(images: Tensor) -> list[bytes]:
    """Pixels, which decoupled sets are rounded to."""
    pixels = taught.data().preprocessing.inverse(images).mul(255).round().to(torch.uint8)
    return [image.numpy().tobytes() for image in pixels]


@pytest.mark.parametrize(
    "config",
    [DELTConfig(), DELTConfig(init="easy"), SRe2LConfig(init="random"), RDEDConfig(crops=1, min_crop_scale=1.0)],
    ids=["delt-medium", "delt-easy", "sre2l-random", "rded"],
)
def test_decoupled_methods_start_from_repeated_images_if_asked(config: Any) -> None:
    task, count = taught_task(), 5
    config = replace(config, images_per_class=count)
    task = replace(task, groups=tuple(range(config.num_groups(5))))
    with pytest.raises(ConfigError, match=r"method\.repeat_images"):
        config.build(task, Start(), KEY)
    found = replace(config, repeat_images=True).build(task, Start(), KEY).result()
    for label, size in enumerate(TAUGHT_SIZES):
        real, seen = (
            whole(task.data.train.images[task.data.train.labels == label]),
            whole(found.images[found.labels == label]),
        )
        once = min(size, count)
        assert set(seen) <= set(real) and len(set(seen)) == once
        assert seen == [seen[place % once] for place in range(count)]


def test_too_few_candidates_are_no_small_class() -> None:
    config = RDEDConfig(images_per_class=5, candidates=3, repeat_images=True)
    with pytest.raises(ConfigError, match=r"^method\.candidates: 5 are needed .*, there are 3 of class 'ant'$"):
        config.build(taught_task(), Start(), KEY)


def test_rows_by_score_repeat_in_their_order() -> None:
    data, scores = unbalanced(), torch.arange(19.0)
    assert highest_rows(data, 2, 5, scores, "field", repeat=True).tolist() == [18, 17, 18, 17, 18]
    drawn = random_rows(data, 2, 5, KEY, "field", repeat=True).tolist()
    assert drawn[:2] == drawn[2:4] and sorted(drawn[:2]) == [17, 18]


def test_selections_repeat_small_classes_in_the_order_of_choice() -> None:
    features, labels = tiny.randn(1, 12, 4), torch.tensor([0] * 9 + [1] * 3)
    found = Selection.of(lambda rows: features[rows], labels, 2, 7)
    plain = Selection.of(lambda rows: features[rows], labels, 2, 3)
    for name, rows in found.rows.items():
        few = plain.rows[name]
        assert rows[:3].tolist() == few[:3].tolist() and len(set(rows[:7].tolist())) == 7
        assert rows[7:].tolist() == [*few[3:].tolist(), *few[3:].tolist(), int(few[3])]


@pytest.mark.parametrize("config", [MTTConfig(), DMConfig(), DELTConfig()], ids=lambda config: config.name)
def test_content_keys_know_nothing_of_repeating_unless_asked(config: Any) -> None:
    assert "repeat_images" not in method_identity(config)
    asked = method_identity(replace(config, repeat_images=True))
    assert asked == {**method_identity(config), "repeat_images": True}


# accuracy by class size


def test_ten_classes_have_heads_of_three() -> None:
    accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = class_size_accuracy(accuracies, [7, 90, 7, 50, 1, 30, 7, 2, 80, 7])
    # by size: 1, 8, 3 | 5, 0, 2, 6 | 9, 7, 4
    assert found == pytest.approx(
        {
            "head_accuracy": (0.2 + 0.9 + 0.4) / 3,
            "medium_accuracy": (0.6 + 0.1 + 0.3 + 0.7) / 4,
            "tail_accuracy": (1.0 + 0.8 + 0.5) / 3,
        }
    )


def test_absent_classes_count_nowhere() -> None:
    found = class_size_accuracy([0.5, math.nan, 0.25, math.nan], [4, 3, 2, 1])
    assert found["head_accuracy"] == 0.5 and found["medium_accuracy"] == 0.25 and math.isnan(found["tail_accuracy"])


@pytest.mark.parametrize("sizes", [[5, 5, 5, 5], [148, 152, 150, 151], [9, 1], [3]])
def test_nearly_equal_or_few_classes_have_no_tail(sizes: list[int]) -> None:
    assert class_size_accuracy([0.5] * len(sizes), sizes) == {}


# a run


COUNTS = [20, 15, 11, 9, 7, 5, 4, 3, 2, 2]


def long_tailed(folder: Path, repeat: bool) -> SmallRun:
    """Digits with 20 to 2 images of a class, of which 5 are distilled; experts and students see classes alike."""
    changes = {
        "data": {"source": "digits", "train_limit_per_class": 20, "imbalance_factor": 10},
        "method": {**COMMON, "name": "mtt", "images_per_class": 5, "repeat_images": repeat, "iterations": 2},
        "experts.training": {**CONFIG["experts"]["training"], "epochs": 4, "sampling": "class_balanced"},
        "evaluate.recipe": {**CONFIG["evaluate"]["recipe"], "epochs": 2, "sampling": "class_balanced"},
        "evaluate.baselines": ["init", "random", "herding", "full"],
        "evaluate.selector": {"epochs": 1, "lr": 0.1, "batch_size": 32, "augmentation": "none"},
    }
    return small_run(folder, changes)


def test_a_long_tailed_run_needs_repeated_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert long_tailed(tmp_path, repeat=False).does("run") == 2
    assert "method.images_per_class: 5 asked for, but class '6' has only 4 images" in capsys.readouterr().err
    run = long_tailed(tmp_path, repeat=True)
    assert run.does("evaluate") == 0
    labels = SyntheticSet.load(Folder.at(run.out) / "synthetic").labels
    assert labels.bincount().tolist() == [5] * 10
    rows = records.read(Folder.at(run.out) / "results").to_pylist()
    assert {row["subject"] for row in rows} == {"synthetic", "init", "random", "herding", "full"}
    for row in rows:
        measured, accuracies = dict(row["metrics"]), row["class_accuracy"]
        parts = {"head": accuracies[:3], "medium": accuracies[3:7], "tail": accuracies[7:]}
        for name, own in parts.items():
            assert measured[f"{name}_accuracy"] == pytest.approx(sum(own) / len(own))
        assert row["num_images"] == (sum(COUNTS) if row["subject"] == "full" else 50)
