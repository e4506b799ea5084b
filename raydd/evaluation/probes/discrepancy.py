"""How far a set's distribution is from that of real images, as points in a feature space.

The squared maximum mean discrepancy in the unbiased form of Gretton et al. 2012 (JMLR 13, lemma 6), of points X and Y:

    MMD^2 = mean_{i != j} k(X_i, X_j) + mean_{i != j} k(Y_i, Y_j) - 2 mean_{i, j} k(X_i, Y_j),

which is 0 on average where both are drawn from one distribution, and may be below. The kernel is
k(x, y) = exp(-|x - y|^2 / (2 s^2)), with s the median distance between two real points, so that it is the same for all
sets that are compared with them. By permutations of the points of both (ibid., section 8) the p-value follows.

The Frechet distance (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) takes both for normal distributions:

    |m_X - m_Y|^2 + tr(C_X) + tr(C_Y) - 2 tr((C_X C_Y)^(1/2)).

Letters: N real points, M of the set, S = N + M, F values of each, R permutations.
"""

import torch
from torch import Tensor

from raydd.core.keyed_random import Key, permutation

_PERMUTED = 100
"""Permutations whose sums are computed together."""
_ROUNDING = 1e-12
"""By so much may two values of MMD^2 differ that are equal; the kernel is at most 1."""


def bandwidth(real_NF: Tensor) -> float:
    """The median distance between two different real points; 1 where most of them are equal."""
    squared_NN = _squared_distances(real_NF.double())
    upper = squared_NN[torch.ones_like(squared_NN, dtype=torch.bool).triu(1)]
    return float(upper.median().sqrt()) or 1.0


def gaussian_kernel(points_SF: Tensor, width: float) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)) of every two points, float64 [S, S]."""
    return (-_squared_distances(points_SF.double()) / (2 * width**2)).exp()


def mmd(kernel_SS: Tensor, first: int) -> float:
    """MMD^2, unbiased, of the first so many points and the others; there are two of each or more."""
    chosen_1S = (torch.arange(len(kernel_SS)) < first).double()[None]
    return float(_mmds(kernel_SS.clone().fill_diagonal_(0), chosen_1S))


def permutation_p(kernel_SS: Tensor, first: int, permutations: int, key: Key) -> float:
    """How often a random split of the points has an MMD as large, the split itself counted: at least 1 / (R + 1)."""
    without_SS, size = kernel_SS.clone().fill_diagonal_(0), len(kernel_SS)
    drawn_RS = torch.stack([permutation(key.child(number), size) for number in range(permutations)])
    least = _mmds(without_SS, (torch.arange(size) < first).double()[None]) - _ROUNDING
    found_R = torch.cat([_mmds(without_SS, (some < first).double()) for some in drawn_RS.split(_PERMUTED)])
    as_large = int((found_R >= least).sum())
    return (1 + as_large) / (1 + permutations)


def frechet(a_NF: Tensor, b_MF: Tensor) -> float:
    """The Frechet distance of two normal distributions with the means and covariances (by N - 1) of these points.

    Of centred points A / (N - 1)^(1/2) = Q R the trace of (C_A C_B)^(1/2) is the sum of the singular values of
    R_A R_B^T, so that no covariance needs a root.
    """
    (mean_a, root_a), (mean_b, root_b) = _normal(a_NF), _normal(b_MF)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float((mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap)


def _mmds(without_SS: Tensor, chosen_RS: Tensor) -> Tensor:
    """MMD^2 [R] of R splits, from a kernel with 0 on its diagonal; `chosen` is 1 where a point is in the first part."""
    others_RS = 1 - chosen_RS
    near_RS = chosen_RS @ without_SS
    far_RS = without_SS.sum(0) - near_RS
    n_R, m_R = chosen_RS.sum(1), others_RS.sum(1)
    inside_R = (near_RS * chosen_RS).sum(1) / (n_R * (n_R - 1)) + (far_RS * others_RS).sum(1) / (m_R * (m_R - 1))
    return inside_R - 2 * (near_RS * others_RS).sum(1) / (n_R * m_R)


def _squared_distances(points_SF: Tensor) -> Tensor:
    """[S, S], by inner products of centred float64 points."""
    centred_SF = points_SF - points_SF.mean(0)
    norms_S = centred_SF.square().sum(1)
    return (norms_S[:, None] + norms_S - 2 * centred_SF @ centred_SF.T).clamp(min=0)


def _normal(points_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and R [min(N, F), F] with R^T R the covariance, float64."""
    mean_F = points_NF.double().mean(0)
    centred_NF = (points_NF.double() - mean_F) / (len(points_NF) - 1) ** 0.5
    return mean_F, torch.linalg.qr(centred_NF, mode="r").R
