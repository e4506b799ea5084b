"""RandAugment: every operation against Pillow, and the distribution of what is drawn."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform
from torch import Tensor

from raydd.core.keyed_random import Key
from raydd.training.randaugment import COLOURS, MOVES, change, randaugment

KEY = Key.root(0)
FILL = (124, 116, 104)
STRENGTHS = [0.0, 0.1, 0.333, 0.5, 0.6, 0.85, 1.0]
Operation = Callable[[Image.Image, float], Image.Image]


def affine(coefficients: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    def moved(image: Image.Image, signed: float) -> Image.Image:
        data = coefficients(image, signed)
        return image.transform(image.size, Transform.AFFINE, data, Resampling.BILINEAR, fillcolor=fill(image))

    return moved


def fill(image: Image.Image) -> tuple[int, ...] | int:
    return FILL if image.mode == "RGB" else FILL[0]


def raise_shadows(image: Image.Image, strength: float) -> Image.Image:
    table = [min(255, value + int(strength * 110)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def posterize(image: Image.Image, strength: float) -> Image.Image:
    bits = int(4 * strength)
    return ImageOps.posterize(image, bits) if bits else image.point(lambda value: 0)  # Pillow once took 0, for black


PILLOW_COLOURS: list[Operation] = [
    lambda image, s: ImageOps.autocontrast(image),
    lambda image, s: ImageOps.equalize(image),
    lambda image, s: ImageOps.invert(image),
    posterize,
    lambda image, s: ImageOps.solarize(image, min(256, int(256 * s))),
    raise_shadows,
    lambda image, s: ImageEnhance.Color(image).enhance(1.8 * s + 0.1),
    lambda image, s: ImageEnhance.Contrast(image).enhance(1.8 * s + 0.1),
    lambda image, s: ImageEnhance.Brightness(image).enhance(1.8 * s + 0.1),
    lambda image, s: ImageEnhance.Sharpness(image).enhance(1.8 * s + 0.1),
]
PILLOW_MOVES: list[Operation] = [
    affine(lambda image, s: (1, 0.3 * s, 0, 0, 1, 0)),
    affine(lambda image, s: (1, 0, 0, 0.3 * s, 1, 0)),
    affine(lambda image, s: (1, 0, 0.45 * s * image.width, 0, 1, 0)),
    affine(lambda image, s: (1, 0, 0, 0, 1, 0.45 * s * image.height)),
    lambda image, s: image.rotate(30 * s, Resampling.BILINEAR, fillcolor=fill(image)),
]


def pictures(channels: int, height: int = 44, width: int = 36) -> Tensor:
    """Noise, a smooth picture of low contrast, one of large flat areas, a constant one: uint8 [4, C, H, W]."""
    generator = torch.Generator().manual_seed(1)
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    planes = torch.stack([90 + 40 * y + 30 * x, 60 + 80 * x * y + 0 * y, 150 - 50 * y + 20 * x])[:channels]
    flat = torch.where(torch.arange(width) < width // 3, 40.0, 200.0).expand(channels, height, width)
    noise = torch.randint(0, 256, (channels, height, width), generator=generator).float()
    return torch.stack([noise, planes, flat, torch.full_like(noise, 77)]).to(torch.uint8)


def by_pillow(pixels_CHW: Tensor, operation: Operation, strength: float) -> Tensor:
    array = pixels_CHW.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    result = np.asarray(operation(image, strength))
    return torch.from_numpy(result.reshape(array.shape).copy()).permute(2, 0, 1)


def changed(pixels: Tensor, operation: int, strength: float, sign: int = 1) -> Tensor:
    operations, signs = torch.full((len(pixels),), operation), torch.full((len(pixels),), float(sign))
    fill_C = torch.tensor(FILL[: pixels.shape[1]])
    return change(pixels, fill_C, operations, torch.full((len(pixels),), strength), signs)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", range(len(COLOURS)))
def test_a_colour_operation_is_pillows(operation: int, channels: int, strength: float) -> None:
    pixels = pictures(channels)
    expected = torch.stack([by_pillow(image, PILLOW_COLOURS[operation], strength) for image in pixels])
    found = changed(pixels, operation, strength)
    assert int((found.int() - expected.int()).abs().max()) <= 1
    exact = operation in (1, 2, 3, 4, 5)
    assert not exact or torch.equal(found, expected)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("operation", range(len(MOVES)))
def test_a_movement_is_pillows(operation: int, strength: float, sign: int) -> None:
    pixels = pictures(3)
    expected = torch.stack([by_pillow(image, PILLOW_MOVES[operation], sign * strength) for image in pixels])
    found = changed(pixels, len(COLOURS) + operation, strength, sign)
    assert int((found.int() - expected.int()).abs().max()) <= 1


def test_operations_are_equally_frequent_and_applied_half_of_the_time() -> None:
    size, strength = 6000, 0.7
    image = pictures(3)[:1] // 2 + 70  # which every operation changes
    outcomes = [image] + [changed(image, operation, strength) for operation in range(len(COLOURS))]
    for move in range(len(MOVES)):
        outcomes += [changed(image, len(COLOURS) + move, strength, sign) for sign in (-1, 1)]
    found = randaugment(
        image.expand(size, -1, -1, -1), torch.tensor(FILL), KEY, torch.arange(size), layers=1, magnitude=7, std=0
    )
    counts = torch.tensor([int((found == outcome).all((1, 2, 3)).sum()) for outcome in outcomes]).double()
    expected = size * torch.tensor([1 / 2] + [1 / 30] * len(COLOURS) + [1 / 60] * 2 * len(MOVES)).double()
    assert counts.sum() == size
    assert float(((counts - expected) ** 2 / expected).sum()) < 45.3  # 99.9 % of chi-square, 20 degrees of freedom


def test_strengths_are_normal_about_the_magnitude_and_cut_off_at_ten() -> None:
    size = 90_000
    image = torch.full((1, 8, 8), 20, dtype=torch.uint8)
    image[:, :, 4:] = 200
    found = randaugment(
        image.expand(size, 1, 8, 8), torch.tensor([9]), KEY, torch.arange(size), layers=1, magnitude=9, std=1
    )[:, 0]
    shadows = (found[:, :, :4] == found[:, :1, :1]).all((1, 2)) & (found[:, :, 4:] == 200).all((1, 2))
    strengths = (found[shadows, 0, 0].double() - 20) / 11
    strengths = strengths[strengths > 0]  # the operation that raises shadows by 11 a unit of strength
    assert len(strengths) == pytest.approx(3000, abs=220)
    assert float((strengths == 10).double().mean()) == pytest.approx(0.1587, abs=0.03)
    assert float(strengths.median()) == pytest.approx(9, abs=0.2)
    below = 9 - 1 / 22 - strengths[strengths < 9]  # 11 strengths are whole
    assert float(below.square().mean().sqrt()) == pytest.approx(1, abs=0.1)


def test_layers_follow_each_other_under_their_own_draws() -> None:
    pixels, ids = pictures(3).repeat(25, 1, 1, 1), torch.arange(100)

    def applied(layers: int, key: Key = KEY) -> Tensor:
        return randaugment(pixels, torch.tensor(FILL), key, ids, layers=layers, magnitude=7, std=1)

    def unchanged(found: Tensor) -> float:
        return float((found[:75] == pixels[:75]).all((1, 2, 3)).double().mean())

    assert torch.equal(applied(0), pixels)
    for layers in (1, 2, 4):
        assert unchanged(applied(layers)) == pytest.approx(0.5**layers, abs=3 * math.sqrt(0.25 / 75) + 0.06)
    assert not torch.equal(applied(2, KEY.child(1)), applied(2))


def test_an_image_fares_alike_in_any_batch() -> None:
    pixels, ids = pictures(3).repeat(10, 1, 1, 1), torch.arange(100, 140)
    kwargs = {"layers": 3, "magnitude": 6, "std": 1}
    whole = randaugment(pixels, torch.tensor(FILL), KEY, ids, **kwargs)
    for rows in [torch.tensor([7]), torch.arange(39, 20, -2)]:
        assert torch.equal(randaugment(pixels[rows], torch.tensor(FILL), KEY, ids[rows], **kwargs), whole[rows])
