"""Corruptions against scipy, Pillow, colorsys and plain loops, with the published constants written out once more."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from raydd.core.keyed_random import Key, uniform
from raydd.evaluation.probes.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupted

KEY = Key.root(0)
IDS = torch.tensor([5, 2, 9])


def pictures(channels: int = 3, side: int = 32, count: int = 3) -> Tensor:
    """Smooth pictures of all bytes, with black and white places."""
    draw = np.random.default_rng(0).random((count, channels, side, side))
    smooth = ndimage.gaussian_filter(draw, (0, 0, 2, 2), mode="wrap")
    spread = (smooth - smooth.mean((2, 3), keepdims=True)) / smooth.std((2, 3), keepdims=True)
    return torch.from_numpy((127.5 + 90 * spread).clip(0, 255).astype(np.uint8))


def made(kind: Corruption, severity: int, pixels: Tensor, ids: Tensor = IDS) -> np.ndarray:
    out = corrupted(kind, pixels, severity, KEY, ids)
    assert out.dtype == torch.uint8 and out.shape == pixels.shape
    return out.numpy()


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Bytes against values in 0..1, which are cut off to bytes."""
    assert np.array_equal(found, np.floor(wanted.clip(0, 1) * 255 + 1e-6))


def drawn(kind: Corruption, count: int) -> np.ndarray:
    return uniform(KEY.child(kind), IDS, count).double().numpy()


@pytest.mark.parametrize(("severity", "deviation"), list(enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1)))
def test_gaussian_noise_is_normal(severity: int, deviation: float) -> None:
    grey = torch.full((40, 1, 32, 32), 128, dtype=torch.uint8)
    noise = (made("gaussian_noise", severity, grey, torch.arange(40)) + 0.5 - 128) / 255  # in the middle of its byte
    assert abs(noise.mean()) < 5 * deviation / noise.size**0.5
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert abs(stats.kurtosis(noise.ravel())) < 0.15


@pytest.mark.parametrize(("severity", "photons"), list(enumerate((500, 250, 100, 75, 50), 1)))
def test_shot_noise_inverts_the_poisson_distribution(severity: int, photons: int) -> None:
    pixels = pictures()
    u = drawn("shot_noise", 3 * 32 * 32).reshape(pixels.shape)
    counts = stats.poisson.ppf(u, pixels.numpy() / 255 * photons).clip(0)
    assert (pixels == 0).any() and (pixels == 255).any()
    assert_same(made("shot_noise", severity, pixels), counts / photons)


@pytest.mark.parametrize(("severity", "part"), list(enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1)))
def test_impulses_are_black_and_white_in_equal_parts(severity: int, part: float) -> None:
    grey = torch.full((20, 3, 32, 32), 77, dtype=torch.uint8)
    found = made("impulse_noise", severity, grey, torch.arange(20))
    error = 5 * (part / 2 / found.size) ** 0.5
    assert abs((found == 0).mean() - part / 2) < error and abs((found == 255).mean() - part / 2) < error
    assert set(np.unique(found)) == {0, 77, 255}
    apart = (found != 77).mean((2, 3))
    assert len(np.unique(apart)) > 3, "channels and images have impulses of their own"


@pytest.mark.parametrize(
    ("severity", "radius", "soft"),
    [(1, 0.3, 0.4), (2, 0.4, 0.5), (3, 0.5, 0.6), (4, 1, 0.2), (5, 1.5, 0.1)],
)
@pytest.mark.parametrize("side", [8, 32, 64])
def test_defocus_is_a_soft_disc(severity: int, radius: float, soft: float, side: int) -> None:
    if side == 64:
        radius *= 2
    down, right = np.mgrid[-8:9, -8:9]
    disc = (down**2 + right**2 <= radius**2).astype(float)
    line = np.exp(-np.array([1, 0, 1]) / (2 * soft**2))
    kernel = ndimage.convolve(disc / disc.sum(), np.outer(line, line) / line.sum() ** 2, mode="constant")
    pixels = pictures(side=side)
    wanted = [
        [ndimage.correlate(channel, kernel, mode="mirror") for channel in image] for image in pixels.numpy() / 255
    ]
    assert_same(made("defocus_blur", severity, pixels), np.array(wanted))


@pytest.mark.parametrize(
    ("severity", "length", "deviation"), [(1, 6, 1), (2, 6, 1.5), (3, 6, 2), (4, 8, 2), (5, 9, 2.5)]
)
@pytest.mark.parametrize("side", [8, 40])
def test_motion_is_a_walk_along_a_line(severity: int, length: float, deviation: float, side: int) -> None:
    growth = max(1, side / 32)
    pixels, places = pictures(side=side), range(2 * math.ceil(length * growth) + 1)
    weights = [math.exp(-((i / (deviation * growth)) ** 2) / 2) for i in places]
    found, image = made("motion_blur", severity, pixels), pixels.numpy() / 255
    angles = np.radians(-45 + 90 * drawn("motion_blur", 1)[:, 0])
    assert angles.std() > 0.1
    wanted = np.zeros(image.shape)
    for b, angle in enumerate(angles):
        for row in range(0, side, 5):
            for column in range(side):
                for i, weight in zip(places, weights, strict=True):
                    below = min(max(row + math.ceil(i * math.sin(angle) - 0.5), 0), side - 1)
                    beside = min(max(column + math.ceil(i * math.cos(angle) - 0.5), 0), side - 1)
                    wanted[b, :, row, column] += weight / sum(weights) * image[b, :, below, beside]
    assert_same(found[:, :, ::5], wanted[:, :, ::5])


