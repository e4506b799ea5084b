"""CutMix of a whole batch: every image gets one box from another image of the batch, the same box for all.

Source: CutMix (Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899), as IDC trains with it
(https://arxiv.org/abs/2205.14959): lambda ~ Beta(1, 1) is uniform; the box has 1 - lambda of the area in the image's
ratio, lies about any pixel, and is cut off at the border; losses are weighted by the area that remains.

Letters: B batch, C H W.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.training.views import pasted_boxes


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed."""

    partners: Tensor
    """int64 [B]: a permutation, the place of the image that each one's box is from."""
    pasted: Tensor
    """bool [H, W]: the box."""
    kept: float
    """The part of every image that stays its own."""

    def paste(self, own_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """The first images with the box from the others."""
        return torch.where(self.pasted.to(own_BCHW.device), other_BCHW, own_BCHW)


def draw(key: Key, probability: float, size: int, height: int, width: int) -> Mix | None:
    """With this probability a mix of a batch of so many images, and else None."""
    mixed, share, row, column = keyed_random.uniform(key, torch.zeros(1, dtype=torch.int64), 4).double()[0].split(1)
    if mixed >= probability:
        return None
    pasted = pasted_boxes(share, row, column, height, width)[0]
    partners = keyed_random.permutation(key.child("partners"), size)
    return Mix(partners, pasted, 1 - float(pasted.double().mean()))
