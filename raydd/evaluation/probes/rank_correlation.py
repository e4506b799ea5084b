"""How well one measurement ranks what another ranks, with an interval by the bootstrap.

A bootstrap sample of N pairs is how often each of them was drawn. With these counts as weights both coefficients are
matrix products, for all samples at once.

Letters: N pairs, R samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from raydd.core.keyed_random import Key, integers

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000

Coefficient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of x [N], y [N] and weights [R, N], float64: [R], in -1..1, nan where all of x or all of y are equal."""


@dataclass(frozen=True)
class Estimate:
    """A coefficient and the ends of its interval; None where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


def spearman(x_N: Tensor, y_N: Tensor, weights_RN: Tensor) -> Tensor:
    """The linear correlation of the ranks, in which equal values share their mean rank (Spearman 1904)."""
    totals_R1 = weights_RN.sum(1, keepdim=True)

    def centred(values_N: Tensor) -> Tensor:
        ranks_RN = _ranks(values_N, weights_RN)
        return ranks_RN - (weights_RN * ranks_RN).sum(1, keepdim=True) / totals_R1

    a_RN, b_RN = centred(x_N), centred(y_N)
    squares_R = (weights_RN * a_RN.square()).sum(1) * (weights_RN * b_RN.square()).sum(1)
    return (weights_RN * a_RN * b_RN).sum(1) / squares_R.sqrt()


def kendall(x_N: Tensor, y_N: Tensor, weights_RN: Tensor) -> Tensor:
    """tau-b: pairs in the same order less those in the other, by the pairs without ties (Kendall 1945)."""
    a_NN, b_NN = (values_N[:, None].sub(values_N).sign() for values_N in (x_N, y_N))

    def total(of_pairs_NN: Tensor) -> Tensor:
        return (weights_RN @ of_pairs_NN).mul(weights_RN).sum(1)

    return total(a_NN * b_NN) / (total(a_NN.square()) * total(b_NN.square())).sqrt()


def estimate(coefficient: Coefficient, x_N: Tensor, y_N: Tensor, key: Key, resamples: int = RESAMPLES) -> Estimate:
    """A coefficient of N pairs and its percentile interval (Efron 1979).

    Samples in which all of x or all of y are equal have no coefficient and are left out.

    Args:
        coefficient: `spearman` or `kendall`.
        x_N: float64.
        y_N: float64.
        key: of the samples.
        resamples: R.
    """
    count = len(x_N)
    if count < 2:
        return Estimate(None, None, None)
    drawn_RN = integers(key, torch.arange(resamples * count), 0, count).view(resamples, count)
    weights_RN = torch.zeros(resamples, count, dtype=torch.float64)
    weights_RN.scatter_add_(1, drawn_RN, torch.ones_like(weights_RN))
    tail = (1 - CONFIDENCE) / 2
    ends = coefficient(x_N, y_N, weights_RN).nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    (value,) = coefficient(x_N, y_N, torch.ones(1, count, dtype=torch.float64))
    return Estimate(*(None if number.isnan() else float(number) for number in (value, *ends)))


def _ranks(values_N: Tensor, weights_RN: Tensor) -> Tensor:
    """The rank of every value in every sample, from 1, also of those that were not drawn."""
    others_NN = values_N[:, None]
    below_NN = (others_NN > values_N).double() + 0.5 * (others_NN == values_N).double()
    return weights_RN @ below_NN.T + 0.5
