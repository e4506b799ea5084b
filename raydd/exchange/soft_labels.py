"""Soft labels of other code as logits: targets of the loss are their softmax. Regression labels stay as they are.

Probabilities p become log p, whose softmax they are again.

Centred labels y (KIP, Nguyen et al. 2021, https://arxiv.org/abs/2107.13034: the one-hot vector less 1/K, then learned
under a squared error) become log p with

    p_k = max(y_k - mean(y) + 1/K, 1e-6) / sum of these over k.

The squared error to y + 1/K and the cross entropy against p have their minimum at the same prediction wherever
y + 1/K is a distribution, as both are proper scores; where it has negative parts these are cut off. The largest entry
of y is that of p, since it is never below the mean.

Letters: M synthetic images, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from raydd.core.errors import DataError
from raydd.exchange.answers import ForeignKind

LEAST_PROBABILITY: Final = 1e-6
_SUM_TOLERANCE: Final = 1e-2


def as_stored(labels_MK: Tensor, kind: ForeignKind | None, where: str) -> Tensor:
    """Label logits float32 [M, K] of soft labels of a kind, or regression labels as they are.

    Raises:
        DataError: the kind is not given, or the numbers are not of it; names the place and the kind that they may be.
    """
    found = looks_like(labels_MK)
    if kind is None:
        raise DataError(
            f"{where}: are soft labels, and the file does not say which; add --soft-labels logits, probabilities, "
            f"centred (one-hot less 1/K) or regression (the same, kept for a squared loss). They look like {found}"
        )
    if "probabilities" in (kind, found) and kind != found:
        raise DataError(f"{where}: are not {kind} but look like {found}; correct --soft-labels")
    return _MAPS[kind](labels_MK.double()).float()


def looks_like(labels_MK: Tensor) -> ForeignKind:
    """What soft labels may be, by signs and sums of their rows; centred ones may be logits as well."""
    sums = labels_MK.double().sum(1)
    if bool((labels_MK >= 0).all()) and bool(((sums - 1).abs() < _SUM_TOLERANCE).all()):
        return "probabilities"
    largest = labels_MK.double().abs().amax(1)
    if bool((sums.abs() <= 0.1 * labels_MK.shape[1]).all()) and bool((largest <= 2).all()):
        return "centred"
    return "logits"


def _of_probabilities(labels_MK: Tensor) -> Tensor:
    return labels_MK.clamp(min=1e-12).log()


def _of_centred(labels_MK: Tensor) -> Tensor:
    shifted = labels_MK - labels_MK.mean(1, keepdim=True) + 1 / labels_MK.shape[1]
    kept = shifted.clamp(min=LEAST_PROBABILITY)
    return (kept / kept.sum(1, keepdim=True)).log()


def _as_they_are(labels_MK: Tensor) -> Tensor:
    return labels_MK


_MAPS: Final[Mapping[ForeignKind, Callable[[Tensor], Tensor]]] = {
    "logits": _as_they_are,
    "probabilities": _of_probabilities,
    "centred": _of_centred,
    "regression": _as_they_are,
}
MEANING: Final[Mapping[ForeignKind, str]] = {
    "logits": "as they are",
    "regression": "not: they are targets of a squared loss",
    "probabilities": "log p",
    "centred": "log p, p = max(y - mean(y) + 1/K, 1e-6) normalised: keeps the largest entry, and the minimum of the "
    "loss where y + 1/K is a distribution",
}
"""How each became logits, for cards."""
