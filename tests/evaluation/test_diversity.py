"""Diversity: closed forms against loops over pairs and definitions, and numbers that the papers give."""

import math
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from raydd import config as configs
from raydd import networks
from raydd.evaluation.students.diversity import (
    centroid_similarity,
    pairwise_similarity,
    per_class,
    vendi_score,
)
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import Trial
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.diversity import diversity_of
from raydd.training.loop import features
from tests.support.small import finished_run


def some_features(size: int, dimension: int = 6, spread: float = 1.0) -> Tensor:
    return 1 + spread * torch.randn(size, dimension, generator=torch.Generator().manual_seed(1))


def cosine(u: Tensor, v: Tensor) -> float:
    return float(u.double() @ v.double()) / math.sqrt(float(u.double() @ u.double()) * float(v.double() @ v.double()))


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("size", [2, 3, 17])
def test_both_equal_loops_over_images(size: int, spread: float) -> None:
    rows = some_features(size, spread=spread)
    units = [row / math.sqrt(sum(value**2 for value in row.tolist())) for row in rows]
    centroid = sum(units[1:], units[0]) / size
    assert centroid_similarity(rows) == pytest.approx(sum(cosine(row, centroid) for row in rows) / size, abs=1e-6)
    pairs = [cosine(rows[i], rows[j]) for i, j in permutations(range(size), 2)]
    assert pairwise_similarity(rows) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


@pytest.mark.parametrize(("centroid", "pairwise"), [(0.87, 0.752), (0.93, 0.862)])
def test_the_two_are_related_as_for_the_papers_fifty_images(centroid: float, pairwise: float) -> None:
    angles = torch.arange(50).double() * 2 * math.pi / 50
    ring = math.sqrt(1 - centroid**2) * torch.stack([angles.cos(), angles.sin()], 1)
    cone = torch.cat([torch.full((50, 1), centroid, dtype=torch.float64), ring], 1)
    assert centroid_similarity(cone) == pytest.approx(centroid, abs=1e-12)
    assert pairwise_similarity(cone) == pytest.approx(pairwise, abs=5e-4)


def test_extremes() -> None:
    alike, apart = torch.ones(4, 3), torch.eye(4)
    assert (centroid_similarity(alike), pairwise_similarity(alike)) == pytest.approx((1, 1))
    assert (centroid_similarity(apart), pairwise_similarity(apart)) == pytest.approx((0.5, 0))
    assert centroid_similarity(alike[:1]) == pytest.approx(1)
    assert math.isnan(pairwise_similarity(alike[:1]))


def test_lengths_of_features_do_not_matter() -> None:
    rows = some_features(9)
    scaled = rows * torch.arange(1.0, 10)[:, None]
    assert centroid_similarity(scaled) == pytest.approx(centroid_similarity(rows))
    assert pairwise_similarity(scaled) == pytest.approx(pairwise_similarity(rows))


def test_every_class_by_itself() -> None:
    rows, labels = some_features(12), torch.tensor([3, 0, 3] * 4)
    expected = {
        label: {
            "centroid_similarity": centroid_similarity(rows[labels == label]),
            "pairwise_similarity": pairwise_similarity(rows[labels == label]),
            "vendi_score": vendi_score(rows[labels == label]),
        }
        for label in (0, 3)
    }
    assert per_class(rows, labels) == expected


def test_features_are_what_the_last_layer_sees() -> None:
    network = networks.build(NetworkConfig(depth=2, width=8, norm="batch"), (3, 8, 8), 5)
    images = torch.randn(11, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = features(network, images, batch_size=4)
    assert found.shape == (11, 32) and not found.requires_grad
    torch.testing.assert_close(network.head(found), network.eval()(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def vendi(rows: Tensor) -> float:
    """The definition, on the whole matrix of cosines."""
    size = len(rows)
    cosines = np.array([[cosine(u, v) for v in rows] for u in rows])
    values = [float(value) for value in np.linalg.eigvals(cosines / size).real]
    return math.exp(-sum(value * math.log(value) for value in values if value > 1e-12))


@pytest.mark.parametrize(("size", "dimension"), [(1, 6), (5, 6), (12, 6), (12, 12)])
def test_vendi_equals_its_definition(size: int, dimension: int) -> None:
    rows = some_features(size, dimension)
    assert vendi_score(rows) == pytest.approx(vendi(rows), rel=1e-6)
    assert 1 - 1e-9 <= vendi_score(rows) <= min(size, dimension) + 1e-9


def test_vendi_counts_what_is_different() -> None:
    apart = torch.eye(7)
    assert vendi_score(torch.ones(9, 4)) == pytest.approx(1)
    assert vendi_score(apart) == pytest.approx(7)
    assert vendi_score(5 * apart.repeat(3, 1)) == pytest.approx(7)
    sizes = torch.tensor([0.5, 0.25, 0.25])  # two images of one kind, one each of two others
    entropy = -float((sizes * sizes.log()).sum())
    assert vendi_score(apart[[0, 0, 1, 2]]) == pytest.approx(math.exp(entropy))


def covered(real: Tensor, synthetic: Tensor, k: int) -> float:
    """The definition, pair by pair."""
    hits = 0
    for i, row in enumerate(real):
        radius = sorted(math.dist(row.tolist(), other.tolist()) for j, other in enumerate(real) if j != i)[k - 1]
        hits += any(math.dist(row.tolist(), other.tolist()) <= radius for other in synthetic)
    return hits / len(real)


def looked_at(run: Run, chosen: TrainingSet, rows: Tensor, trial: Trial) -> None:
    """See that what is said of a set is what the first expert's features say, class by class."""
    found = diversity_of(run, trial, chosen)
    expert = networks.build(run.config.network, run.data.shape, run.data.num_classes)
    last = run.experts.store.reader(0).snapshot(run.config.experts.training.epochs).params
    vector_to_parameters(last, expert.parameters())
    by_class = per_class(features(expert, chosen.images), rows)
    for name in ("centroid_similarity", "vendi_score"):
        values = [by_class[label][name] for label in range(10)]
        assert found[name] == pytest.approx(sum(values) / 10, rel=1e-6)
        assert [found[f"{name}.{digit}"] for digit in run.data.class_names] == pytest.approx(values, rel=1e-6)


def test_a_run_with_experts_says_how_diverse_its_sets_are_and_measures_each_once(tmp_path: Path) -> None:
    run = Run.of(configs.load(str(finished_run(tmp_path).file)))
    trial = next(trial for trial in run.trials() if trial.subject == "synthetic")
    seen = run.last_stage.union().decoded()
    chosen = TrainingSet(
        images=seen.images,
        targets=seen.targets,
        classes=seen.labels,
        learned_lr=None,
        images_per_class=1,
        bytes_total=0,
    )
    looked_at(run, chosen, seen.labels, trial)
    more = replace(chosen, images=run.data.train.images[:60], targets=torch.arange(10).repeat(6), classes=None)
    assert diversity_of(run, replace(trial, student_seed=7), more) == diversity_of(run, trial, chosen)
    random = replace(trial, subject="random", draw=1)
    looked_at(run, more, more.targets, random)
    found = diversity_of(run, random, more)
    assert 1 < found["vendi_score"] < 6 and -1 < found["pairwise_similarity"] < 1
    assert "pairwise_similarity" not in diversity_of(run, trial, chosen), "of one image a class"
    assert diversity_of(run, replace(trial, subject="full"), more) == {}
    run.experts.store.folder.delete_all()
    assert diversity_of(run, replace(random, draw=2), more) == {}
