"""Crop, flip and circular shift of images, as a matrix for their rows and one for their columns.

So there are no scattered sums on the way back, which a GPU would do in any order.

Letters: B batch, C H W, S a side.
"""

import torch
from torch import Tensor


def resampling(side: int, start_B: Tensor, length_B: Tensor, mirrored_B: Tensor, shift_B: Tensor) -> Tensor:
    """The matrices [B, S, S], float64, that take one axis of images to that of their crop, enlarged to the old size.

    Bilinear, with pixel centres at half-integers, as torchvision's `resized_crop` has it; antialiasing would change
    nothing, as no crop is larger than the image. Then mirrored where asked, then shifted towards the end, circularly.

    Args:
        side: S.
        start_B: where the crop begins, in pixels.
        length_B: how long it is, 1 to S.
        mirrored_B: bool.
        shift_B: int64, in pixels.
    """
    pixels_S = torch.arange(side)
    source_BS = (pixels_S - shift_B[:, None]) % side
    source_BS = torch.where(mirrored_B[:, None], side - 1 - source_BS, source_BS)
    start_B1, length_B1 = start_B[:, None].double(), length_B[:, None].double()
    inside_BS = ((source_BS + 0.5) * length_B1 / side - 0.5).clamp(min=0).minimum(length_B1 - 1)
    return (1 - ((start_B1 + inside_BS)[:, :, None] - pixels_S).abs()).clamp(min=0)


def resampled(images_BCHW: Tensor, rows_BHH: Tensor, columns_BWW: Tensor) -> Tensor:
    """Images under their matrices: R X C^T, [B, C, H, W]."""
    images_BCHW = (images_BCHW.flatten(1, 2) @ columns_BWW.mT).view_as(images_BCHW)
    turned_BCWH = images_BCHW.mT.contiguous()
    return (turned_BCWH.flatten(1, 2) @ rows_BHH.mT).view_as(turned_BCWH).mT
