"""CutMix of a batch, pixel by pixel (Yun et al. 2019, in the form that IDC's published training has, 2205.14959)."""

import torch
from torch import Tensor


def box(share: float, row: float, column: float, height: int, width: int) -> tuple[range, range]:
    """Rows and columns of a box of 1 - share of the area about a pixel, from three numbers in [0, 1)."""
    part = (1 - share) ** 0.5
    sides = []
    for side, place in ((height, row), (width, column)):
        half = int(side * part) // 2
        centre = int(side * place)
        sides.append(range(max(centre - half, 0), min(centre + half, side)))
    return sides[0], sides[1]


def mixed(images_BCHW: Tensor, partners: list[int], rows: range, columns: range) -> tuple[Tensor, float]:
    """Every image with the box of its partner, and the part of it that is left."""
    out = images_BCHW.clone()
    for number, partner in enumerate(partners):
        for i in rows:
            for j in columns:
                out[number, :, i, j] = images_BCHW[partner, :, i, j]
    height, width = images_BCHW.shape[2:]
    return out, 1 - len(rows) * len(columns) / (height * width)


def loss(logits_BK: Tensor, own: Tensor, other: Tensor, kept: float) -> Tensor:
    """Mean cross entropy against both targets, classes [B] or distributions [B, K]."""
    total = torch.zeros((), dtype=logits_BK.dtype)
    for sample, logits in enumerate(logits_BK):
        minus_log = logits.exp().sum().log() - logits
        for targets, weight in ((own, kept), (other, 1 - kept)):
            label = targets[sample]
            total = total + weight * ((label * minus_log).sum() if label.ndim else minus_log[int(label)])
    return total / len(logits_BK)
