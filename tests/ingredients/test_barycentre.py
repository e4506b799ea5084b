"""Barycentres: closed forms, exact transport against a linear program, POT's own function and k-means, invariance."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.ingredients import barycentre as module
from raydd.ingredients.barycentre import (
    Barycentre,
    barycentre,
    nearest_plan,
    require_transport,
    squared_distances,
    transport_plan,
)
from raydd.ingredients.base import Kitchen, make_here
from raydd.ingredients.class_barycentres import BarycentresConfig, ClassBarycentres, made_of
from raydd.ingredients.statistics import StatisticsWanted
from tests.ingredients import test_statistics
from tests.reference import statistics as reference
from tests.support import taught

ot = pytest.importorskip("ot", reason="optimal transport comes with raydd[transport]")

KEY = Key.root(3)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(count: int = 40, features: int = 3, seed: int = 0) -> Tensor:
    """Some clouds of different sizes."""
    centres = 4 * randn(4, features, seed=seed + 100)
    return centres[torch.arange(count) ** 2 % 7 % 4] + randn(count, features, seed=seed)


def same_atoms(found: Barycentre, wanted: Tensor, tolerance: float = 1e-10) -> None:
    """The atoms in any order."""
    distances = torch.cdist(found.atoms, wanted)
    assert distances.min(1).values.max() < tolerance and distances.min(0).values.max() < tolerance


# Closed forms


@pytest.mark.parametrize("masses", ["uniform", "optimised"])
def test_one_atom_is_the_mean_and_leaves_the_variance(masses: module.Masses) -> None:
    x = points()
    found = barycentre(x, x[:1], masses)
    assert torch.allclose(found.atoms[0], x.mean(0), atol=1e-12)
    assert found.objective == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-12)
    assert found.masses.tolist() == [1.0]


def test_as_many_atoms_as_points_are_these_points() -> None:
    x = points(9)
    found = barycentre(x, x.flip(0) + 1e-3 * randn(9, 3, seed=5))
    same_atoms(found, x)
    assert found.objective < 1e-20


@pytest.mark.parametrize(("count", "atoms"), [(12, 3), (20, 5), (21, 7)])
def test_on_a_line_atoms_are_means_of_blocks(count: int, atoms: int) -> None:
    x = randn(count, 1).exp()
    found = barycentre(x, randn(atoms, 1, seed=3))
    wanted = x.flatten().sort().values.view(atoms, -1).mean(1)
    assert torch.allclose(found.atoms.flatten(), wanted, atol=1e-12)
    assert found.masses.tolist() == [1 / atoms] * atoms


# Exactness


def test_plan_is_the_cheapest() -> None:
    x, b = points(12), randn(5, 3, seed=1)
    costs = squared_distances(b, x)
    assert torch.allclose(costs, ((b[:, None] - x) ** 2).sum(2), rtol=1e-12)
    masses = torch.full((5,), 0.2, dtype=torch.float64)
    plan = transport_plan(masses, costs)
    assert (plan.sum(1) - masses).abs().max() < 1e-12 and (plan.sum(0) - 1 / 12).abs().max() < 1e-12
    assert (plan >= 0).all()
    assert float((plan * costs).sum()) == pytest.approx(reference.transport_cost(masses, costs), rel=1e-9)
    uneven = torch.tensor([0.5, 0.1, 0.1, 0.05, 0.25], dtype=torch.float64)
    cheapest = float((transport_plan(uneven, 1e6 * costs) * costs).sum())
    assert cheapest == pytest.approx(reference.transport_cost(uneven, costs), rel=1e-9)


def test_what_is_left_is_the_cost_of_the_best_plan() -> None:
    x = points(12)
    found = barycentre(x, randn(5, 3, seed=1))
    left = reference.transport_cost(found.masses, squared_distances(found.atoms, x))
    assert found.objective == pytest.approx(left, rel=1e-8)


@pytest.mark.parametrize("count", [40, 41])
def test_it_is_what_pots_own_function_finds(count: int) -> None:
    x, start = points(count), randn(6, 3, seed=2)
    equal = np.full(count, 1 / count)
    wanted = ot.lp.free_support_barycenter([x.numpy()], [equal], start.numpy(), numItermax=500, stopThr=1e-20)
    same_atoms(barycentre(x, start), torch.from_numpy(wanted), 1e-6)


@pytest.mark.parametrize("masses", ["uniform", "optimised"])
def test_the_objective_never_rises(masses: module.Masses, monkeypatch: pytest.MonkeyPatch) -> None:
    x, start = points(50), 5 * randn(7, 3, seed=4)
    found = []
    for rounds in range(12):
        monkeypatch.setattr(module, "ROUNDS", rounds)
        found.append(barycentre(x, start, masses).objective)
    assert all(after <= before * (1 + 1e-12) for before, after in zip(found, found[1:], strict=False))
    assert found[-1] < 0.5 * found[0]


# Optimised masses


@pytest.mark.parametrize("seed", range(4))
def test_optimised_masses_leave_less(seed: int) -> None:
    x = points(60, seed=seed)
    equal = barycentre(x, x[:5])
    free = barycentre(x, equal.atoms, "optimised")
    assert free.objective <= equal.objective
    assert float(free.masses.sum()) == pytest.approx(1, abs=1e-12)
    assert free.masses.tolist() == sorted(free.masses.tolist(), reverse=True)
    shares = nearest_plan(squared_distances(free.atoms, x)).sum(1)
    assert torch.allclose(free.masses, shares)


@pytest.mark.parametrize("seed", range(3))
def test_optimised_is_k_means(seed: int) -> None:
    x = points(80, seed=seed)
    found = barycentre(x, x[:6], "optimised")
    wanted = KMeans(6, init=x[:6].numpy(), n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(x.numpy())
    assert found.objective == pytest.approx(wanted.inertia_ / 80, rel=1e-9)
    same_atoms(found, torch.from_numpy(wanted.cluster_centers_), 1e-8)


def test_an_atom_that_nothing_is_near_begins_anew() -> None:
    x = points(30)
    far = torch.cat([x[:2], torch.full((3, 3), 1e3, dtype=torch.float64)])
    found = barycentre(x, far, "optimised")
    assert (found.masses > 0).all() and found.objective < barycentre(x, x[:2], "optimised").objective
    alike = barycentre(torch.ones(4, 2), torch.ones(3, 2), "optimised")
    assert alike.objective == 0 and alike.atoms.isfinite().all() and float(alike.masses.sum()) == 1


# Invariance


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "shifted": lambda x: x + torch.tensor([1e3, -7.0, 5.0], dtype=torch.float64),
    "turned": lambda x: x @ torch.linalg.qr(randn(3, 3, seed=9))[0],
    "scaled": lambda x: 1e4 * x,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
@pytest.mark.parametrize("masses", ["uniform", "optimised"])
def test_atoms_move_with_the_points(masses: module.Masses, move: Callable[[Tensor], Tensor]) -> None:
    x, start = points(33), points(5, seed=7)
    wanted = move(barycentre(x, start, masses).atoms)
    same_atoms(barycentre(move(x), move(start), masses), wanted, 1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("masses", ["uniform", "optimised"])
def test_the_order_of_points_and_of_starting_atoms_changes_nothing(masses: module.Masses) -> None:
    x, start = points(33), points(5, seed=7)
    found = barycentre(x, start, masses)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(1))
    other = barycentre(x[order], start.flip(0), masses)
    assert torch.allclose(found.atoms, other.atoms, atol=1e-12) and torch.allclose(found.masses, other.masses)


def test_float32_points_are_computed_in_float64() -> None:
    x = points(20).float()
    assert torch.equal(barycentre(x, x[:3]).atoms, barycentre(x.double(), x[:3].double()).atoms)


# Of all classes

CONFIG = BarycentresConfig(atoms=4, masses="uniform", init="real")


def ingredient(folder: Path, config: BarycentresConfig = CONFIG, seed: int = 0) -> ClassBarycentres:
    train = taught.data().train
    real = test_statistics.data_of(train.images[:].double(), train.labels)
    statistics = test_statistics.ingredient(folder, StatisticsWanted(features=True), data=real)
    if not statistics.is_made():
        make_here(statistics, NoProgress())
    kitchen = SimpleNamespace(**vars(statistics.kitchen), seed=seed)
    return ClassBarycentres(cast(Kitchen, kitchen), statistics, config)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "barycentres").iterdir()}


def test_every_class_has_the_barycentre_of_its_own_features(tmp_path: Path) -> None:
    made = ingredient(tmp_path)
    make_here(made, NoProgress())
    assert made.is_made() and made.counted == 5
    atoms, masses = made.open().of(torch.tensor([3, 1]))
    assert atoms.dtype == torch.float32 and masses.tolist() == [[0.25] * 4] * 2
    for label, found in zip((3, 1), atoms, strict=True):
        features = made.statistics.open().features(label)
        left = reference.transport_cost(masses[0], squared_distances(found.double(), features.double()))
        assert made.open().left(label) == pytest.approx(left, rel=1e-4)
        assert left < float(features.double().var(0, correction=0).sum())


def test_order_damage_and_breaks_do_not_change_a_byte(tmp_path: Path) -> None:
    alone, other = ingredient(tmp_path / "alone"), ingredient(tmp_path / "other")
    make_here(alone, NoProgress())
    for label in (4, 2, 0):
        other.make(label, NoProgress())
    (work,) = (tmp_path / "other" / "work" / "barycentres").iterdir()
    part = work / "class-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert other.pieces() == [1, 2, 3]
    make_here(other, NoProgress())
    assert files(tmp_path / "alone") == files(tmp_path / "other") and not work.exists()


def test_keys_and_draws_are_of_the_seed_and_the_config(tmp_path: Path) -> None:
    made = [
        ingredient(tmp_path),
        ingredient(tmp_path, seed=1),
        ingredient(tmp_path, replace(CONFIG, init="normal")),
        ingredient(tmp_path, replace(CONFIG, masses="optimised")),
        ingredient(tmp_path, replace(CONFIG, atoms=3)),
    ]
    assert len({one.key() for one in made}) == 5
    features = made[0].statistics.open().features(0)
    equal, free = (made_of(features, one.config, KEY) for one in (made[0], made[3]))
    assert free.objective <= equal.objective and equal.masses.tolist() == [0.25] * 4
    assert not torch.equal(made_of(features, CONFIG, Key.root(9)).atoms, equal.atoms)
    assert made_of(features, made[2].config, KEY).atoms.isfinite().all()


def test_classes_with_fewer_images_than_atoms() -> None:
    x = points(3)
    with pytest.raises(ConfigError, match=r"^method.images_per_class: 4 atoms .* only 3 real images"):
        made_of(x, CONFIG, KEY)
    found = made_of(x, replace(CONFIG, repeat_images=True), KEY)
    assert found.masses.tolist() == [0.25] * 4 and found.atoms.isfinite().all()


# Mistakes


def test_points_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RunError, match="features of the real data are not finite"):
        barycentre(torch.tensor([[1.0], [torch.nan]]), torch.zeros(1, 1))


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ConfigError, match=r"^method.name: .*pip install 'raydd\[transport\]'"):
        require_transport()
