"""How much of the real images' spread a set fills, by nearest neighbours of features.

Of real points X_i and the set's points Y_j, with r_k(x) the distance from x to its k-th nearest neighbour among its own
kind and B(x, r) the closed ball:

    density   = 1/(k M) sum_j #{i : Y_j in B(X_i, r_k(X_i))}      (how deep among the real ones; may exceed 1)
    coverage  = 1/N #{i : some Y_j in B(X_i, r_k(X_i))}
    precision = 1/M #{j : Y_j in some B(X_i, r_k(X_i))}
    recall    = 1/N #{i : X_i in some B(Y_j, r_k(Y_j))}

The first two are Naeem et al. 2020 (https://arxiv.org/abs/2002.09797), equations 3 and 4, the others Kynkaanniemi et
al. 2019 (https://arxiv.org/abs/1904.06991) as they write them. All but precision grow with M: compare sets of one size.

Letters: N real points, M of the set, F values of each, A and B some points, k neighbours.
"""

import torch
from torch import Tensor

from raydd.core.errors import ConfigError

_BLOCK_VALUES = 2**22


def spread(real_NF: Tensor, set_MF: Tensor, k: int) -> dict[str, float]:
    """`density`, `coverage`, `precision` and, of more than k images, `recall`.

    Raises:
        ConfigError: there are not more than k real points.
    """
    if len(real_NF) <= k:
        raise ConfigError("evaluate.realism.neighbours", f"must be below the {len(real_NF)} real images, is {k}")
    between_NM = distances(real_NF, set_MF)
    inside_NM = between_NM <= radii(real_NF, k)[:, None]
    found = {
        "density": float(inside_NM.double().mean()) * len(real_NF) / k,
        "coverage": float(inside_NM.any(1).double().mean()),
        "precision": float(inside_NM.any(0).double().mean()),
    }
    if len(set_MF) > k:
        found["recall"] = float((between_NM <= radii(set_MF, k)).any(1).double().mean())
    return found


def radii(points_AF: Tensor, k: int) -> Tensor:
    """How far the k-th nearest of the others is from each of some points: [A]."""
    apart_AA = distances(points_AF, points_AF).fill_diagonal_(torch.inf)
    return apart_AA.kthvalue(k, dim=1).values


def distances(a_AF: Tensor, b_BF: Tensor) -> Tensor:
    """Euclidean, [A, B]; by differences, so that equal pairs are equally far apart to the last bit."""
    rows = max(1, _BLOCK_VALUES // max(1, len(b_BF)))
    blocks = (torch.cdist(own, b_BF, compute_mode="donot_use_mm_for_euclid_dist") for own in a_AF.split(rows))
    return torch.cat(list(blocks))
