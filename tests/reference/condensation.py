"""Dataset condensation written down naively: DC, DSA and DM, one class, one layer and one output at a time.

Sources: DC (Zhao, Mopuri and Bilen, ICLR 2021), DSA (Zhao and Bilen, ICML 2021), DM (Zhao and Bilen, WACV 2023), and
what their published code does. Nothing of the product is imported.

Letters: M synthetic images, B batch, C H W, P flat parameters.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from tests.reference.matching import Logits, mean_loss

Shapes = Sequence[tuple[int, ...]]
Classes = Sequence[Tensor]
"""The images of each class."""
Augment = Callable[[int, int, Tensor], Tensor]
"""(round, class, images) to what the networks see."""
AugmentEpoch = Callable[[int, int, Tensor], Tensor]
"""(round, epoch, all synthetic images) to what the network is trained on."""
Moved = tuple[Classes, Classes]
"""Images and velocities."""

EPSILON = 1e-6


def pieces(vector_P: Tensor, shapes: Shapes) -> list[Tensor]:
    """The tensors that a flat vector is made of."""
    found, at = [], 0
    for shape in shapes:
        found.append(vector_P[at : at + prod(shape)].reshape(shape))
        at += prod(shape)
    assert at == len(vector_P)
    return found


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of two vectors, as the published code has it."""
    dot, norm_a, norm_b = ((x * y).sum() for x, y in ((a, b), (a, a), (b, b)))
    return dot / (norm_a.sqrt() * norm_b.sqrt() + EPSILON)


def layerwise(a_P: Tensor, b_P: Tensor, shapes: Shapes) -> Tensor:
    """Over layers with weights, over their outputs: one minus the cosine."""
    total = torch.zeros((), dtype=a_P.dtype)
    for a, b in zip(pieces(a_P, shapes), pieces(b_P, shapes), strict=True):
        if a.ndim in (2, 4):
            for output in range(a.shape[0]):
                total = total + 1 - cosine(a[output].reshape(-1), b[output].reshape(-1))
    return total


def mse(a_P: Tensor, b_P: Tensor, shapes: Shapes) -> Tensor:
    """The sum of squares, of every parameter."""
    return sum(((x - y) ** 2 for x, y in zip(a_P, b_P, strict=True)), start=torch.zeros((), dtype=a_P.dtype))


def whole_cosine(a_P: Tensor, b_P: Tensor, shapes: Shapes) -> Tensor:
    """One minus the cosine of the whole vectors."""
    return 1 - cosine(a_P, b_P)


DISTANCES = {"layerwise": layerwise, "mse": mse, "cosine": whole_cosine}


def gradient(network: Logits, theta_P: Tensor, images: Tensor, labels: Tensor, graph: bool) -> Tensor:
    """Of the mean loss, by the parameters [P]."""
    theta = theta_P.detach().requires_grad_()
    return torch.autograd.grad(mean_loss(network(theta, images), labels), theta, create_graph=graph)[0]


def sgd(images: Classes, velocity: Classes, loss: Tensor, lrs: Sequence[float], momentum: float) -> Moved:
    """One step with momentum on the images of every class, each with a step size of its own."""
    by_images = torch.autograd.grad(loss, images)
    velocity = [momentum * v + g for v, g in zip(velocity, by_images, strict=True)]
    return [(x - lr * v).detach() for x, v, lr in zip(images, velocity, lrs, strict=True)], velocity


def dm_step(
    features: Logits, theta_P: Tensor, real: Classes, images: Classes, velocity: Classes,
    augment: Augment, lrs: Sequence[float], momentum: float,
) -> tuple[Classes, Classes, float]:  # fmt: skip
    """One iteration of DM; returns images, velocity and the mean loss of a class.

    Images are those of earlier stages, class by class, and then the new ones, class by class; so are `lrs`, which are 0
    for images that never change.
    """
    leaves = [x.clone().requires_grad_() for x in images]
    total = torch.zeros((), dtype=theta_P.dtype)
    for c in range(len(real)):
        one = features(theta_P, augment(0, c, real[c]))
        other = features(theta_P, augment(0, c, torch.cat([leaves[c], leaves[c + len(real)]])))
        for f in range(one.shape[1]):
            total = total + (one[:, f].sum() / len(one) - other[:, f].sum() / len(other)) ** 2
    images, velocity = sgd(leaves, velocity, total, lrs, momentum)
    return images, velocity, float(total.detach()) / len(real)


def dc_step(
    network: Logits, theta_P: Tensor, shapes: Shapes, real: Classes, images: Classes,
    velocity: Classes, augment: Augment, augment_epoch: AugmentEpoch, lrs: Sequence[float], momentum: float,
    distance: str, outer: int, inner: int, network_lr: float,
) -> tuple[Classes, Classes, float]:  # fmt: skip
    """One iteration of DC or DSA, with full batches; returns images, velocity and the mean loss of round and class.

    Images are those of earlier stages, class by class, and then the new ones, class by class, also in the set that the
    network is trained on; so are `lrs`, which are 0 for images that never change.
    """
    losses, count = 0.0, len(real)
    for number in range(outer):
        leaves = [x.clone().requires_grad_() for x in images]
        total = torch.zeros((), dtype=theta_P.dtype)
        for c in range(len(real)):
            synthetic = torch.cat([leaves[c], leaves[c + count]])
            of_real, of_synthetic = (
                gradient(network, theta_P, augment(number, c, x), torch.full((len(x),), c), True)
                for x in (real[c], synthetic)
            )
            total = total + DISTANCES[distance](of_synthetic, of_real.detach(), shapes)
        images, velocity = sgd(leaves, velocity, total, lrs, momentum)
        losses += float(total.detach())
        if number == outer - 1:
            break  # nobody looks at the network any more
        labels = torch.cat([torch.full((len(x),), c % count) for c, x in enumerate(images)])
        for epoch in range(inner):
            seen = augment_epoch(number + 1, epoch, torch.cat(list(images)))
            theta_P = theta_P - network_lr * gradient(network, theta_P, seen, labels, False)
    return images, velocity, losses / outer / count
