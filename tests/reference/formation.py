"""IDC's multi-formation, pixel by pixel (Kim et al., ICML 2022, https://arxiv.org/abs/2205.14959)."""

import math

import torch
from torch import Tensor


def part(image_CHW: Tensor, factor: int, row: int, column: int, pad: list[float]) -> Tensor:
    """One cell of the mosaic, enlarged to the size of the whole image [C, H, W]."""
    channels, height, width = image_CHW.shape
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)

    def stored(channel: int, y: int, x: int) -> Tensor:
        y, x = row * tall + y, column * wide + x
        return image_CHW[channel, y, x] if y < height and x < width else torch.tensor(pad[channel]).double()

    def along(position: int, small: int, large: int) -> tuple[int, int, float]:
        """The two neighbours of an enlarged pixel's centre, and how far it is from the first."""
        at = max(0.0, (position + 0.5) * small / large - 0.5)
        low = min(int(at), small - 1)
        return low, min(low + 1, small - 1), at - low

    out = torch.empty(channels, height, width, dtype=torch.float64)
    for channel in range(channels):
        for y in range(height):
            top, bottom, down = along(y, tall, height)
            for x in range(width):
                left, right, over = along(x, wide, width)
                upper = (1 - over) * stored(channel, top, left) + over * stored(channel, top, right)
                lower = (1 - over) * stored(channel, bottom, left) + over * stored(channel, bottom, right)
                out[channel, y, x] = (1 - down) * upper + down * lower
    return out


def decoded(images_MCHW: Tensor, factors: list[list[int]], pad: list[float]) -> tuple[Tensor, list[int]]:
    """The parts of every image by each of its own factors, and the image that each is from."""
    parts, index = [], []
    for number, image in enumerate(images_MCHW):
        for factor in factors[number]:
            for row in range(factor):
                for column in range(factor):
                    parts.append(part(image, factor, row, column, pad))
                    index.append(number)
    return torch.stack(parts), index


def bound_factors(num_images: int, factor: int, limit: int) -> list[int]:
    """Every image's factor where a class may have so many decoded ones: the largest while all later ones have room."""
    factors: list[int] = []
    for f in range(factor, 1, -1):
        left = num_images - len(factors)
        spare = limit - sum(chosen**2 for chosen in factors) - left
        taken = 0
        while taken < left and spare >= f**2:
            taken, spare = taken + 1, spare - f**2
        factors += [f] * taken
    return factors + [1] * (num_images - len(factors))
