"""One GSAM step written down tensor by tensor, from the papers' algorithm (FTD's and DATM's experts).

Nothing of the product is imported.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Sequence[Tensor]], Tensor]

TINY = 1e-12


def gsam_direction(
    loss: Loss, weights: Sequence[Tensor], rho: float, alpha: float, adaptive: bool
) -> tuple[list[Tensor], Tensor]:
    """What SGD is to descend by, one tensor a weight, and the loss at the weights."""
    value, g = _loss_and_gradient(loss, weights)
    scale = [w.abs() if adaptive else torch.ones_like(w) for w in weights]
    length = _global_norm([s * x for s, x in zip(scale, g, strict=True)])
    ahead = [w + rho / (length + TINY) * s * s * x for w, s, x in zip(weights, scale, g, strict=True)]
    _, g_plus = _loss_and_gradient(loss, ahead)
    n, n_plus = _global_norm(g), _global_norm(g_plus)
    cosine = sum(float((x * y).sum()) for x, y in zip(g, g_plus, strict=True)) / (n * n_plus + TINY)
    across = [x - cosine * n / (n_plus + TINY) * y for x, y in zip(g, g_plus, strict=True)]
    return [y - alpha * x for x, y in zip(across, g_plus, strict=True)], value


def _loss_and_gradient(loss: Loss, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    leaves = [w.detach().clone().requires_grad_() for w in weights]
    value = loss(leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def _global_norm(tensors: Sequence[Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors) ** 0.5
