"""Realism and coverage: equations against loops, scipy and closed forms, and sets that are planted among digits."""

import math
from dataclasses import replace
from itertools import combinations
from statistics import fmean, median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from torch import Tensor

from raydd.config.evaluate import EvaluateConfig
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.evaluation import records
from raydd.evaluation.probes.coverage import spread
from raydd.evaluation.probes.discrepancy import bandwidth, frechet, gaussian_kernel, mmd, permutation_p
from raydd.evaluation.probes.realism import RealismConfig, class_mmds
from raydd.storage import Folder
from tests.support.observed import TRIAL, answers, observer, real_set
from tests.support.small import small_run

KEY = Key.root(0)
Points = list[list[float]]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread_by_loops(real: Points, chosen: Points, k: int) -> dict[str, float]:
    """The definitions, pair by pair."""

    def radius(points: Points, i: int) -> float:
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    inside = [[math.dist(x, y) <= r for y in chosen] for x, r in zip(real, real_radii, strict=True)]
    found = {
        "density": sum(map(sum, inside)) / (k * len(chosen)),
        "coverage": fmean(any(row) for row in inside),
        "precision": fmean(any(column) for column in zip(*inside, strict=True)),
    }
    if len(chosen) > k:
        radii = [radius(chosen, j) for j in range(len(chosen))]
        found["recall"] = fmean(any(math.dist(x, y) <= r for y, r in zip(chosen, radii, strict=True)) for x in real)
    return found


