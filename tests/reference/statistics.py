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