@pytest.mark.parametrize(("severity", "past"), list(enumerate((1.06, 1.11, 1.16, 1.21, 1.26), 1)))
@pytest.mark.parametrize("side", [8, 32])
def test_zoom_is_a_mean_of_enlargements(severity: int, past: float, side: int) -> None:
    pixels = pictures(side=side)
    image = pixels.numpy() / 255
    factors = np.arange(1, past, 0.01)
    total = image.copy()
    for factor in factors:
        inner = math.ceil(side / factor)
        top = (side - inner) // 2
        cut = image[..., top : top + inner, top : top + inner]
        large = ndimage.zoom(cut, (1, 1, factor, factor), order=1)
        trim = (large.shape[-1] - side) // 2
        total += large[..., trim : trim + side, trim : trim + side]
    assert_same(made("zoom_blur", severity, pixels), total / (len(factors) + 1))


def fractal(draws: np.ndarray, side: int, decay: float) -> np.ndarray:
    """Diamond-square on a torus, cell by cell, with draws in -1..1 taken in turn."""
    left, heights, wibble, step = iter(draws), np.zeros((side, side)), 100.0, side
    while step >= 2:
        half, cells = step // 2, range(0, side, step)
        for shift, near in (
            ((half, half), ((-half, -half), (-half, half), (half, -half), (half, half))),
            ((0, half), ((-half, 0), (half, 0), (0, -half), (0, half))),
            ((half, 0), ((-half, 0), (half, 0), (0, -half), (0, half))),
        ):
            new = {}
            for i in cells:
                for j in cells:
                    row, column = i + shift[0], j + shift[1]
                    around = [heights[(row + a) % side, (column + b) % side] for a, b in near]
                    new[row, column] = sum(around) / 4 + wibble * wibble * next(left)
            for place, height in new.items():
                heights[place] = height
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize(
    ("severity", "density", "decay"), [(1, 0.2, 3), (2, 0.5, 3), (3, 0.75, 2.5), (4, 1, 2), (5, 1.5, 1.75)]
)
@pytest.mark.parametrize("side", [8, 20])
def test_fog_is_a_fractal(severity: int, density: float, decay: float, side: int) -> None:
    pixels, size = pictures(side=side) // 2, 8 if side == 8 else 32
    wanted = []
    for image, draws in zip(pixels.numpy() / 255, drawn("fog", size**2), strict=True):
        fog = fractal(2 * draws - 1, size, decay)[:side, :side]
        wanted.append((image + density * fog) * image.max() / (image.max() + density))
    assert_same(made("fog", severity, pixels), np.array(wanted))


@pytest.mark.parametrize(("severity", "more"), list(enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1)))
def test_brightness_is_the_value_of_hsv(severity: int, more: float) -> None:
    pixels = pictures(side=12)
    pixels[0, :, 0, 0] = 0
    wanted = np.empty(pixels.shape)
    for b, row, column in np.ndindex(3, 12, 12):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[b, :, row, column].numpy() / 255))
        wanted[b, :, row, column] = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
    assert_same(made("brightness", severity, pixels), wanted)
    grey = pictures(channels=1)
    assert_same(made("brightness", severity, grey), grey.numpy() / 255 + more)


@pytest.mark.parametrize(("severity", "rest"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1)))
def test_contrast_keeps_the_mean_of_channels(severity: int, rest: float) -> None:
    pixels = pictures()
    mean = pixels.numpy().mean((2, 3), keepdims=True) / 255
    assert_same(made("contrast", severity, pixels), mean + rest * (pixels.numpy() / 255 - mean))


@pytest.mark.parametrize(
    ("severity", "part", "quality"), [(1, 0.95, 80), (2, 0.9, 65), (3, 0.85, 58), (4, 0.75, 50), (5, 0.65, 40)]
)
def test_pixels_and_jpeg_are_pillows(severity: int, part: float, quality: int) -> None:
    pixels, grey = pictures(side=20), pictures(channels=2, side=20)

    def pixelated(image: Image.Image) -> Image.Image:
        return image.resize((int(20 * part),) * 2, Image.Resampling.BOX).resize((20, 20), Image.Resampling.BOX)

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue()))

    for kind, change in (("pixelate", pixelated), ("jpeg_compression", compressed)):
        found, of_greys = made(kind, severity, pixels), made(kind, severity, grey)
        for b in range(3):
            wanted = np.asarray(change(Image.fromarray(pixels[b].permute(1, 2, 0).numpy())))
            assert np.array_equal(found[b].transpose(1, 2, 0), wanted)
            for c in range(2):
                assert np.array_equal(of_greys[b, c], np.asarray(change(Image.fromarray(grey[b, c].numpy()))))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32), (1, 8)])
def test_an_image_is_corrupted_by_itself_and_the_more_the_severer(kind: Corruption, shape: tuple[int, int]) -> None:
    pixels = pictures(*shape)
    whole = [made(kind, severity, pixels) for severity in SEVERITIES]
    for found, severity in zip(whole, SEVERITIES, strict=True):
        alone = np.concatenate([made(kind, severity, pixels[b : b + 1], IDS[b : b + 1]) for b in (0, 1, 2)])
        assert_same(found, (alone + 0.5) / 255)
    distances = [np.square(found - pixels.numpy().astype(float)).mean() for found in whole]
    assert distances[0] < distances[-1]
