"""WMDD as a running method: its loss against a restatement, groups, what it shares with SRe2L, exact continuation."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data.facts import DataFacts
from raydd.ingredients.base import make_here
from raydd.ingredients.class_barycentres import Barycentres, BarycentresConfig
from raydd.ingredients.statistics import DataStatistics, StatisticsWanted
from raydd.methods import DELTConfig, Start, WMDDConfig
from raydd.methods.cost import CostSetting
from raydd.methods.decoupled.family import RecoverConfig
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.wmdd import feature_distance
from tests.ingredients import test_barycentre
from tests.reference import recover as plain
from tests.reference import statistics as reference
from tests.support import taught
from tests.support.tiny import assert_equal

pytest.importorskip("ot", reason="optimal transport comes with raydd[transport]")
KEY = Key.root(7)
WMDD = WMDDConfig(images_per_class=3, batch_size=6, iterations=6, image_lr=0.1, bn_weight=0.5, feature_weight=0.7)
"""Two classes a group, one in the last."""
CONFIGS = {
    "published": replace(WMDD, bn_weight=10.0, feature_weight=1.0),
    "squared": replace(WMDD, feature_norm="squared", class_weight=0.3),
    "no features": replace(WMDD, feature_weight=0.0),
    "moments of groups": replace(WMDD, bn_scope="group", first_bn_weight=2.0),
    "one class a group": replace(WMDD, batch_size=2, crop="curriculum"),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@cache
def given() -> dict[str, Any]:
    """Statistics and barycentres of three atoms of the pictures, in a folder that lasts as long as the tests."""
    folder = Path(_KEPT.name)
    made = test_barycentre.ingredient(folder, BarycentresConfig(atoms=3, masses="uniform", init="real"))
    make_here(made, NoProgress())
    return {"statistics": made.statistics.open(), "barycentres": made.open()}


_KEPT = TemporaryDirectory()


def build(config: RecoverConfig, *groups: int, dtype: torch.dtype = torch.float64) -> Recover:
    method = config.build(replace(taught.task(*groups, dtype=dtype), given=given()), Start(), KEY)
    assert isinstance(method, Recover)
    return method


def after(method: Recover, steps: int) -> Recover:
    for _ in range(steps):
        method.step()
    return method


def gradient_of(method: Recover, images: Tensor) -> Tensor:
    weights, leaf = method._term_weights, images.clone().requires_grad_()
    loss = torch.stack([weights[name] * term_P.sum() for name, term_P in method._losses(leaf).items()]).sum()
    return torch.autograd.grad(loss, leaf)[0]


# Equations


@pytest.mark.parametrize("config", [CONFIGS[name] for name in ("published", "squared", "one class a group")])
def test_loss_and_gradient_are_those_of_the_restatement(config: WMDDConfig) -> None:
    statistics, barycentres = given()["statistics"], given()["barycentres"]
    assert isinstance(statistics, DataStatistics) and isinstance(barycentres, Barycentres)
    of_classes, module = statistics.of_classes(torch.arange(5)), taught.teacher(torch.float64).module
    wanted = {
        name: (of_classes[f"norm.{name}"].mean, of_classes[f"norm.{name}"].variance)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    }
    for group in range(config.num_groups(5)):
        method = build(replace(config, crop="none", jitter=0), group)
        labels = method._rows.labels.tolist()
        assert labels == sorted(labels)
        atoms, masses = barycentres.of(torch.tensor(labels[::3]))
        assert masses.flatten().tolist() == [1 / 3] * len(labels)
        leaf = method.state_dict()["images"].requires_grad_()
        weights = (config.class_weight, config.feature_weight, config.bn_weight)
        loss, ce, moments, features = reference.wmdd_loss(
            module, leaf, labels, atoms.flatten(0, 1).double(), wanted, weights, config.feature_norm == "squared"
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        found = gradient_of(method, leaf.detach())
        assert (found - gradient).norm() < 1e-9 * gradient.norm()
        row = method.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-10)
        assert row["ce"] == pytest.approx(ce.item(), rel=1e-10)
        assert row["bn_loss"] == pytest.approx(moments.item(), rel=1e-10)
        assert row["feature_loss"] == pytest.approx(features.item(), rel=1e-10)
        shares = row["bn_share"] + row["feature_share"] + config.class_weight * row["ce"] / row["loss"]
        assert shares == pytest.approx(1, abs=1e-12)


def test_a_step_is_adams() -> None:
    method = build(replace(WMDD, crop="none", jitter=0), 1)
    images = method.state_dict()["images"]
    leaf = images.clone().requires_grad_()
    leaf.grad = gradient_of(method, images)
    torch.optim.Adam([leaf], lr=0.1, betas=(0.5, 0.9)).step()
    method.step()
    low, high = method._range
    assert torch.allclose(method.state_dict()["images"], leaf.detach().clamp(low, high), atol=1e-6)


def test_features_at_their_atoms_have_no_gradient_that_is_not_finite() -> None:
    atoms = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    leaf = atoms.clone().requires_grad_()
    averages_PN = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    found = feature_distance(leaf, atoms, averages_PN, "frobenius")
    assert found.tolist() == pytest.approx([0, 0], abs=1e-100)
    assert not torch.autograd.grad(found.sum(), leaf)[0].any()
    by_hand = feature_distance(atoms + 1, atoms, averages_PN, "frobenius")
    assert by_hand.tolist() == pytest.approx([math.sqrt(6)] * 2)
    assert feature_distance(atoms + 1, atoms, averages_PN, "squared").tolist() == pytest.approx([3, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_features_and_class_moments_it_is_the_loss_of_its_family(dtype: torch.dtype) -> None:
    shared = {"images_per_class": 3, "batch_size": 6, "iterations": 6, "image_lr": 0.1, "bn_weight": 0.5}
    as_published: dict[str, Any] = {"init": "noise", "crop": "random", "jitter": None, "first_bn_weight": 10.0}
    own = WMDDConfig(**shared, **as_published, feature_weight=0, bn_scope="group")
    family = DELTConfig(**shared, **as_published, round_iterations=6)
    assert own.made_first == ("teacher",)
    found, wanted = build(own, dtype=dtype), build(family, dtype=dtype)
    assert [found.step() for _ in range(6)] == [wanted.step() for _ in range(6)]
    assert_equal(found.state_dict(), wanted.state_dict())
    task = replace(taught.task(1, dtype=torch.float64), given={})
    method = own.build(task, Start(), KEY)
    assert isinstance(method, Recover)
    images = method.state_dict()["images"]
    averages = torch.full((1, len(images)), 1 / len(images), dtype=torch.float64)
    with method._measuring(averages) as distances:
        method._teacher(images)
    _, moments = plain.moment_loss(taught.teacher(torch.float64).module, images, 10.0)
    assert float(10 * distances[0] + distances[1]) == pytest.approx(float(moments), rel=1e-10)


# Groups, continuing


def test_groups_are_whole_classes_that_join_at_once() -> None:
    assert [WMDDConfig().num_groups(classes) for classes in (1, 10, 11, 1000)] == [1, 1, 2, 100]
    rows = WMDD.rows(1, 5)
    assert rows.labels.tolist() == [2] * 3 + [3] * 3 and rows.ranks.tolist() == [0, 1, 2] * 2
    assert not rows.starts.any() and WMDD.rows(2, 5).labels.tolist() == [4] * 3
    assert WMDD.image_iterations(5) == WMDD.uniform_iterations(5) == 5 * 3 * 6


@EACH
def test_packed_is_unpacked(config: WMDDConfig) -> None:
    groups = list(range(config.num_groups(5)))[::-1]
    gradients = []
    for pack in (groups, *([group] for group in groups)):
        method = build(config, *pack)
        gradient = gradient_of(method, method.state_dict()["images"])
        gradients += [gradient[method._rows.groups == group] for group in pack]
    for one, other in zip(gradients[: len(groups)], gradients[len(groups) :], strict=True):
        assert (one - other).norm() < 1e-9 * other.norm()
    for group, found in zip(groups, after(build(config, *groups), 4).results(), strict=True):
        (wanted,) = after(build(config, group), 4).results()
        assert torch.equal(found.pixels(), wanted.pixels()) and found.card == wanted.card


@EACH
def test_continues_to_the_bit(config: WMDDConfig) -> None:
    undisturbed, broken = after(build(config, dtype=torch.float32), 6), after(build(config, dtype=torch.float32), 3)
    continued = build(config, dtype=torch.float32)
    continued.load_state_dict(broken.state_dict())
    assert_equal(after(continued, 3).state_dict(), undisturbed.state_dict())


def test_features_come_nearer_to_their_atoms() -> None:
    config = replace(WMDD, iterations=40, bn_weight=0.0, class_weight=0.0, feature_weight=1.0, crop="none", jitter=0)
    method = build(config)
    losses = [method.step()["feature_loss"] for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


# What it needs


def test_only_what_is_looked_at_is_made_first() -> None:
    assert WMDD.made_first == ("teacher", "statistics", "barycentres")
    assert replace(WMDD, feature_weight=0).made_first == ("teacher", "statistics")
    assert replace(WMDD, init="medium").made_first == ("teacher", "ranking", "statistics", "barycentres")
    assert replace(WMDD, feature_weight=0, bn_scope="group").made_first == ("teacher",)


def test_what_is_made_first_is_planned() -> None:
    facts = DataFacts(90, 30, taught.SHAPE, 5)
    setting = CostSetting(
        facts=facts, network=taught.NETWORK, teacher_network=taught.NETWORK, seed=0, data_bytes=0, whitening_bytes=0
    )
    stated = WMDD.cost_first(setting)
    assert list(stated) == ["statistics", "barycentres"]
    for kind in stated:
        really = sum(file.stat().st_size for file in given()[kind].artefact.folder.path.iterdir())
        assert stated[kind].disk_bytes == pytest.approx(really, rel=0.2)
        assert stated[kind].flops > 0 and stated[kind].units in (90, 5)
    assert list(replace(WMDD, feature_weight=0).cost_first(setting)) == ["statistics"]


# Mistakes


@pytest.mark.parametrize("field", ["class_weight", "feature_weight", "bn_weight", "first_bn_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_refuses_weights_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^method.{field}: "):
        replace(WMDD, **{field: value})


def test_refuses_more_atoms_than_a_class_has_images() -> None:
    with pytest.raises(ConfigError, match=r"^method.images_per_class: is 19, but a class has only 18 real images"):
        replace(WMDD, images_per_class=19).open_source(taught.data(), 0)
    replace(WMDD, images_per_class=19, repeat_images=True).open_source(taught.data(), 0)
    replace(WMDD, images_per_class=19, atoms_init="normal").open_source(taught.data(), 0)
    replace(WMDD, images_per_class=19, feature_weight=0).open_source(taught.data(), 0)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydd\[transport\]'"):
        WMDD.open_source(taught.data(), 0)
    replace(WMDD, feature_weight=0).open_source(taught.data(), 0)


def test_statistics_without_features_are_enough_where_features_do_not_count() -> None:
    assert not StatisticsWanted().features
    assert build(replace(WMDD, feature_weight=0)).step().keys().isdisjoint({"feature_loss", "feature_share"})
