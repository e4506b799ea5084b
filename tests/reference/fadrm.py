"""FADRM written down naively: segments of SRe2L's loop with an Adam each, and data residuals between them.

Source: the method's equations (arXiv 2506.24125). Nothing of the product is imported; draws are given.

Letters: M synthetic images, C H W.
"""

from collections.abc import Callable, Sequence
from math import cos, floor, pi

import torch
from torch import Tensor, nn

from tests.reference.recover import Draw, augment, moment_loss


def bilinear(image: Tensor, side: int) -> Tensor:
    """One square image [C, S, S] at another size: every pixel by the four around its centre."""
    old = image.shape[1]
    if old == side:
        return image.clone()
    found = torch.zeros(image.shape[0], side, side, dtype=image.dtype)
    for i in range(side):
        for j in range(side):
            y, x = (max((k + 0.5) * old / side - 0.5, 0.0) for k in (i, j))
            top, left = floor(y), floor(x)
            for row, by_row in ((top, 1 - (y - top)), (min(top + 1, old - 1), y - top)):
                for column, by_column in ((left, 1 - (x - left)), (min(left + 1, old - 1), x - left)):
                    found[:, i, j] += by_row * by_column * image[:, row, column]
    return found


def fadrm(
    module: nn.Module,
    origins: Sequence[Tensor],
    labels: Sequence[int],
    draws: Callable[[int, int], Draw],
    *,
    sides: Sequence[int],
    length: int,
    alpha: float,
    lr: float,
    bn_weight: float,
    first_weight: float,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """The images after all segments, [M, C, H, W]; `draws` is told the iteration and the side of the images then."""
    images = [bilinear(origin, sides[0]) for origin in origins]
    total = length * len(sides)
    for segment, side in enumerate(sides):
        if segment:
            pairs = zip(images, origins, strict=True)
            images = [alpha * bilinear(x, side) + (1 - alpha) * bilinear(o, side) for x, o in pairs]
        batch = torch.stack(images).requires_grad_()
        optimizer = torch.optim.Adam([batch], lr=lr, betas=(0.5, 0.9), eps=1e-8)
        for t in range(segment * length, (segment + 1) * length):
            optimizer.param_groups[0]["lr"] = 0.5 * lr * (1 + cos(pi * t / total))
            optimizer.zero_grad()
            logits, moments = moment_loss(module, augment(batch, draws(t, side)), first_weight)
            ce = -sum(row.log_softmax(0)[label] for row, label in zip(logits, labels, strict=True)) / len(labels)
            (ce + bn_weight * moments).backward()
            optimizer.step()
            with torch.no_grad():
                batch.copy_(batch.maximum(low).minimum(high))
        images = list(batch.detach())
    return torch.stack(images)
