"""MTT, FTD and DATM as running methods: equations, windows, skips and roll-backs, workers, exact continuation."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.methods import DATMConfig, FTDConfig, MTTConfig, Start, Task
from raydd.methods.initial import correctly_predicted, masked_mean_logits, random_real, single_expert_logits
from raydd.methods.trajectory.datm import start_epoch_bound
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.matcher import TrajectoryMatching
from raydd.methods.trajectory.matching import MatchingConfig, draw_batches
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from tests.reference import matching
from tests.support import tiny
from tests.support.tiny import CLASSES, EXPERTS, Results, relative_error

KEY = Key.root(7)
SMALL: dict[str, Any] = {
    "images_per_class": 2,
    "synthetic_steps": 3,
    "max_start_epoch": 5,
    "image_lr": 5.0,
    "synthetic_lr_lr": 1e-4,
}
MTT = MTTConfig(**SMALL)
DATM = DATMConfig(**SMALL, initial_max_start_epoch=2, expansion_iterations=12, label_lr=0.5, threshold=None)
FTD = FTDConfig(**SMALL, synthetic_lr_init=0.01, ema_decay=0.9)
TESLA = MTTConfig(**SMALL, labels="assigned", gradient="tesla", synthetic_lr_space="log")
METHODS = {"mtt": MTT, "datm": DATM, "ftd": FTD, "tesla": TESLA}
CONFIGS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
EXACT = METHODS | {
    "tesla": replace(TESLA, gradient="exact"),
    "truncated": replace(DATM, gradient="truncated:2"),
    "fixed labels": replace(DATM, labels="fixed"),
    "hard labels": replace(DATM, labels="hard"),
    "deep part": replace(DATM, matched_fraction=0.25),
    "log": replace(
        DATM, synthetic_lr_space="log", synthetic_lr_lr=0.1, label_init="single_expert", image_init="random"
    ),
}
"""Whose update is that of torch's SGD on a loss that the reference writes down."""


def build(config: MatchingConfig, start: Start | None = None, dtype: torch.dtype = torch.float64,
          folder: Folder | None = None) -> TrajectoryMatching:  # fmt: skip
    method = config.build(tiny.task(folder or tiny.expert_folder(), dtype), start or Start(), KEY)
    assert isinstance(method, TrajectoryMatching)
    return method


def task() -> Task:
    return tiny.task(tiny.expert_folder())


def last_params() -> list[Tensor]:
    """The experts at their last epoch, float64."""
    store = task().require_trajectories()
    return [store.params(expert, EXPERTS.training.epochs).double() for expert in range(EXPERTS.count)]


