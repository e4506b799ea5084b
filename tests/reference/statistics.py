"""Statistics and barycentres once more, slow and plain, in float64. Shares no code with raydd."""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional as F


def inputs_of(network: nn.Module, kind: type[nn.Module], images: Tensor) -> dict[str, Tensor]:
    """What goes into every layer of a kind, of all images at once."""
    found: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: found.__setitem__(name, args[0].detach().double()))
        for name, layer in network.named_modules()
        if isinstance(layer, kind)
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return found


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over images and pixels, and the mean over images of their own variance, by channel."""
    pixels = x.permute(1, 0, 2, 3).flatten(1)
    own = torch.stack([((image - image.mean((1, 2), keepdim=True)) ** 2).mean((1, 2)) for image in x]).mean(0)
    return pixels.mean(1), ((pixels - pixels.mean(1, keepdim=True)) ** 2).mean(1), own


def blocks(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over images, channels and pixels of every block, row by row."""
    _, _, height, width = x.shape
    tall, wide = side * -(-height // side), side * -(-width // side)
    if (tall, wide) != (height, width):
        x = F.interpolate(x, (tall, wide), mode="bilinear", align_corners=False)
    cut = [
        x[:, :, top : top + side, left : left + side].flatten()
        for top in range(0, tall, side)
        for left in range(0, wide, side)
    ]
    return torch.stack([b.mean() for b in cut]), torch.stack([((b - b.mean()) ** 2).mean() for b in cut])


def transport_cost(masses: Tensor, costs: Tensor) -> float:
    """What the cheapest transport to points of equal mass costs, as a linear program over all plans."""
    atoms, points = costs.shape
    rows = np.kron(np.eye(atoms), np.ones(points))
    columns = np.kron(np.ones(atoms), np.eye(points))
    ends = np.concatenate([masses.numpy(), np.full(points, 1 / points)])
    found = linprog(costs.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=ends, method="highs")
    assert found.success
    return float(found.fun)


def wmdd_loss(
    network: nn.Module,
    images: Tensor,
    labels: list[int],
    atoms: Tensor,
    wanted: dict[str, tuple[Tensor, Tensor]],
    weights: tuple[float, float, float],
    squared: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The whole loss of one class group, its cross entropy, moments and features.

    Args:
        network: in evaluation mode; its features are what its last linear layer is given.
        images: [N, C, H, W], augmented.
        labels: of the images.
        atoms: [N, F].
        wanted: of each batch norm, by name and in order: mean and variance of every class, [classes, C].
        weights: of cross entropy, features and moments; that of the first batch norm is 1.
        squared: whether features count by the mean of squared distances, not by the root of their sum.
    """
    seen: dict[str, Tensor] = {}
    layers = {layer: name for name, layer in network.named_modules() if name in wanted or layer is network.head}
    handles = [
        layer.register_forward_pre_hook(lambda own, args: seen.__setitem__(layers[own], args[0])) for layer in layers
    ]
    logits = network(images)
    for handle in handles:
        handle.remove()
    ce = -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(labels)) / len(labels)
    moments = torch.zeros((), dtype=images.dtype)
    for name, (mean, variance) in wanted.items():
        for label in sorted(set(labels)):
            own = torch.stack([seen[name][i] for i in range(len(labels)) if labels[i] == label])
            pixels = own.permute(1, 0, 2, 3).flatten(1)
            far = torch.norm(variance[label] - pixels.var(1, correction=0)) + torch.norm(mean[label] - pixels.mean(1))
            moments = moments + far / len(set(labels))
    difference = seen["head"] - atoms
    features = difference.square().sum(1).mean() if squared else torch.linalg.matrix_norm(difference)
    return weights[0] * ce + weights[1] * features + weights[2] * moments, ce, moments, features
