"""IDC written down naively: one class after the other, and after each a step of all images.

Sources: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, and what its
published code does. Nothing of the product is imported.

Letters: M images, B batch, C H W, P flat parameters.
"""

from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.reference.condensation import Augment, Classes, Shapes, gradient, pieces, sgd
from tests.reference.matching import Logits

ToNetworkSpace = Callable[[Tensor], Tensor]


def parts(images_MCHW: Tensor, factor: int) -> Tensor:
    """The parts of every image, each enlarged to the size of the whole."""
    height, width = images_MCHW.shape[2:]
    tall, wide = ceil(height / factor), ceil(width / factor)
    padded = F.pad(images_MCHW, (0, wide * factor - width, 0, tall * factor - height), value=0.5)
    found = []
    for i in range(factor):
        for j in range(factor):
            cell = padded[:, :, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            found.append(F.interpolate(cell, (height, width), mode="bilinear", align_corners=False))
    return torch.cat(found)


def distance(name: str, a_P: Tensor, b_P: Tensor, shapes: Shapes) -> Tensor:
    """Of convolutions' weights alone."""
    total = torch.zeros((), dtype=a_P.dtype)
    for a, b in zip(pieces(a_P, shapes), pieces(b_P, shapes), strict=True):
        if a.ndim == 4:
            total = total + ((a - b) ** 2 if name == "mse" else (a - b).abs()).sum()
    return total


def iteration(
    network: Logits, theta_P: Tensor, shapes: Shapes, real: Classes, images: Classes, velocity: Classes,
    to_network_space: ToNetworkSpace, augment: Augment, lrs: Sequence[float], momentum: float, metric: str,
    factor: int, inner: int, network_lr: float, network_momentum: float, weight_decay: float,
) -> tuple[Classes, Classes, float]:  # fmt: skip
    """One outer iteration; returns images, velocity and the mean loss of round and class.

    Images are pixels: those of earlier stages, class by class, and then the new ones, class by class; so are `lrs`,
    which are 0 for images that never change. Real ones are in network space. The network is trained on all of them in
    one batch, without augmentation.
    """
    losses, count = 0.0, len(real)
    everything = torch.cat(list(real))
    labels = torch.cat([torch.full((len(x),), c) for c, x in enumerate(real)])
    buffer = torch.zeros_like(theta_P)
    images = [x.clamp(0, 1) if lr else x for x, lr in zip(images, lrs, strict=True)]
    for number in range(inner):
        for c in range(count):
            leaves = [x.clone().requires_grad_() for x in images]
            shown = torch.cat([parts(leaves[c], factor), parts(leaves[c + count], factor)])
            of_real, of_synthetic = (
                gradient(network, theta_P, augment(number, c, x), torch.full((len(x),), c), True)
                for x in (real[c], to_network_space(shown))
            )
            loss = distance(metric, of_synthetic, of_real.detach(), shapes)
            untouched = sum(0 * x.sum() for x in leaves)
            images, velocity = sgd(leaves, velocity, loss + untouched, lrs, momentum)
            losses += float(loss.detach())
        slope = gradient(network, theta_P, everything, labels, False) + weight_decay * theta_P
        buffer = network_momentum * buffer + slope
        theta_P = theta_P - network_lr * buffer
    return images, velocity, losses / inner / count