def learned(state: dict[str, Any]) -> Results:
    """What an update changes: images, labels, step size and their momenta."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and not name.startswith("good.")}


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Bit by bit."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value, name


def differs(found: Results, other: Results) -> list[str]:
    return [name for name in found if not torch.equal(found[name], other[name])]


# Equations


@pytest.mark.parametrize("frozen", [False, True], ids=["alone", "after frozen images"])
@pytest.mark.parametrize("config", EXACT.values(), ids=EXACT.keys())
def test_outer_loop_is_torch_sgd_on_the_unrolled_loss(config: MatchingConfig, frozen: bool) -> None:
    # the whole set in every step: no draw is left but the segment
    config = replace(config, augmentation="none", synthetic_batch_size=12 if frozen else None)
    before = first_stage(config) if frozen else None
    method = build(config, Start(stage=1, frozen=before))
    store, state = task().require_trajectories(), method.state_dict()
    learned = [name.removeprefix("velocity.") for name in state if name.startswith("velocity.")]
    leaves = {name: state[name].clone().requires_grad_() for name in learned}
    assert ("soft_labels" in learned) == (getattr(config, "labels", None) == "learned")
    rate = config.synthetic_lr_lr, 0.5
    rates = {"images": (5.0, 0.5), "lr": rate, "log_lr": rate, "soft_labels": (0.5, 0.9)}
    sizes = [p.numel() for p in method._network.module.parameters()]
    optimizer = torch.optim.SGD(
        [{"params": [leaf], "lr": rates[name][0], "momentum": rates[name][1]} for name, leaf in leaves.items()]
    )
    for _ in range(5):
        row = method.step()
        images, target = leaves["images"], store.params(row["expert"], row["start_epoch"] + 2).double()
        labels = leaves.get("soft_labels", state.get("soft_labels", torch.arange(3).repeat_interleave(2)))
        if getattr(config, "labels", None) == "assigned":
            labels = tiny.network(target, images).detach()
            assert relative_error(method.state_dict()["soft_labels"], labels) < 1e-10
        step_size = leaves["lr"] if "lr" in leaves else leaves["log_lr"].exp()
        if before is not None:
            images = torch.cat([before.images.double(), images])
            labels = torch.cat([before.targets.to(labels.dtype), labels])
        loss = matching.unrolled_loss(
            tiny.network,
            store.params(row["expert"], row["start_epoch"]).double(),
            target,
            step_size,
            images,
            labels,
            [range(len(images))] * 3,
            [lambda x: x] * 3,
            2 if config.gradient == "truncated:2" else None,
            matching.deep_mask(sizes, config.matched_fraction),
        )
        assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, leaf in leaves.items():
            assert relative_error(method.state_dict()[name], leaf.detach()) < 1e-10, name
    step_size = leaves["lr"].detach() if "lr" in leaves else leaves["log_lr"].detach().exp()
    assert row["learned_lr"] == pytest.approx(float(step_size), rel=1e-10)
    assert method.result().learned_lr == (pytest.approx(row["learned_lr"], rel=1e-6),)


def test_the_logarithm_of_the_step_size_is_learned_with_the_chain_factor() -> None:
    linear, log = build(MTT), build(replace(MTT, synthetic_lr_space="log"))
    assert linear.step()["loss"] == pytest.approx(log.step()["loss"], rel=1e-12)
    found, other = log.state_dict(), linear.state_dict()
    assert float(found["velocity.log_lr"]) == pytest.approx(0.01 * float(other["velocity.lr"]), rel=1e-10)
    wanted = math.log(0.01) - 1e-4 * float(found["velocity.log_lr"])
    assert float(found["log_lr"]) == pytest.approx(wanted, rel=1e-12)


def test_in_log_space_the_step_size_stays_positive_where_it_would_not() -> None:
    config = replace(MTT, synthetic_lr_init=1.0)  # far too large
    method = build(config)
    method.step()
    rate = 2 / float(method.state_dict()["velocity.lr"])  # takes away twice the step size
    assert rate > 0
    row = build(replace(config, synthetic_lr_lr=rate)).step()
    assert row["rollbacks"] == 1 and row["learned_lr"] == 0.5
    row = build(replace(config, synthetic_lr_lr=rate, synthetic_lr_space="log")).step()
    assert row["rollbacks"] == 0 and row["learned_lr"] == pytest.approx(math.exp(-2))


@pytest.mark.parametrize(("synthetic_steps", "wanted"), [(3, 0.03), (5, 0.03), (10, 0.015), (20, 0.0075)])
def test_the_first_step_size_may_follow_the_experts(synthetic_steps: int, wanted: float) -> None:
    """Their step size is 0.03; 36 images in batches of 8 are 5 steps an epoch, a segment two epochs."""
    state = build(replace(MTT, synthetic_lr_init="auto", synthetic_steps=synthetic_steps)).state_dict()
    assert float(state["lr"]) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("space", ["linear", "log"])
@pytest.mark.parametrize("name", ["mtt", "datm", "tesla"])
def test_a_step_size_that_leads_away_is_halved_until_it_helps_most(name: str, space: Any) -> None:
    config = replace(METHODS[name], synthetic_lr_init="auto", synthetic_lr_space=space)
    method, own = build(config), "lr" if space == "linear" else "log_lr"
    guess = 2.0
    method._values[own].fill_(guess if space == "linear" else math.log(guess))
    method._find_step_size()
    found = float(method._lr)
    means = {n: fmean(first_losses(replace(config, synthetic_lr_init=guess / 2**n))) for n in range(9)}
    best = min(means, key=lambda n: means[n])
    assert means[0] > 1 > means[best] and found == pytest.approx(guess / 2**best, rel=1e-9)


def first_losses(config: MatchingConfig) -> list[float]:
    """Of the segments of the first four iterations, with images and labels as they start."""
    method = build(config)
    start, losses = method.state_dict(), []
    for iteration in range(4):
        method.load_state_dict(start | {"iteration": iteration})
        losses.append(method.step()["loss"])
    return losses


def test_images_that_no_step_size_makes_good_are_refused_at_once() -> None:
    """Every image has the label of another class, and one step shows it."""
    config = replace(MTT, synthetic_lr_init="auto", threshold=1.0, synthetic_steps=1, augmentation="none")
    method = build(config)
    with pytest.raises(
        ConfigError, match=r"method.synthetic_lr_init: auto finds no step size .* above method.threshold"
    ):
        TrajectoryMatching(
            config,
            task(),
            Start(),
            KEY,
            images_MCHW=method.result().images,
            labels=ImageLabels(classes_M=(method.result().labels + 1) % len(CLASSES)),
            window=lambda iteration: (0, 5),
        )


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_moving_average_of_the_images(decay: float) -> None:
    method = build(replace(FTD, ema_decay=decay))
    images = [method.state_dict()["images"]]
    for _ in range(6):
        method.step()
        images.append(method.state_dict()["images"])
        wanted = matching.weighted_average(images, decay)
        assert relative_error(method.state_dict()["ema"], wanted) < 1e-12
    average, raw = method.averaged(), method.result()
    assert average is not None
    torch.testing.assert_close(average.images, wanted.float(), rtol=1e-6, atol=1e-6)
    assert average.learned_lr == raw.learned_lr and torch.equal(average.labels, raw.labels)
    assert torch.equal(average.images, raw.images) == (decay == 0)


def test_the_average_takes_no_part_in_matching() -> None:
    with_average, without = build(FTD), build(replace(MTT, **SMALL))
    for _ in range(3):
        assert with_average.step() == without.step()
    assert without.averaged() is None


@pytest.mark.parametrize("gradient", ["tesla", "truncated:1"])
def test_another_gradient_is_another_update_of_the_same_loss(gradient: str) -> None:
    exact, other = build(DATM), build(replace(DATM, gradient=gradient))
    assert exact.step() == {**other.step(), "learned_lr": pytest.approx(float(exact._lr))}
    for name in ("images", "lr", "soft_labels"):
        found = relative_error(other.state_dict()[f"velocity.{name}"], exact.state_dict()[f"velocity.{name}"])
        assert 1e-3 < found < 2, name


def test_batches_are_chunks_of_permutations_the_short_one_first() -> None:
    batches = draw_batches(KEY, 20, 7, 8)
    assert [len(batch) for batch in batches] == [6, 7, 7, 6, 7, 7, 6, 7]
    rounds = [torch.cat(batches[i : i + 3]) for i in (0, 3)]
    for rows in rounds:
        assert rows.sort().values.tolist() == list(range(20))
    assert not torch.equal(*rounds)
    assert [len(batch) for batch in draw_batches(KEY, 6, 6, 3)] == [6, 6, 6]
    other = draw_batches(Key.root(8), 20, 7, 8)
    assert not torch.equal(torch.cat(batches), torch.cat(other))


@pytest.mark.parametrize("initial, final, expansion", [(10, 20, 1000), (2, 5, 12), (3, 5, 7), (4, 4, 5), (1, 40, 3)])
def test_window_bound(initial: int, final: int, expansion: int) -> None:
    for iteration in range(2 * expansion + 1):
        wanted = matching.window_bound(iteration, initial, final, expansion)
        assert start_epoch_bound(iteration, initial, final, expansion) == wanted
    assert start_epoch_bound(0, initial, final, expansion) == initial
    assert start_epoch_bound(expansion - 1, initial, final, expansion) < final or initial == final
    assert start_epoch_bound(expansion, initial, final, expansion) == final


def test_window_bound_half_way() -> None:
    assert start_epoch_bound(500, 10, 20, 1000) == 15
    assert start_epoch_bound(599, 10, 20, 1000) == 15
    assert start_epoch_bound(600, 10, 20, 1000) == 16


def test_start_epochs_stay_in_the_window_and_cover_it() -> None:
    method = build(replace(DATM, synthetic_steps=1, min_start_epoch=1, expansion_iterations=45))
    rows = [method.step() for _ in range(75)]
    for iteration, row in enumerate(rows):
        assert row["max_start_epoch"] == matching.window_bound(iteration, 2, 5, 45)
        assert 1 <= row["start_epoch"] < row["max_start_epoch"]
    for bound in (2, 3, 4, 5):
        assert {row["start_epoch"] for row in rows if row["max_start_epoch"] == bound} == set(range(1, bound))


def test_experts_are_each_used_once_a_cycle() -> None:
    method = build(replace(MTT, synthetic_steps=1))
    used = [method.step()["expert"] for _ in range(8 * EXPERTS.count)]
    cycles = [tuple(used[i : i + EXPERTS.count]) for i in range(0, len(used), EXPERTS.count)]
    assert all(sorted(cycle) == list(range(EXPERTS.count)) for cycle in cycles)
    assert len(set(cycles)) > 1


# Starting images and labels


def order(label: int, key: Key = KEY) -> list[int]:
    rows = [row for row, own in enumerate(task().data.train.labels.tolist()) if own == label]
    return [rows[i] for i in keyed_random.permutation(key.child("class", label), len(rows)).tolist()]


@pytest.mark.parametrize("images_per_class", [1, 4, 8])
def test_correctly_predicted_images(images_per_class: int) -> None:
    images = task().data.train.images[:].double()
    wanted = [
        row
        for label in range(len(CLASSES))
        for row in matching.select_correct(tiny.network, last_params(), images, order(label), label, images_per_class)
    ]
    assert correctly_predicted(task(), images_per_class, KEY).tolist() == wanted


def test_correctly_predicted_images_of_several_experts() -> None:
    """The case above in which expert 0 alone does not suffice, or the test would say nothing about it."""
    images = task().data.train.images[:].double()
    with pytest.raises(LookupError):
        for label in range(len(CLASSES)):
            matching.select_correct(tiny.network, last_params()[:1], images, order(label), label, 8)


def test_masked_mean_logits() -> None:
    images, labels = task().data.test.images[:], task().data.test.labels
    wanted = torch.stack(matching.masked_mean(tiny.network, last_params(), images.double(), labels.tolist()))
    torch.testing.assert_close(masked_mean_logits(task(), images, labels).double(), wanted, rtol=1e-5, atol=1e-5)
    knowing = sum(tiny.network(theta, images.double()).argmax(1) == labels for theta in last_params())
    assert set(knowing.tolist()) == set(range(EXPERTS.count + 1))  # from no expert to all


def test_datm_starts_at_correctly_predicted_images_and_mean_logits() -> None:
    result, data = build(DATM).result(), task().data
    rows = correctly_predicted(task(), 2, KEY.child("init"))
    assert torch.equal(result.images, data.train.images[rows])
    assert torch.equal(data.train.labels[rows], result.labels)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.soft_labels is not None
    assert torch.equal(result.soft_labels, masked_mean_logits(task(), result.images, result.labels))


def test_soft_labels_of_a_single_expert() -> None:
    images, labels = task().data.test.images[:], task().data.test.labels
    wanted = tiny.network(last_params()[0], images.double())
    torch.testing.assert_close(single_expert_logits(task(), images).double(), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted.argmax(1) != labels).any()  # right or not
    result = build(replace(DATM, label_init="single_expert")).result()
    assert result.soft_labels is not None
    assert torch.equal(result.soft_labels, single_expert_logits(task(), result.images))


def test_images_and_labels_of_experts_at_an_earlier_epoch() -> None:
    result, data = build(replace(DATM, label_epoch=2)).result(), task().data
    store, images = task().require_trajectories(), data.train.images[:].double()
    experts = [store.params(expert, 2).double() for expert in range(EXPERTS.count)]
    key = KEY.child("init")
    rows = [
        row
        for label in range(len(CLASSES))
        for row in matching.select_correct(tiny.network, experts, images, order(label, key), label, 2)
    ]
    assert torch.equal(result.images, data.train.images[rows])
    wanted = torch.stack(matching.masked_mean(tiny.network, experts, images[rows], result.labels.tolist()))
    assert result.soft_labels is not None
    torch.testing.assert_close(result.soft_labels.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.equal(result.soft_labels, masked_mean_logits(task(), result.images, result.labels))


def test_datm_at_random_images() -> None:
    config = replace(DATM, image_init="random", images_per_class=12)
    result, data = build(config).result(), task().data
    rows = random_real(data, 12, KEY.child("init"))
    assert torch.equal(result.images, data.train.images[rows])
    assert result.soft_labels is not None
    assert torch.equal(result.soft_labels, config.expert_labels(task(), result.images, result.labels))


def test_datm_with_hard_labels() -> None:
    result = build(replace(DATM, labels="hard")).result()
    assert torch.equal(result.images, build(DATM).result().images)
    assert result.soft_labels is None and torch.equal(result.targets, result.labels)


def test_fixed_labels_stay() -> None:
    method = build(replace(DATM, labels="fixed"))
    start = method.result()
    method.step()
    assert torch.equal(method.result().targets, start.targets) and start.soft_labels is not None
    assert not torch.equal(method.result().images, start.images)


def test_assigned_labels_start_as_those_of_the_first_segment() -> None:
    method, store = build(TESLA), task().require_trajectories()
    start = method.result()
    row = method.step()
    target = store.params(row["expert"], row["start_epoch"] + 2).double()
    wanted = tiny.network(target, start.images.double()).float()
    for found in (start, method.result()):
        assert found.soft_labels is not None
        torch.testing.assert_close(found.soft_labels, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.equal(start.images, method.result().images)


def test_mtt_starts_at_random_real_images() -> None:
    result, data = build(replace(MTT, images_per_class=12)).result(), task().data
    rows = random_real(data, 12, KEY.child("init"))
    assert rows.sort().values.tolist() == list(range(36))  # all there are, none twice
    assert torch.equal(result.images, data.train.images[rows]) and torch.equal(result.labels, data.train.labels[rows])
    assert result.soft_labels is None
    assert result.learned_lr == (pytest.approx(0.01),)


def test_the_global_generator_plays_no_part() -> None:
    torch.manual_seed(1)
    first = build(DATM)
    torch.manual_seed(2)
    second = build(DATM)
    assert first.step() == second.step()
    assert_equal(first.state_dict(), second.state_dict())


# Skips and roll-backs


@CONFIGS
def test_a_loss_above_the_threshold_changes_nothing(config: MatchingConfig) -> None:
    state = after_steps(config, 3)
    method = build(replace(config, threshold=1e-9))
    method.load_state_dict(state)
    row = method.step()
    assert row["loss"] > 1e-9 and row["skipped"] == 1 and row["consecutive_skips"] == 1
    assert_equal(learned(method.state_dict()), learned(state))
    assert method.iteration == 4


def test_a_loss_below_the_threshold_updates_and_ends_a_row_of_skips() -> None:
    skipping = build(replace(MTT, threshold=1e-9))
    skipping.step()
    skipping.step()
    method = build(replace(MTT, threshold=1e9))
    method.load_state_dict(skipping.state_dict())
    row = method.step()
    assert row["skipped"] == 0 and row["consecutive_skips"] == 0
    assert differs(learned(method.state_dict()), learned(skipping.state_dict())) == [
        "images", "lr", "velocity.images", "velocity.lr"
    ]  # fmt: skip


@CONFIGS
def test_many_skips_in_a_row_restore_the_last_good_state_and_halve_the_rates(config: MatchingConfig) -> None:
    config = replace(config, max_consecutive_skips=3)
    good = learned(after_steps(config, 3))  # the state before the update of iteration 3
    state = after_steps(config, 5)
    assert differs(learned(state), good)
    method = build(replace(config, threshold=1e-9))
    method.load_state_dict(state)
    rows = [method.step() for _ in range(3)]
    assert [row["consecutive_skips"] for row in rows] == [1, 2, 0]
    assert [row["rollbacks"] for row in rows] == [0, 0, 1]
    assert_equal(learned(method.state_dict()), slowed(good))
    assert method.iteration == 8

    slower, usual = build(config), build(config)
    slower.load_state_dict(method.state_dict())
    usual.load_state_dict(method.state_dict() | {"rollbacks": 0})
    slower.step()
    usual.step()
    halved, whole = learned(slower.state_dict()), learned(usual.state_dict())
    good = slowed(good)
    for name in (name for name in good if f"velocity.{name}" in good):
        torch.testing.assert_close(2 * (halved[name] - good[name]), whole[name] - good[name], rtol=1e-9, atol=1e-12)
        assert torch.equal(halved[f"velocity.{name}"], whole[f"velocity.{name}"])


@pytest.mark.parametrize("name, value, loss", [("images", math.nan, "nan"), ("lr", 1e200, "inf")])
def test_a_loss_that_is_not_finite_rolls_back_at_once(name: str, value: float, loss: str) -> None:
    config = replace(MTT, synthetic_steps=1)
    state = after_steps(config, 2)
    state[name].fill_(value)
    method = build(config)
    method.load_state_dict(state)
    row = method.step()
    assert str(row["loss"]) == loss
    assert row["skipped"] == 1 and row["rollbacks"] == 1 and row["consecutive_skips"] == 0
    assert_equal(learned(method.state_dict()), slowed(learned(after_steps(config, 0))))
    assert math.isfinite(method.step()["loss"])


def test_a_step_size_that_is_not_positive_rolls_back() -> None:
    method = build(replace(MTT, synthetic_lr_lr=1e9, max_rollbacks=99))
    rows = []
    while not rows or rows[-1]["rollbacks"] == 0:
        rows.append(method.step())
        assert method.state_dict()["lr"] > 0
    assert_equal(learned(method.state_dict()), slowed(learned(after_steps(MTT, 0))))


def test_the_run_stops_after_the_last_roll_back_and_goes_on_with_half_the_step_size() -> None:
    method = build(replace(MTT, image_lr=math.inf, max_rollbacks=2))  # every update ruins the images
    rows = [method.step() for _ in range(5)]
    assert [row["rollbacks"] for row in rows] == [0, 1, 1, 2, 2]
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False, True, False, True]
    start = learned(after_steps(MTT, 0))
    for halvings in (3, 4):
        with pytest.raises(RunError, match=f"the matching loss is nan, after {halvings - 1} roll-backs"):
            method.step()
        assert_equal(learned(method.state_dict()), slowed(start, halvings))
        assert method.iteration == halvings + 2
        method.step()


@CONFIGS
def test_a_run_whose_first_updates_are_all_skipped_ends_after_ten(config: MatchingConfig) -> None:
    method = build(replace(config, threshold=1e-9))
    start = learned(method.state_dict())
    for halvings in (1, 2):
        for _ in range(9):
            assert method.step()["skipped"]
        with pytest.raises(RunError, match=r"10 updates in a row .* method.threshold \(1e-09\), and no set is made"):
            method.step()
        assert_equal(learned(method.state_dict()), slowed(start, halvings))
    assert method.iteration == 18


def slowed(state: Results, halvings: int = 1) -> Results:
    """The same with the step size halved, so often."""
    state = dict(state)
    for _ in range(halvings):
        state |= {"lr": state["lr"] / 2} if "lr" in state else {"log_lr": state["log_lr"] - math.log(2)}
    return state


# Continuation


def after_steps(config: MatchingConfig, steps: int) -> dict[str, Any]:
    method = build(config)
    for _ in range(steps):
        method.step()
    return method.state_dict()


def with_skips(config: MatchingConfig) -> MatchingConfig:
    """The same with the first loss as threshold: it leads to updates, skips and roll-backs."""
    return replace(config, threshold=build(config).step()["loss"], max_consecutive_skips=1, max_rollbacks=99)


@pytest.mark.parametrize("skips", [False, True], ids=["plain", "skips and roll-backs"])
@CONFIGS
def test_exact_continuation_from_every_iteration(config: MatchingConfig, skips: bool) -> None:
    config = with_skips(config) if skips else config
    whole = build(config)
    states, rows = [whole.state_dict()], []
    for _ in range(12):
        rows.append(whole.step())
        states.append(whole.state_dict())
    if skips:
        assert {row["skipped"] for row in rows} == {0, 1} and rows[-1]["rollbacks"] > 0
    for iteration in (0, 1, 5, 6, 11):
        method = build(config)
        method.step()  # whatever it did before is forgotten
        method.load_state_dict(states[iteration])
        assert_equal(method.state_dict(), states[iteration])
        assert [method.step() for _ in range(iteration, 12)] == rows[iteration:]
        assert_equal(method.state_dict(), states[-1])


@CONFIGS
def test_exact_continuation_from_a_file(config: MatchingConfig, tmp_path: Path) -> None:
    whole, checkpoints = build(config), Checkpoints(Folder.at(tmp_path), "stage")
    row = whole.step()
    checkpoints.save(whole.state_dict(), [row])
    saved = checkpoints.load()
    assert saved is not None and saved[1] == [row]
    resumed = build(config)
    resumed.load_state_dict(saved[0])
    assert resumed.step() == whole.step()
    assert_equal(resumed.state_dict(), whole.state_dict())


@CONFIGS
def test_state_is_a_copy(config: MatchingConfig) -> None:
    method = build(config)
    method.step()
    state = method.state_dict()
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    method.step()
    assert_equal(state, before)
    method.load_state_dict(state)
    for value in (*state.values(), *method.state_dict().values()):
        if isinstance(value, Tensor):
            value.fill_(math.nan)
    assert_equal(method.state_dict(), before)


def test_state_is_flat_tensors_and_scalars() -> None:
    assert all(isinstance(value, Tensor | int) for value in build(DATM).state_dict().values())


@CONFIGS
def test_result_is_a_copy(config: MatchingConfig) -> None:
    method = build(config)
    result = method.result()
    images, targets = result.images.clone(), result.targets.clone()
    method.step()
    assert torch.equal(result.images, images) and torch.equal(result.targets, targets)
    assert not torch.equal(method.result().images, images)


# The frozen prefix


def first_stage(config: MatchingConfig) -> SyntheticSet:
    method = build(config)
    method.step()
    return method.result()


def set_tensors(synthetic: SyntheticSet) -> Iterator[Tensor]:
    yield from (synthetic.images, synthetic.labels, synthetic.targets, synthetic.stage)


@CONFIGS
def test_frozen_images_take_part_and_never_change(config: MatchingConfig) -> None:
    frozen = first_stage(config)
    before = [tensor.clone() for tensor in set_tensors(frozen)]
    method = build(config, Start(stage=1, frozen=frozen))
    start = method.result()
    rows = [method.step() for _ in range(4)]
    assert all(torch.equal(*pair) for pair in zip(set_tensors(frozen), before, strict=True))
    result = method.result()
    assert len(result) == 6 and result.stage.tolist() == [1] * 6 and torch.equal(result.labels, start.labels)
    assert not torch.equal(result.images, start.images)
    if result.soft_labels is not None:
        assert not torch.equal(result.targets, start.targets)
    other = build(config, Start(stage=1, frozen=replace(frozen, images=-frozen.images)))
    assert other.step()["loss"] != rows[0]["loss"]
    assert build(config).step()["loss"] != rows[0]["loss"]


# Workers


def on_each_worker(folder: Folder, config: MatchingConfig, dtype: torch.dtype, steps: int) -> Results:
    method = build(config, dtype=dtype, folder=folder)
    for _ in range(steps):
        method.step()
    return learned(method.state_dict())


@pytest.mark.parametrize(
    "config", [MTT, replace(DATM, synthetic_batch_size=4), TESLA], ids=["mtt", "datm ragged", "tesla"]
)
@pytest.mark.parametrize("dtype, steps, tolerance", [(torch.float64, 20, 1e-9), (torch.float32, 1, 1e-5)])
def test_two_workers_are_one(config: MatchingConfig, dtype: torch.dtype, steps: int, tolerance: float) -> None:
    alone = on_each_worker(tiny.expert_folder(), config, dtype, steps)
    first, second = tiny.on_workers(2, on_each_worker, tiny.expert_folder(), config, dtype, steps)
    assert_equal(first, second)
    for name, value in alone.items():
        assert relative_error(first[name], value) < tolerance, name


# Compiled steps


@pytest.mark.slow
@pytest.mark.parametrize("config", [replace(DATM, synthetic_batch_size=4), TESLA], ids=["datm ragged", "tesla"])
def test_compiled_steps_give_the_same_updates(config: MatchingConfig) -> None:
    """In float64, where kinks of ReLU are not met from different sides; the ragged batch is filled up."""
    compiled = config.build(replace(task(), dtype=torch.float64, compiled=True), Start(), KEY)
    for _ in range(4):
        compiled.step()
    wanted = learned(after_steps(config, 4))
    for name, value in learned(compiled.state_dict()).items():
        assert relative_error(value, wanted[name]) < 1e-9, name


# Mistakes


@CONFIGS
def test_more_images_than_a_class_has(config: MatchingConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"method\.images_per_class: 13 asked for, but class 'ant' has only \d+ "
    ) as e:
        build(replace(config, images_per_class=13))
    assert e.value.field == "method.images_per_class"


def test_segments_beyond_the_trajectories() -> None:
    config = replace(MTT, max_start_epoch=5, expert_epochs=2)  # the last starts at 4 and ends at 6
    config.check(trajectory_epochs=6)
    with pytest.raises(ConfigError, match=r"method\.max_start_epoch: .* epoch 4 and spans 2 .* epoch 6, beyond the 5 "):
        config.check(trajectory_epochs=5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("images_per_class", 0),
        ("iterations", 0),
        ("synthetic_steps", 0),
        ("expert_epochs", 0),
        ("max_consecutive_skips", 0),
        ("synthetic_batch_size", 0),
        ("max_start_epoch", 0),
        ("synthetic_lr_init", 0.0),
        ("synthetic_lr_init", math.nan),
        ("initial_max_start_epoch", 6),
        ("expansion_iterations", 0),
        ("label_epoch", -1),
        ("matched_fraction", 0.0),
        ("matched_fraction", 1.5),
        ("matched_fraction", math.nan),
        ("gradient", "exactly"),
        ("gradient", "truncated"),
        ("gradient", "truncated:"),
        ("gradient", "truncated:0"),
        ("gradient", "truncated:-1"),
        ("gradient", "truncated:1.5"),
        ("gradient", "tesla:2"),
    ],
)
def test_what_cannot_run_is_refused_by_its_name(field: str, value: float | str) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.{field}: .*{value}"):
        replace(DATM, **{field: value})


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_an_average_that_averages_nothing(decay: float) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.ema_decay: .*{decay}"):
        replace(FTD, ema_decay=decay)


def test_labels_of_an_epoch_beyond_the_trajectories() -> None:
    config = replace(DATM, label_epoch=7)
    config.check(trajectory_epochs=7)
    with pytest.raises(ConfigError, match=r"^method\.label_epoch: 7 lies beyond the 6 epochs of experts\.training"):
        config.check(trajectory_epochs=6)


def test_a_task_without_trajectories() -> None:
    with pytest.raises(ConfigError, match="experts"):
        MTT.build(replace(task(), trajectories=None), Start(), KEY)
