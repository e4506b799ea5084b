"""Classes that a mirror leaves alone, and those that it exchanges."""

import pytest
import torch
from torch import Tensor

from raydd.pipeline.auto.mirror import KEEPS, Mirrored, look_in_mirror


def shapes(count: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
    """Two classes of noisy 16x16 images: bars at the top or at the bottom, or on the left or on the right."""
    draw = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(2 * count, 3, 16, 16, generator=draw)
    labels = torch.arange(2).repeat_interleave(count)
    if is_symmetric:
        images[:count, :, :4] += 1
        images[count:, :, -4:] += 1
    else:
        images[:count, :, :, :4] += 1
        images[count:, :, :, -4:] += 1
    return images, labels


def test_bars_at_top_and_bottom_may_be_mirrored() -> None:
    seen = look_in_mirror(*shapes(20, is_symmetric=True))
    assert seen == Mirrored(upright=1.0, mirrored=1.0, chance=0.5) and seen.keeps_classes


def test_left_and_right_may_not() -> None:
    seen = look_in_mirror(*shapes(20, is_symmetric=False))
    assert seen == Mirrored(upright=1.0, mirrored=0.0, chance=0.5) and not seen.keeps_classes


def test_an_image_is_not_its_own_neighbour() -> None:
    """Of two images a class, each other one decides; of one a class, always the wrong one."""
    images, labels = shapes(1, is_symmetric=True)
    assert look_in_mirror(images, labels).upright == 0.0


def test_brightness_and_contrast_tell_nothing() -> None:
    images, labels = shapes(10, is_symmetric=True)
    scale = torch.linspace(0.2, 3, len(images))[:, None, None, None]
    assert look_in_mirror(images * scale + scale, labels) == look_in_mirror(images, labels)


@pytest.mark.parametrize(
    ("upright", "mirrored", "keeps"),
    [
        (0.9, 0.9, True),
        (0.7, 0.5 + KEEPS * 0.2, True),
        (0.7, 0.49 + KEEPS * 0.2, False),
        (0.5, 0.5, False),
        (0.4, 0.4, False),
    ],
)
def test_nothing_is_mirrored_where_nothing_is_recognised(upright: float, mirrored: float, keeps: bool) -> None:
    assert Mirrored(upright=upright, mirrored=mirrored, chance=0.5).keeps_classes == keeps


def test_only_some_of_many_images_are_compared() -> None:
    images, labels = torch.rand(4001, 1, 16, 16), torch.arange(4001).remainder(2)
    rows = torch.arange(0, 4001, 3)
    assert look_in_mirror(images, labels) == look_in_mirror(images[rows], labels[rows])
