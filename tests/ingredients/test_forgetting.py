"""Forgetting counts, and the filters of real images by them and by the networks of a pool."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydd import networks
from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.core.keyed_random import Key, permutation, seeded, uniform
from raydd.core.progress import NoProgress, Numbers, Progress, Work
from raydd.data import DataConfig
from raydd.data.prepared import LabelledImages, PreparedData, prepare
from raydd.ingredients.forgetting import Counter, Scores, score, scores_identity
from raydd.ingredients.real_filter import (
    FilterConfig,
    ensemble_mask,
    least_mask,
    pool_correct,
    restricted,
    stage_mask,
    window_mask,
)
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder, content_key
from raydd.storage.checkpoints import Checkpoints
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.reference import forgetting as reference
from tests.support import tiny

KEY = Key.root(3)
NETWORK = replace(tiny.NETWORK, norm="batch")
SETTING = tiny.setting(NETWORK)
RECIPE = Recipe(epochs=7, lr=0.2, momentum=0.9, batch_size=8, augmentation="crop+flip")
"""Large steps, after which a batch-norm network has forgotten much."""

Histories = list[list[bool]]
"""By image, then by epoch."""


@st.composite
def histories(draw: st.DrawFn) -> Histories:
    epochs = draw(st.integers(1, 12))
    return draw(st.lists(st.lists(st.booleans(), min_size=epochs, max_size=epochs), min_size=1, max_size=8))


def scored(work: Path, recipe: Recipe = RECIPE, progress: Progress | None = None) -> Scores:
    return score(tiny.real_training(work, recipe, KEY, network=NETWORK), progress or NoProgress())


def assert_same(found: Scores, wanted: Scores) -> None:
    for name, value in vars(wanted).items():
        assert getattr(found, name).dtype == value.dtype and torch.equal(getattr(found, name), value), name


def scores_of(*counts: int) -> Scores:
    rows = torch.arange(len(counts))
    return Scores(rows, rows % 2, torch.tensor(counts), torch.tensor(counts) < 7)


# counting


@given(histories())
def test_counts_are_those_of_a_loop(correct: Histories) -> None:
    counter, by_epoch = Counter.start(len(correct)), torch.tensor(correct).T
    for correct_N in by_epoch:
        counter = counter.after(correct_N)
    found = counter.counts(len(by_epoch)).tolist(), counter.learned.tolist()
    wanted = [reference.forgetting(history) for history in correct]
    assert list(zip(*found, strict=True)) == wanted


@given(histories())
def test_what_was_never_learned_counts_more_than_anything_else(correct: Histories) -> None:
    counter, epochs = Counter.start(len(correct)), len(correct[0])
    for epoch in range(epochs):
        counter = counter.after(torch.tensor([history[epoch] for history in correct]))
    counts = counter.counts(epochs)
    assert (counts[~counter.learned] == epochs).all() and (counts[counter.learned] <= epochs // 2).all()


@given(histories(), st.data())
def test_a_counter_goes_on_from_its_state(correct: Histories, data: st.DataObject) -> None:
    by_epoch = torch.tensor(correct).T
    at = data.draw(st.integers(0, len(by_epoch)))
    whole, broken = (Counter.start(len(correct)) for _ in range(2))
    for epoch, correct_N in enumerate(by_epoch):
        if epoch == at:
            broken = Counter.restore({"module.weight": torch.zeros(1), **broken.state_dict()})
        whole, broken = whole.after(correct_N), broken.after(correct_N)
    tiny.assert_equal(broken.state_dict(), whole.state_dict())


def test_images_are_looked_at_as_they_are_after_every_epoch(tmp_path: Path) -> None:
    train = tiny.data().train
    with seeded(KEY.child("init")):
        module = networks.build(NETWORK, (1, 8, 8), 3)
    training = Training([module], train.images, train.labels, RECIPE, [KEY.child("training")])
    seen = []
    for epoch in range(RECIPE.epochs):
        training.run_epoch(epoch)
        module.eval()
        with torch.no_grad():
            seen.append([int(module(image[None]).argmax()) for image in train.images])
    wanted = [
        reference.forgetting([predicted[row] == int(train.labels[row]) for predicted in seen])
        for row in range(len(train))
    ]
    found = scored(tmp_path)
    assert list(zip(found.count.tolist(), found.learned.tolist(), strict=True)) == wanted
    assert torch.equal(found.class_, train.labels) and found.index.tolist() == list(range(36))
    assert len({count for count, _ in wanted}) >= 3


@cache
def mislabelled() -> tuple[PreparedData, Tensor]:
    """Three hundred digits of which every tenth has a wrong class, and which those are, bool [N]."""
    data = prepare(DataConfig(train_limit_per_class=30), Key.root(0))
    labels, is_wrong = data.train.labels.clone(), torch.zeros(300, dtype=torch.bool)
    is_wrong[permutation(KEY, 300)[:30]] = True
    labels[is_wrong] = (labels[is_wrong] + 1 + torch.arange(30) % 9) % 10
    return replace(data, train=LabelledImages(data.train.images, labels)), is_wrong


def test_wrong_labels_are_forgotten_more_often(tmp_path: Path) -> None:
    data, is_wrong = mislabelled()
    recipe = Recipe(epochs=25, lr=0.05, momentum=0.9, batch_size=32, augmentation="none")
    training = tiny.real_training(tmp_path, recipe, KEY, data, NetworkConfig(width=8, depth=2))
    found = score(training, NoProgress())
    count, learned = found.count.double(), found.learned
    assert count[is_wrong].mean() > 4 > 1 > count[~is_wrong].mean()
    assert count[is_wrong & learned].mean() > 2 * count[~is_wrong & learned].mean() > 0
    assert (~learned[is_wrong]).double().mean() > 0.1 > 0.02 > (~learned[~is_wrong]).double().mean()
    hard = window_mask(found.count, 1, 2, 2)
    assert hard[is_wrong].double().mean() > 4 * hard[~is_wrong].double().mean()


class Stop(NoProgress):
    def __init__(self, after: int) -> None:
        self.after = after

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if done == self.after:
            raise InterruptedError


class Told(NoProgress):
    def __init__(self) -> None:
        self.epochs: list[float] = []

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        assert (str(task), total) == ("forgetting", RECIPE.epochs) and note.endswith("times an image was forgotten")
        self.epochs.append(done)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_scoring_that_was_broken_off_goes_on_to_the_same_bits(after: int, tmp_path: Path) -> None:
    whole = scored(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        scored(tmp_path / "broken", progress=Stop(after))
    told = Told()
    assert_same(scored(tmp_path / "broken", progress=told), whole)
    assert told.epochs == list(range(after + 1, 8))
    ends = [Checkpoints(Folder.at(tmp_path / name), "real").load() for name in ("whole", "broken")]
    assert ends[0] is not None and ends[1] is not None and ends[0][1] == ends[1][1]
    tiny.assert_equal(ends[1][0], ends[0][0])


def test_no_generator_is_touched(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    scored(tmp_path, replace(RECIPE, epochs=1))
    pool_correct(SETTING, [trained(tiny.data(), 0)])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_ends_the_scoring(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the training loss is (nan|inf)"):
        scored(tmp_path, replace(RECIPE, lr=1e30))


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    written, folder = scores_of(0, 7, 3, 2**40), Folder.at(tmp_path)
    with pytest.raises(ArtefactError, match="there is no finished forgetting here"):
        Scores.load(folder)
    written.save(folder, "key")
    assert_same(Scores.load(folder), written)
    raw = folder.read("forgetting.parquet")
    folder.write("forgetting.parquet", raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="forgetting.parquet: the content is not what was written"):
        Scores.load(folder)


def test_whatever_determines_the_scores_is_in_their_key() -> None:
    data = tiny.data()
    others: list[tuple[Any, ...]] = [
        (replace(RECIPE, epochs=8), NETWORK, data, 0),
        (RECIPE, tiny.NETWORK, data, 0),
        (RECIPE, NETWORK, replace(data, fingerprint="1" * 64), 0),
        (RECIPE, NETWORK, data, 1),
    ]
    keys = {content_key(scores_identity(*arguments)) for arguments in [(RECIPE, NETWORK, data, 0), *others]}
    assert len(keys) == 5


# masks


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 5), st.integers(1, 12))
def test_windows_part_the_data(counts: list[int], num_stages: int, window: int) -> None:
    masks = [window_mask(torch.tensor(counts), stage, num_stages, window) for stage in range(num_stages)]
    for stage, mask in enumerate(masks):
        assert mask.tolist() == [reference.in_window(count, stage, num_stages, window) for count in counts]
    assert torch.stack(masks).sum(0).tolist() == [1] * len(counts)


def test_a_least_count_is_kept() -> None:
    assert least_mask(torch.tensor([0, 1, 2, 3]), 2).tolist() == [False, False, True, True]


@given(
    st.integers(1, 4).flatmap(lambda e: st.lists(st.lists(st.booleans(), min_size=e, max_size=e), min_size=1)),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 99),
)
def test_an_ensemble_drops_what_a_loop_drops(
    correct: list[list[bool]], keep: float, drops_unknown: bool, seed: int
) -> None:
    found = ensemble_mask(torch.tensor(correct).T, keep, Key.root(seed), drops_unknown)
    chance = uniform(Key.root(seed), torch.arange(len(correct)))[:, 0]
    wanted = [
        not reference.dropped_by_ensemble(row, float(luck) < keep, drops_unknown)
        for row, luck in zip(correct, chance, strict=True)
    ]
    assert found.tolist() == wanted


def test_a_part_of_what_all_know_is_kept_by_chance() -> None:
    all_known = torch.ones(3, 5000, dtype=torch.bool)
    for keep in (0.0, 0.2, 0.75, 1.0):
        kept = ensemble_mask(all_known, keep, KEY, drops_unknown=True).double().mean()
        assert float(kept) == pytest.approx(keep, abs=0.02) and (0 < keep < 1 or kept == keep)
    of_stages = [ensemble_mask(all_known, 0.2, KEY.child(stage), drops_unknown=False) for stage in (1, 1, 2)]
    assert torch.equal(of_stages[0], of_stages[1]) and not torch.equal(of_stages[0], of_stages[2])


@cache
def trained(data: PreparedData, seed: int, epochs: int = 2) -> dict[str, Tensor]:
    """The state of a network that has seen the training images a few times."""
    key = Key.root(seed)
    with seeded(key):
        module = networks.build(NETWORK, data.shape, data.num_classes)
    training = Training([module], data.train.images, data.train.labels, replace(RECIPE, lr=0.05), [key])
    for epoch in range(epochs):
        training.run_epoch(epoch)
    return module.state_dict()


def test_networks_of_a_pool_say_what_they_know() -> None:
    data = tiny.data()
    pool = [trained(data, seed) for seed in range(3)]
    found = pool_correct(SETTING, pool)
    for number, state in enumerate(pool):
        module = networks.build(NETWORK, data.shape, data.num_classes).eval()
        module.load_state_dict(state)
        predicted = [int(module(image[None]).argmax()) for image in data.train.images]
        assert found[number].tolist() == [p == label for p, label in zip(predicted, data.train.labels, strict=True)]
    assert found.dtype == torch.bool and len(found.sum(0).unique()) > 2
    with pytest.raises(ArtefactError, match=r"the stored parameters are not this network's: body"):
        pool_correct(tiny.setting(replace(NETWORK, width=5)), pool)


def test_an_ensemble_leaves_a_later_stage_what_it_does_not_know() -> None:
    data = tiny.data()
    pool = [trained(data, seed) for seed in range(3)]
    config = FilterConfig(policy="ensemble_correct", keep=0.0)

    def mask(stage: int, config: FilterConfig = config) -> Tensor:
        return stage_mask(config, stage, 3, None, pool if stage else None, SETTING, KEY)

    assert mask(0).all()
    hits = pool_correct(SETTING, pool).sum(0)
    assert torch.equal(mask(1), hits < 3) and 0 < mask(1).sum() < 36
    middle = mask(1, replace(config, drops_unknown=True))
    assert torch.equal(middle, (hits > 0) & (hits < 3)) and middle.sum() < mask(1).sum()
    some = replace(config, keep=0.5)
    assert torch.equal(mask(1, some), mask(1, some)) and not torch.equal(mask(1, some), mask(2, some))
    assert (mask(1, some) & ~mask(1)).any() and not (~mask(1, some) & mask(1)).any()


def test_a_stage_without_a_pool_has_nobody_to_ask() -> None:
    config = FilterConfig(policy="ensemble_correct")
    with pytest.raises(ConfigError, match=r"^stages.filter.policy: ensemble_correct asks .* take stages.conditioning"):
        stage_mask(config, 1, 2, None, [], SETTING, KEY)


def test_forgetting_chooses_by_the_stage() -> None:
    scores = scores_of(*range(36))

    def kept(config: FilterConfig, stage: int) -> list[int]:
        return stage_mask(config, stage, 3, scores, None, SETTING, KEY).nonzero()[:, 0].tolist()

    window = FilterConfig(policy="forgetting_window", window=4)
    assert [kept(window, stage) for stage in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [*range(8, 36)]]
    least = FilterConfig(policy="forgetting_min", least=(0, 30, 7))
    assert [kept(least, stage) for stage in range(3)] == [[*range(36)], [*range(30, 36)], [*range(7, 36)]]


# restricted data


def test_only_training_images_are_left_out() -> None:
    whole = replace(tiny.data(), validation=tiny.data().test, test_fingerprint="tests")
    mask = torch.arange(36) % 5 != 1
    found = restricted(whole, mask, 9, stage=1)
    rows = [row for row in range(36) if row % 5 != 1]
    assert torch.equal(found.train.images[:], torch.stack([whole.train.images[row] for row in rows]))
    assert found.train.labels.tolist() == [int(whole.train.labels[row]) for row in rows]
    assert found.test is whole.test and found.validation is whole.validation
    kept_as_they_are = ("name", "class_names", "preprocessing", "test_fingerprint")
    assert all(getattr(found, name) == getattr(whole, name) for name in kept_as_they_are)


def test_other_masks_and_other_data_have_other_fingerprints() -> None:
    data = tiny.data()
    other = replace(data, fingerprint="1" * 64)
    masks = [torch.arange(36) != 0, torch.arange(36) != 35, torch.arange(36) % 36 != 0]
    found = [restricted(data, mask, 1, stage=1).fingerprint for mask in masks]
    assert found[0] == found[2] and len({data.fingerprint, *found}) == 3
    assert restricted(other, masks[0], 1, stage=1).fingerprint not in found
    assert restricted(data, torch.ones(36, dtype=torch.bool), 1, stage=1) is data


def test_a_class_that_keeps_too_few_images_is_named() -> None:
    data = tiny.data()
    mask = torch.ones(36, dtype=torch.bool)
    bees = (data.train.labels == 1).nonzero()[:, 0]
    mask[bees[4:]] = False
    assert len(restricted(data, mask, 4, stage=2).train) == 28
    with pytest.raises(
        ConfigError, match=r"^stages.filter: class bee keeps 4 real images in stage 2, fewer than the 5"
    ):
        restricted(data, mask, 5, stage=2)
    no_cats = data.train.labels != 2
    with pytest.raises(ConfigError, match="class cat keeps 0 real images .* take another window, a lower least"):
        restricted(data, no_cats, 1, stage=2)


# config


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FilterConfig(policy="forgetting_window", window=0), r"window: must be at least 1, is 0"),
        (lambda: FilterConfig(policy="forgetting_min", least=(3, -1)), r"least: counts are 0 or larger, not -1"),
        (lambda: FilterConfig(policy="ensemble_correct", keep=1.5), r"keep: must be from 0 to 1, is 1.5"),
        (lambda: FilterConfig(policy="forgetting_min", scoring=Recipe(lr=None)), r"scoring.lr: must be given"),
        (
            lambda: FilterConfig(policy="forgetting_min", scoring=Recipe(views=ViewsConfig())),
            r"scoring.views: the network learns from classes",
        ),
        (
            lambda: FilterConfig(policy="forgetting_min", least=(0, 1)).check(3),
            r"least: forgetting_min takes one count for each stage: 3 \(stages.count\), not 2",
        ),
    ],
)
def test_what_cannot_filter_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^stages\.filter\.{message}"):
        make()


def test_policies_say_what_they_need() -> None:
    FilterConfig(policy="forgetting_min", least=(0, 1)).check(2)
    FilterConfig(policy="forgetting_window").check(5)
    needs = {
        policy: (FilterConfig(policy=policy).needs_scores, FilterConfig(policy=policy).needs_pool)
        for policy in ("forgetting_window", "forgetting_min", "ensemble_correct")
    }
    assert needs == {
        "forgetting_window": (True, False),
        "forgetting_min": (True, False),
        "ensemble_correct": (False, True),
    }
    scoring = FilterConfig(policy="forgetting_min").scoring
    assert (scoring.epochs, scoring.lr, scoring.momentum, scoring.weight_decay) == (200, 0.01, 0.9, 5e-4)
    assert (scoring.batch_size, scoring.augmentation) == (256, "dsa")
