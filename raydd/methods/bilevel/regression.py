"""Kernel ridge regression on a network's features, and the derivative of a loss of its predictions, in closed form.

With support features S [n, F], labels Y [n, K] and A = S S' + rho I, rho = ridge tr(S S') / n, the predictions of query
features T [B, F] are T V, V = S' A^-1 Y: the last layer of a network, solved on the support (FRePo, Zhou, Nezhadarya
and Ba, NeurIPS 2022, https://arxiv.org/abs/2206.00719, section 3). As rho goes with the trace, they do not depend on
the scale of the features. A loss of the predictions enters by G = T' dL/dpred [F, K] alone. With a = A^-1 Y and
b = A^-1 S G

    dL/dY = b,    dL/dS = a G' - (b a' + a b') S - (2 ridge / n) tr(a' b) S,

whose last part is the way through the trace. Everything is float64: A may have a condition of up to n / ridge.

Letters: n support rows, B query rows, F features, K classes, M labelled images.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from raydd.core.errors import RunError

ATTEMPTS: Final = 4
"""Ridges that are tried, each ten times the one before."""


@dataclass(frozen=True)
class Regression:
    """A fit of the last layer."""

    features: Tensor
    """S, float64 [n, F]."""
    solution: Tensor
    """a = A^-1 Y, [n, K]."""
    factor: Tensor
    """Of A by Cholesky, lower [n, n]."""
    ridge: float
    """What was added to the diagonal, as a part of its mean."""
    jitter: int
    """How many times the ridge had to be made ten times as large."""

    @classmethod
    def fitted(cls, features_nF: Tensor, labels_nK: Tensor, ridge: float) -> "Regression":
        """Solve for the last layer.

        Args:
            features_nF: of the support.
            labels_nK: regression targets.
            ridge: as a part of the mean of the diagonal of S S'.

        Raises:
            RunError: no ridge up to a thousand times this one makes the system positive definite.
        """
        features, labels = features_nF.double(), labels_nK.double()
        gram = features @ features.T
        mean = gram.diagonal().mean()
        for jitter in range(ATTEMPTS):
            tried = ridge * 10**jitter
            system = gram + tried * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            factor, failed = torch.linalg.cholesky_ex(system)
            if not int(failed) and bool(factor.isfinite().all()):
                return cls(features, torch.cholesky_solve(labels, factor), factor, tried, jitter)
        raise RunError(
            f"the features of the {len(gram)} images are not finite, or too much alike to be told apart; raise "
            "method.ridge, or lower method.image_lr and method.online_lr"
        )

    @property
    def coefficients(self) -> Tensor:
        """V = S' a, float64 [F, K]."""
        return self.features.T @ self.solution

    def pull_back(self, cotangent_FK: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients by features [n, F] and by labels [n, K], from G = T' dL/dpred."""
        a, features = self.solution, self.features
        b = torch.cholesky_solve(features @ cotangent_FK, self.factor)
        through_trace = 2 * self.ridge / len(features) * (a * b).sum()
        by_features = a @ cotangent_FK.T - b @ (a.T @ features) - a @ (b.T @ features) - through_trace * features
        return by_features, b


def squared_loss(predictions_BK: Tensor, targets_BK: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Half the squared distance over `count` rows, of which these are some, and its gradient by the predictions."""
    residual = (predictions_BK - targets_BK) / count
    return (residual.square().sum() * count) / 2, residual


def margin(labels_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the mean of min(largest - second largest label, 1/K), and its gradient [M, K]: 0 where 1/K is exceeded.

    FRePo adds it to its loss, so that learned labels keep a largest one.
    """
    count, num_classes = labels_MK.shape
    largest, order = labels_MK.topk(2)
    apart = largest[:, 0] - largest[:, 1]
    pulled = (apart < 1 / num_classes).to(labels_MK.dtype).unsqueeze(1) / count
    signs = torch.tensor([-1.0, 1.0], dtype=labels_MK.dtype, device=labels_MK.device)
    gradient = torch.zeros_like(labels_MK).scatter_(1, order, pulled * signs)
    return -apart.clamp(max=1 / num_classes).mean(), gradient
