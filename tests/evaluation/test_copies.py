"""Copy check: nearest neighbours against brute force, and copies that are planted, as they are or moved."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.progress import NoProgress
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.images import Resident
from raydd.evaluation.probes.copies import CopiesConfig, moved, nearest
from raydd.evaluation.probes.probe import Question
from tests.support.observed import TRIAL, Observed, answered, answers, digits, observer, real_set

COPIES = CopiesConfig()
MAP = digits().preprocessing


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def brute_force(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = np.sqrt(((points[:, None].astype(np.float64) - others[None]) ** 2).sum(-1))
    return apart.min(1), apart.argmin(1)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 7), st.integers(1, 12), st.sampled_from([0.0, 100.0]))
@settings(max_examples=50, deadline=None)
def test_nearest_equals_brute_force(points: int, others: int, values: int, block: int, offset: float) -> None:
    x, y = offset + randn(1, points, values), offset + randn(2, others, values)
    distances, rows = nearest(x, y.split(block))
    wanted, places = brute_force(x.numpy(), y.numpy())
    np.testing.assert_allclose(distances, wanted, rtol=1e-9, atol=1e-12)
    assert rows.tolist() == places.tolist()


def test_equal_points_are_at_nought_though_others_are_as_good_as_equal() -> None:
    points = 1000 + randn(1, 40, 64)
    others = torch.cat([points + 1e-4, points.flip(0)])
    distances, rows = nearest(points, others.split(16))
    assert set(distances.tolist()) == {0} and rows.tolist() == [79 - i for i in range(40)]


def test_an_image_is_moved_in_ten_ways() -> None:
    image = torch.arange(30.0).view(1, 1, 5, 6)
    plain = image[0, 0].numpy()
    ways = [way[0, 0].numpy() for way in moved(image)]
    assert len(ways) == 10
    for found, source in ((ways[:5], plain), (ways[5:], plain[:, ::-1])):
        shifted = [np.roll(source, by, (0, 1))[1:-1, 1:-1] for by in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
        assert all(any(np.array_equal(way, own) for own in shifted) for way in found)
        assert len({way.tobytes() for way in found}) == 5


def pixels_of(view: Observed) -> np.ndarray:
    return MAP.inverse(view.images).double().numpy()


def test_distances_and_shares_equal_their_definitions() -> None:
    view = real_set(3)
    view = replace(view, images=view.images + 0.3 * randn(0, *view.images.shape))
    found = answers(replace(COPIES, quantile=0.1), view, "copies")
    train, test = digits().train.images[:], digits().test.images[:]

    def check(name: str, chosen: np.ndarray, others: np.ndarray, reference: np.ndarray) -> None:
        own, held = brute_force(chosen, others)[0], brute_force(reference, others)[0]
        threshold = np.quantile(held, 0.1)
        wanted = own.mean(), own.min(), held.mean(), (own <= threshold).mean()
        names = (f"{name}_distance", f"{name}_distance_min", f"{name}_reference", f"{name}_copies")
        assert [found[key] for key in names] == pytest.approx(list(wanted), abs=1e-6)

    flat = [MAP.inverse(images).flatten(1).numpy() / 8 for images in (view.images, train, test)]
    check("pixel", *flat)
    with torch.no_grad():
        seen = [observer().features(images).double().numpy() for images in (view.images, train, test)]
    check("feature", *(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in seen))


def test_training_images_are_copies_and_test_images_are_not() -> None:
    stored = real_set(5)
    found = answers(COPIES, stored, "copies")
    unseen = answers(COPIES, replace(stored, images=digits().test.images[:50]), "copies")
    for name in ("pixel", "feature", "moved"):
        assert found[f"{name}_copies"] == 1 and found[f"{name}_distance"] < 1e-6
        assert unseen[f"{name}_copies"] <= 0.06 and unseen[f"{name}_distance_min"] > 1e-3
        assert found[f"{name}_reference"] == unseen[f"{name}_reference"] > 0.05
    half = torch.cat([stored.images[::2], randn(0, 25, 1, 8, 8)])
    mixed = answers(COPIES, replace(stored, images=half), "copies")
    assert [mixed[f"{name}_copies"] for name in ("pixel", "feature", "moved")] == [0.5, 0.5, 0.5]


def shifted(pixels: Tensor) -> Tensor:
    """One to the right; what comes in is white."""
    return torch.cat([torch.ones_like(pixels[..., :1]), pixels[..., :-1]], 3)


@pytest.mark.parametrize(
    ("way", "caught_by", "missed_by"),
    [
        (lambda pixels: pixels.flip(3), "moved", "pixel"),
        (shifted, "moved", "pixel"),
        (lambda pixels: shifted(pixels.flip(3)), "moved", "feature"),
        (lambda pixels: 0.8 * pixels + 0.1, "feature", "pixel"),
        (lambda pixels: pixels + 0.05 * randn(0, *pixels.shape), "pixel", None),
    ],
)
def test_copies_in_disguise_are_caught(way, caught_by: str, missed_by: str | None) -> None:
    stored = real_set(5)
    found = answers(COPIES, replace(stored, images=MAP.forward(way(MAP.inverse(stored.images)))), "copies")
    assert found[f"{caught_by}_copies"] > 0.95
    assert missed_by is None or found[f"{missed_by}_copies"] < 0.1


def test_the_map_that_networks_see_through_does_not_matter() -> None:
    stored, real = real_set(2), digits()
    zca = fit_zca((MAP.inverse(real.train.images[:]) * 255).round().byte())

    def whitened(images: Tensor) -> Tensor:
        return zca.forward(MAP.inverse(images))

    splits = {
        name: replace_images(getattr(real, name), Resident(whitened(getattr(real, name).images[:])))
        for name in ("train", "test")
    }
    view = replace(stored, images=whitened(stored.images), data=replace(real, preprocessing=zca, **splits))
    found, plain = answers(COPIES, view, "copies"), answers(COPIES, stored, "copies")
    assert found["pixel_copies"] == found["moved_copies"] == 1 and found["pixel_distance"] < 1e-5
    assert found["pixel_reference"] == pytest.approx(plain["pixel_reference"], rel=1e-4)


def replace_images(split, images: Resident):
    return type(split)(images, split.labels)


def test_the_picture_shows_the_nearest_first_above_what_they_are_copies_of() -> None:
    stored = real_set(1)
    images = torch.cat([randn(0, 4, 1, 8, 8), stored.images[:3]])
    picture = answered(replace(COPIES, shown=5), replace(stored, images=images), "copies").pictures["nearest"]
    shown = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))[::8, ::8]
    assert shown.shape == (2 * 9 + 1, 5 * 9 + 1)
    cells = [[shown[1 + 9 * i : 9 + 9 * i, 1 + 9 * j : 9 + 9 * j] for j in range(5)] for i in range(2)]
    wanted = (MAP.inverse(stored.images[:3]) * 255).round().byte().numpy()[:, 0]
    for j in range(3):
        assert np.array_equal(cells[0][j], wanted[j]) and np.array_equal(cells[1][j], wanted[j])
    assert not np.array_equal(cells[0][3], cells[1][3])


def test_at_most_so_many_images_are_looked_at_and_the_reference_is_shared() -> None:
    stored = real_set(4)
    half = replace(stored, images=torch.cat([stored.images[:20], randn(0, 20, 1, 8, 8)]))
    few = answers(replace(COPIES, images=12, reference_images=30), half, "copies")
    assert few["pixel_copies"] * 12 == pytest.approx(round(few["pixel_copies"] * 12))
    assert few["pixel_reference"] != answers(COPIES, half, "copies")["pixel_reference"]
    trials = [replace(TRIAL, subject=subject) for subject in ("synthetic", "init", "random", "full")]
    assert [question.trial.subject for question in COPIES.questions(trials)] == ["synthetic", "init", "random"]
    (reference,) = COPIES.preparations(trials)
    assert {name: len(own) for name, own in COPIES.prepare(reference, half, NoProgress()).items()} == {
        "pixel": 296,
        "feature": 296,
        "moved": 296,
    }
    assert isinstance(reference, Question) and reference.trial.subject == "full"


@pytest.mark.parametrize(
    ("name", "value"), [("images", 0), ("reference_images", 0), ("shown", 0), ("quantile", 1.0), ("quantile", -0.1)]
)
def test_what_cannot_be_measured_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluate\.copies\.{name}: must be at least"):
        CopiesConfig(**{name: value})


BOUNDED = """
import resource, torch
from raydd.evaluation.probes.copies import ComparedSpace, _scaled, moved
from raydd.data.images import Resident, as_images
from raydd.data.preprocessing import Identity
pixels = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
real, seen = Resident(pixels, Identity()), as_images(pixels[-20:].float() / 255)
space = ComparedSpace(lambda b: torch.stack([_scaled(w) for w in moved(b)]), lambda b: _scaled(b[:, :, 1:-1, 1:-1]))
space.nearest(seen, Resident(pixels[:2048], Identity()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
distances, rows = space.nearest(seen, real)
assert rows.tolist() == list(range(49_980, 50_000)) and distances.max() == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_training_images() -> None:
    grown = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 150_000, "kB; as float32 the images take 600 MB"
