"""Barycentres of one class's features: few atoms with masses, near to all images in the Wasserstein distance.

WMDD (Liu et al., ICCV 2025, https://arxiv.org/abs/2311.18531) matches the features of synthetic images to the atoms b,
of masses w, that are nearest to the features phi of the n real images of a class:

    W2^2(sum_j w_j d(b_j), 1/n sum_i d(phi_i)) = min over plans Pi of sum_ij Pi_ji |b_j - phi_i|^2

with Pi 1 = w and Pi^T 1 = 1/n. With masses that are given, plans and atoms are updated in turn (Cuturi and Doucet, ICML
2014, https://arxiv.org/abs/1310.4375): Pi is the exact optimal plan, b_j the mean of what it takes there. As there is
one measure alone, free masses make this Lloyd's k-means: the best plan takes every point to its nearest atom, and w_j
is the share of points there. The published runs keep masses equal.

Letters: N points, K atoms, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from raydd.core.errors import ConfigError, RunError

ROUNDS: Final = 100
"""At most."""
LEAST_GAIN: Final = 1e-9
"""What a round has to take off the objective, as a part of it, for another one to follow."""
PIVOTS: Final = 10_000_000
"""Of the network simplex, at most."""

Masses = Literal["uniform", "optimised"]
"""Of atoms: all the same, or as many as points are near."""


@dataclass(frozen=True, eq=False)
class Barycentre:
    """Atoms of large mass first, those of one mass by their coordinates."""

    atoms: Tensor
    """float64 [K, F]"""
    masses: Tensor
    """float64 [K], of sum 1."""
    objective: float
    """The squared distance that is left."""
    rounds: int
    """Updates of the atoms."""


def require_transport() -> None:
    """See that the library of optimal transport is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import ot  # noqa: F401
    except ImportError:
        problem = "wmdd needs the package POT for optimal transport: pip install 'raydd[transport]'"
        raise ConfigError("method.name", problem) from None


def transport_plan(masses_K: Tensor, costs_KN: Tensor) -> Tensor:
    """The exact optimal plan, float64 [K, N], between such masses and equal ones of N points, by the network simplex.

    Raises:
        ConfigError: the library is not there.
        RunError: the simplex did not come to an end.
    """
    require_transport()
    import ot

    count = costs_KN.shape[1]
    scaled = costs_KN / costs_KN.max().clamp(torch.finfo(torch.float64).tiny)
    equal = torch.full((count,), 1 / count, dtype=torch.float64)
    found, log = ot.emd(masses_K.numpy(), equal.numpy(), scaled.numpy(), numItermax=PIVOTS, log=True)
    if log["warning"] is not None:
        raise RunError(f"optimal transport of {count} points did not come to an end: {log['warning']}")
    return torch.from_numpy(found)


def nearest_plan(costs_KN: Tensor) -> Tensor:
    """The plan, float64 [K, N], that takes every point to its nearest atom; of equally near ones the first."""
    count = costs_KN.shape[1]
    plan = torch.zeros_like(costs_KN)
    plan[costs_KN.argmin(0), torch.arange(count)] = 1 / count
    return plan


def barycentre(points_NF: Tensor, start_KF: Tensor, masses: Masses = "uniform") -> Barycentre:
    """Atoms and masses near to N points of equal mass.

    Args:
        points_NF: of any float type.
        start_KF: the atoms at first.
        masses: what is optimised beside the atoms: nothing, or their masses. An atom to which nothing is near begins
            anew at the point that is farthest from its own.

    Raises:
        ConfigError: the library is not there.
        RunError: the points are not finite, or the transport did not come to an end.
    """
    if not points_NF.isfinite().all():
        raise RunError("features of the real data are not finite: train the teacher anew")
    origin_F = points_NF.double().mean(0)
    points_NF, atoms_KF = points_NF.double() - origin_F, start_KF.double() - origin_F
    equal_K = torch.full((len(atoms_KF),), 1 / len(atoms_KF), dtype=torch.float64)

    def optimal(costs_KN: Tensor) -> Tensor:
        return transport_plan(equal_K, costs_KN) if masses == "uniform" else nearest_plan(costs_KN)

    atoms_KF, plan_KN, objective, rounds = _alternated(points_NF, atoms_KF, optimal)
    found_K = equal_K if masses == "uniform" else plan_KN.sum(1)
    atoms_KF = atoms_KF + origin_F
    order = sorted(range(len(atoms_KF)), key=lambda place: (-float(found_K[place]), atoms_KF[place].tolist()))
    return Barycentre(atoms_KF[order], found_K[order], objective, rounds)


def squared_distances(atoms_KF: Tensor, points_NF: Tensor) -> Tensor:
    """[K, N], without the cancellation of products."""
    return torch.cdist(atoms_KF, points_NF, compute_mode="donot_use_mm_for_euclid_dist").square()


def _alternated(
    points_NF: Tensor, atoms_KF: Tensor, optimal: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, float, int]:
    """Atoms, their plan, what is left and the rounds done; the objective never rises."""
    before = torch.inf
    for rounds in range(ROUNDS + 1):
        costs_KN = squared_distances(atoms_KF, points_NF)
        plan_KN = optimal(costs_KN)
        objective = float((plan_KN * costs_KN).sum())
        if rounds == ROUNDS or before - objective <= LEAST_GAIN * objective:
            break
        before, atoms_KF = objective, _updated(points_NF, plan_KN, costs_KN)
    return atoms_KF, plan_KN, objective, rounds


def _updated(points_NF: Tensor, plan_KN: Tensor, costs_KN: Tensor) -> Tensor:
    """The means of what the plan takes to each atom; where that is nothing, the points that pay most, each once."""
    masses_K = plan_KN.sum(1)
    empty = (masses_K == 0).nonzero().squeeze(1)
    atoms_KF = plan_KN @ points_NF / masses_K.clamp(torch.finfo(torch.float64).tiny)[:, None]
    paid_N = (plan_KN * costs_KN).sum(0)
    farthest = paid_N.argsort(descending=True, stable=True)[torch.arange(len(empty)) % len(paid_N)]
    atoms_KF[empty] = points_NF[farthest]
    return atoms_KF