grid = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(grid, grid, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_spread_equals_its_definitions(real: Points, chosen: Points, k: int) -> None:
    x, y = torch.tensor(real).float(), torch.tensor(chosen).float()
    if len(real) <= k:
        with pytest.raises(ConfigError, match=f"^evaluate.realism.neighbours: must be below the {len(real)} real"):
            spread(x, y, k)
    else:
        assert spread(x, y, k) == pytest.approx(spread_by_loops(real, chosen, k))


@pytest.mark.parametrize(("first", "second", "k"), [(30, 30, 3), (60, 8, 5), (9, 40, 1)])
def test_spread_of_points_in_general_position(first: int, second: int, k: int) -> None:
    x, y = randn(1, first, 3), 0.5 + 0.7 * randn(2, second, 3)
    assert spread(x, y, k) == pytest.approx(spread_by_loops(x.tolist(), y.tolist(), k))


def test_two_samples_of_one_distribution_cover_each_other_as_naeem_says() -> None:
    """Their lemma 2: 1 - (N - 1) ... (N - k) / (M + N - 1) ... (M + N - k), whatever the distribution."""
    k, real, few, many = 5, randn(1, 800, 6), randn(2, 80, 6), randn(3, 800, 6)
    for chosen in (few, many):
        size = len(chosen)
        missed = math.prod((800 - i) / (size + 800 - i) for i in range(1, k + 1))
        found = spread(real, chosen, k)
        assert found["coverage"] == pytest.approx(1 - missed, abs=0.05)
        assert found["density"] == pytest.approx(1, abs=0.15)


def test_the_real_points_cover_themselves_and_far_ones_nothing() -> None:
    real = randn(1, 50, 4)
    found = spread(real, real, 3)
    assert (found["coverage"], found["precision"], found["recall"]) == (1, 1, 1) and found["density"] > 1
    assert set(spread(real, real + 1000, 3).values()) == {0}
    assert "recall" not in spread(real, real[:3], 3)


def mmd_by_loops(x: Tensor, y: Tensor, width: float) -> float:
    def near(a: list[float], b: list[float]) -> float:
        return math.exp(-(math.dist(a, b) ** 2) / (2 * width**2))

    xs, ys = x.tolist(), y.tolist()
    inside = [fmean(near(a, b) for i, a in enumerate(own) for j, b in enumerate(own) if i != j) for own in (xs, ys)]
    return sum(inside) - 2 * fmean(near(a, b) for a in xs for b in ys)


@pytest.mark.parametrize(("first", "second"), [(2, 2), (2, 9), (11, 5)])
def test_mmd_and_its_bandwidth_equal_their_definitions(first: int, second: int) -> None:
    x, y = 30 + randn(1, first, 3), 31 + 2 * randn(2, second, 3)
    for width in (0.5, 4.0):
        kernel = gaussian_kernel(torch.cat([x, y]).float(), width)
        assert mmd(kernel, first) == pytest.approx(mmd_by_loops(x.float(), y.float(), width), abs=1e-9)
    odd = randn(3, 7, 3)
    assert bandwidth(odd) == pytest.approx(median(math.dist(a, b) for a, b in combinations(odd.tolist(), 2)))
    assert bandwidth(torch.ones(5, 3)) == 1


def test_the_p_value_is_the_share_of_all_splits() -> None:
    x, y = randn(1, 3, 2), randn(2, 4, 2) + 0.8
    both = torch.cat([x, y])
    kernel, own = gaussian_kernel(both, 1.0), mmd_by_loops(x, y, 1.0)
    every = [(list(some), [i for i in range(7) if i not in some]) for some in combinations(range(7), 3)]
    exact = fmean(mmd_by_loops(both[some], both[rest], 1.0) >= own - 1e-9 for some, rest in every)
    assert 0 < exact < 1
    assert permutation_p(kernel, 3, 4000, KEY) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_the_p_value_is_uniform_where_both_are_of_one_distribution_and_small_where_not() -> None:
    found = []
    for seed in range(60):
        points = randn(seed, 40, 3)
        found.append(permutation_p(gaussian_kernel(points, bandwidth(points[15:])), 15, 99, KEY))
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    shifted = torch.cat([randn(1, 15, 3), randn(2, 25, 3) + 2])
    assert permutation_p(gaussian_kernel(shifted, 2.0), 15, 99, KEY) == 0.01


@pytest.mark.parametrize(("first", "second", "dimension"), [(40, 60, 5), (8, 60, 12), (6, 9, 12)])
def test_frechet_equals_its_equation(first: int, second: int, dimension: int) -> None:
    mix = randn(0, dimension, dimension)
    x, y = (randn(1, first, dimension) @ mix).numpy(), 1 + randn(2, second, dimension).numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(linalg.sqrtm(a) @ b @ linalg.sqrtm(a)).real
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root)
    assert frechet(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(wanted, rel=1e-5)


def test_frechet_of_moved_and_stretched_points() -> None:
    points = randn(1, 300, 6)
    spread_out = float(points.var(0).sum())
    assert frechet(points, points) == pytest.approx(0, abs=1e-10)
    assert frechet(points, points + 2) == pytest.approx(6 * 4)
    assert frechet(points - points.mean(0), 3 * (points - points.mean(0))) == pytest.approx(4 * spread_out)


def test_classes_are_compared_each_with_its_own() -> None:
    x, y = randn(1, 7, 2), randn(2, 9, 2)
    classes, labels = torch.tensor([0, 3, 0, 3, 1, 3, 2]), torch.tensor([3, 3, 0, 0, 0, 1, 1, 2, 3])
    found = class_mmds(gaussian_kernel(torch.cat([x, y]), 1.5), classes, labels)
    wanted = [mmd_by_loops(x[classes == label], y[labels == label], 1.5) for label in (0, 3)]
    assert found == pytest.approx(wanted)


SMALL = RealismConfig(permutations=99)


def test_real_images_are_realistic_and_noise_is_not() -> None:
    real = real_set(15)
    noise = replace(real, images=torch.randn(real.images.shape, generator=torch.Generator().manual_seed(0)))
    of_real, of_noise = answers(SMALL, real, "realism"), answers(SMALL, noise, "realism")
    assert abs(of_real["mmd"]) < 0.01 and of_real["mmd_p"] > 0.05
    assert of_noise["mmd"] > 0.03 and of_noise["mmd_p"] == 0.01
    assert of_real["accuracy"] > 0.9 > 0.3 > of_noise["accuracy"]
    assert of_real["realism"] > -0.5 > of_noise["realism"]
    assert of_real["density"] > 0.7 and of_noise["density"] < 0.3
    assert of_real["coverage"] > 2 * of_noise["coverage"]
    assert {name for name in of_real if name.startswith("real_")} == {
        "real_realism",
        "real_confidence",
        "real_accuracy",
    }
    assert all(of_real[name] == of_noise[name] for name in of_real if name.startswith("real_"))
    assert "frechet" not in of_real


def test_classes_that_are_mixed_up_show_by_class_alone() -> None:
    real = real_set(15)
    mixed = replace(real, targets=(real.targets + 1) % 10)
    right, wrong = answers(SMALL, real, "realism"), answers(SMALL, mixed, "realism")
    same = ("mmd", "mmd_p", "density", "coverage", "precision", "recall", "confidence")
    assert all(right[name] == wrong[name] for name in same)
    assert abs(right["class_mmd"]) < 0.1 < 0.3 < wrong["class_mmd"] and wrong["accuracy"] < 0.1


def test_what_the_observer_says_is_in_its_logits() -> None:
    real = real_set(1)
    soft = replace(real, targets=torch.zeros(10, 10), classes=real.targets)
    found = answers(SMALL, soft, "realism")
    with torch.no_grad():
        logits = observer()(real.images).double().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["realism"] == pytest.approx(np.log(chances[range(10), range(10)]).mean(), rel=1e-5)
    assert found["confidence"] == pytest.approx(chances.max(1).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((chances.argmax(1) == range(10)).mean())
    assert "class_mmd" not in found, "of one image a class"
    taught = answers(SMALL, replace(soft, has_teacher=True), "realism")
    of_teacher = {name.removeprefix("teacher_"): taught[name] for name in taught.keys() - found.keys()}
    assert of_teacher == pytest.approx({name: found[name] for name in ("realism", "confidence", "accuracy")})


def test_at_most_so_many_images_are_compared_and_frechet_needs_more_than_a_thousand() -> None:
    real = real_set(110)
    large = replace(real.data, test=real.data.train)
    view = replace(real, data=large)
    assert len(real.images) > 1000
    whole, capped = answers(SMALL, view, "realism"), answers(replace(SMALL, images=1000), view, "realism")
    assert whole["frechet"] >= 0 and "frechet" not in capped
    assert capped["coverage"] <= 1 and capped == answers(replace(SMALL, images=1000), view, "realism")
    assert answers(replace(SMALL, images=40), view, "realism")["mmd"] != capped["mmd"]


def test_every_set_but_all_the_data_is_asked_about_once() -> None:
    trials = [
        replace(TRIAL, subject=subject, draw=draw, student_seed=seed)
        for subject, draw in (("synthetic", 0), ("random", 0), ("random", 1), ("full", 0))
        for seed in range(2)
    ]
    asked = [(question.trial.subject, question.trial.draw) for question in RealismConfig().questions(trials)]
    assert asked == [("synthetic", 0), ("random", 0), ("random", 1)]


@pytest.mark.parametrize(("name", "value"), [("images", 1), ("neighbours", 0), ("permutations", 0)])
def test_what_cannot_be_measured_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluate\.realism\.{name}: must be at least"):
        RealismConfig(**{name: value})
    assert EvaluateConfig(probes=("realism",)).askers() == {"realism": RealismConfig()}


@pytest.mark.slow
def test_a_run_answers(tmp_path) -> None:
    run = small_run(tmp_path, {"evaluate.probes": ["realism", "copies"], "evaluate.realism": {"permutations": 9}})
    assert run.does("run") == 0
    rows = records.read_probes(Folder.at(run.out) / "results").to_pylist()
    assert sorted((row["probe"], row["subject"]) for row in rows) == sorted(
        (probe, subject) for probe in ("realism", "copies") for subject in ("synthetic", "init", "random")
    )
    assert {row["status"] for row in rows} == {"ok"}
    copies = {row["subject"]: dict(row["metrics"]) for row in rows if row["probe"] == "copies"}
    assert copies["random"]["pixel_copies"] == 1 and copies["random"]["pixel_distance"] < 1e-6
    assert len(list((run.out / "probes").glob("nearest-*.png"))) == 3
