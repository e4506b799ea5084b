"""FRePo written down naively, in float64, by autograd through the linear solve. Nothing of the product is imported.

Source: Zhou, Nezhadarya and Ba, NeurIPS 2022 (https://arxiv.org/abs/2206.00719), and what its published code does.

Letters: n support rows, B query rows, F features, K classes, M synthetic images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def predictions(support_nF: Tensor, labels_nK: Tensor, query_BF: Tensor, ridge: float, traced: bool = True) -> Tensor:
    """Kernel ridge regression; without `traced` the ridge is a constant to autograd."""
    kernel = support_nF @ support_nF.T
    trace = torch.trace(kernel)
    rho = ridge * (trace if traced else trace.detach()) / len(kernel)
    system = kernel + rho * torch.eye(len(kernel), dtype=kernel.dtype)
    return query_BF @ support_nF.T @ torch.linalg.solve(system, labels_nK)


def real_loss(predictions_BK: Tensor, classes_B: Sequence[int]) -> Tensor:
    """Half the squared distance to centred classes, summed over classes, mean over images."""
    num_classes, total = predictions_BK.shape[1], torch.zeros((), dtype=predictions_BK.dtype)
    for row, label in zip(predictions_BK, classes_B, strict=True):
        for k in range(num_classes):
            total = total + 0.5 * (row[k] - (float(k == label) - 1 / num_classes)) ** 2
    return total / len(predictions_BK)


def margin_loss(labels_MK: Tensor) -> Tensor:
    """Minus the mean over images of the distance of the two largest labels, at most 1/K."""
    terms = []
    for row in labels_MK:
        first, second = row.sort(descending=True).values[:2]
        terms.append(-torch.minimum(first - second, torch.tensor(1 / len(row), dtype=row.dtype)))
    return torch.stack(terms).mean()


def lamb(values: Sequence[float], gradients: Sequence[Sequence[float]], lr: float) -> list[float]:
    """A vector after steps of LAMB, number by number."""
    x, m, v = list(values), [0.0] * len(values), [0.0] * len(values)
    for t, gradient in enumerate(gradients, 1):
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradient, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradient, strict=True)]
        u = [a / (1 - 0.9**t) / (math.sqrt(b / (1 - 0.999**t)) + 1e-6) for a, b in zip(m, v, strict=True)]
        ratio = math.hypot(*x) / math.hypot(*u)
        x = [a - lr * ratio * b for a, b in zip(x, u, strict=True)]
    return x
