"""Recover written down naively: one class group, one loop, plain hooks, torch's Adam over everything.

Sources: SRe2L (Yin et al. 2023), CDA (Yin and Shen 2024), DELT (Shen et al. 2025), RDED (Sun et al. 2024). Nothing of
the product is imported; draws (boxes, flips, shifts) are given. What earlier stages left is part of the batch here:
their images go through the network in every iteration.

Letters: M synthetic images, C H W.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resized_crop


@dataclass(frozen=True)
class Draw:
    """Of one iteration."""

    box: tuple[int, int, int, int]
    """Top, left, height, width."""
    flip: bool
    shift: tuple[int, int]


def starts(images_per_class: int, iterations: int, round_iterations: int) -> list[int]:
    """By rank: images are dealt to the M rounds one after the other, and sorted."""
    rounds = iterations // round_iterations
    return sorted(round_iterations * (rank % rounds) for rank in range(images_per_class))


def augment(images: Tensor, draw: Draw) -> Tensor:
    images = resized_crop(images, *draw.box, list(images.shape[2:]), antialias=True)
    if draw.flip:
        images = images.flip(3)
    return torch.roll(images, draw.shift, (2, 3))


def moment_loss(
    module: nn.Module, images: Tensor, first_weight: float, frozen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, and the weighted sum of |running_var - var| + |running_mean - mean| over the batch norms.

    The moments are of the images and of frozen ones, of which logits are not wanted.
    """
    terms = []

    def hook(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        by_channel = inputs[0].permute(1, 0, 2, 3).reshape(inputs[0].shape[1], -1)
        mean, var = by_channel.mean(1), by_channel.var(1, unbiased=False)
        terms.append(torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2))

    handles = [m.register_forward_pre_hook(hook) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = module(images if frozen is None else torch.cat([images, frozen]))[: len(images)]
    for handle in handles:
        handle.remove()
    return logits, sum((first_weight if layer == 0 else 1) * term for layer, term in enumerate(terms))


def recover(
    module: nn.Module,
    images: Sequence[Tensor],
    labels: Sequence[int],
    starts: Sequence[int],
    draws: Callable[[int], Sequence[Draw]],
    *,
    iterations: int,
    lr: float,
    restarts_lr: bool,
    bn_weight: float,
    first_weight: float,
    low: Tensor,
    high: Tensor,
    steps: int,
    frozen: Tensor | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[Tensor, list[tuple[float, float]]]:
    """The images after some of the iterations, and cross entropy and moment loss of each.

    Args:
        module: the teacher, in evaluation mode.
        images: M of [C, H, W].
        labels: M classes.
        starts: when each image joins.
        draws: for an iteration, one draw for each image.
        iterations: MI.
        lr: at the start.
        restarts_lr: whether each image has a cosine of its own.
        bn_weight: r_bn.
        first_weight: of the first batch norm.
        low: black, [C, 1, 1].
        high: white.
        steps: how many iterations to do.
        frozen: images of earlier stages, [.., C, H, W].
        weights: of the cross entropy, one for each class.
    """
    leaves = [image.clone().requires_grad_() for image in images]
    optimizer = torch.optim.Adam([{"params": [leaf]} for leaf in leaves], lr=lr, betas=(0.5, 0.9), eps=1e-8)
    losses = []
    for t in range(steps):
        active = [i for i in range(len(leaves)) if starts[i] <= t]
        for leaf, begin, group in zip(leaves, starts, optimizer.param_groups, strict=True):
            begin = begin if restarts_lr else 0
            group["lr"] = 0.5 * lr * (1 + cos(pi * (t - begin) / (iterations - begin)))
            leaf.grad = torch.zeros_like(leaf)
        draw = draws(t)
        batch = torch.cat([augment(leaves[i][None], draw[i]) for i in active])
        logits, moments = moment_loss(module, batch, first_weight, frozen)
        ce = 0
        for row, i in enumerate(active):
            weight = 1 if weights is None else weights[labels[i]]
            ce = ce - weight * logits[row].log_softmax(0)[labels[i]] / len(active)
        (ce + bn_weight * moments).backward()
        optimizer.step()
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(leaf.maximum(low).minimum(high))
        losses.append((ce.item(), moments.item()))
    return torch.stack([leaf.detach() for leaf in leaves]), losses


def mosaic(cells: Sequence[Tensor], side: int) -> Tensor:
    """A grid of side x side images [C, H, W] as one, row by row."""
    rows = [torch.cat(list(cells[row * side : (row + 1) * side]), 2) for row in range(side)]
    return torch.cat(rows, 1)


def sureness(module: nn.Module, image: Tensor, label: int) -> float:
    """The probability that a network in evaluation mode gives to the class of an image."""
    with torch.no_grad():
        return float(module(image[None])[0].softmax(0)[label])


def unknown(teacher: nn.Module, students: Sequence[nn.Module], image: Tensor, label: int) -> float:
    """How much surer of an image's class the teacher is than students are on average."""
    return sureness(teacher, image, label) - sum(sureness(s, image, label) for s in students) / len(students)


def class_weights(unknown: Sequence[float], labels: Sequence[int], num_classes: int) -> list[float]:
    """Half of 1, and half of what there is to learn of a class, where positive, in parts of what classes have of it."""
    found = []
    for label in range(num_classes):
        own = [max(value, 0.0) for value, other in zip(unknown, labels, strict=True) if other == label]
        found.append(sum(own) / len(own))
    average = sum(found) / num_classes
    return [0.5 + 0.5 * value / average for value in found]


def rded(
    logits: Callable[[Tensor], Tensor],
    crops: Sequence[Sequence[Tensor]],
    label: int,
    count: int,
    factor: int,
    side: int,
    students: Sequence[nn.Module] = (),
) -> list[Tensor]:
    """RDED's images of one class from several crops of each candidate, all S / factor wide, by the paper's steps.

    With students a crop is the better, the more the teacher is surer of it than they are.
    """
    best = []
    for of_one in crops:
        scored = []
        for crop in of_one:
            canvas = torch.zeros(len(crop), side, side)
            at = (side - crop.shape[1]) // 2
            canvas[:, at : at + crop.shape[1], at : at + crop.shape[2]] = crop
            loss = -float(logits(canvas[None])[0].log_softmax(0)[label])
            scored.append((-unknown(logits, students, canvas, label) if students else loss, crop))
        best.append(min(scored, key=lambda pair: pair[0]))
    chosen = [crop for _, crop in sorted(best, key=lambda pair: pair[0])[: count * factor**2]]
    return [mosaic([chosen[q * count + k] for q in range(factor**2)], factor) for k in range(count)]
