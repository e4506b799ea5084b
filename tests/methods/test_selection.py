"""Which real images synthetic ones start from, and mosaics; RDED against a restatement."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, resized_crop

from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.methods import DELTConfig, RDEDConfig, SRe2LConfig, Start
from raydd.methods.decoupled.family import GroupMethod
from raydd.methods.decoupled.rded import ChosenCrops, padded, square_boxes
from raydd.methods.decoupled.rows import Rows
from raydd.methods.decoupled.selection import initial_images, random_rows
from raydd.sets.synthetic import SyntheticSet
from tests.reference import recover as reference
from tests.support import taught

KEY = Key.root(7)
DELT = DELTConfig(images_per_class=3)
RDED = RDEDConfig(images_per_class=3, candidates=12, crops=3, min_crop_scale=0.2)
TRAIN = taught.data().train


def images_of(config: Any, label: int, key: Key = KEY) -> Tensor:
    """Where the images of a class start, by rank."""
    ranks = torch.arange(config.images_per_class)
    rows = Rows(ranks, torch.full_like(ranks, label), ranks, ranks)
    return initial_images(config, taught.task(), rows, key)


@pytest.mark.parametrize("init", ["medium", "easy", "hard"])
def test_ranked_images_come_in_their_order(init: str) -> None:
    for label in range(5):
        rows = taught.ranking().order(label, init, KEY)[:3]
        assert torch.equal(images_of(replace(DELT, init=init), label), TRAIN.images[rows])


def test_random_images_are_of_their_class_and_drawn_once() -> None:
    rows = random_rows(taught.data(), 2, 18, KEY, "field")
    assert sorted(rows.tolist()) == (TRAIN.labels == 2).nonzero().flatten().tolist()
    assert rows.tolist() != sorted(rows.tolist())
    assert torch.equal(random_rows(taught.data(), 2, 5, KEY, "field"), rows[:5])
    assert not torch.equal(random_rows(taught.data(), 2, 18, Key.root(8), "field"), rows)
    with pytest.raises(ConfigError, match="^field: takes 19 real images of a class, but 'cat' has only 18"):
        random_rows(taught.data(), 2, 19, KEY, "field")
    config = replace(DELT, init="random")
    assert torch.equal(images_of(config, 2), TRAIN.images[random_rows(taught.data(), 2, 3, KEY.child("real"), "")])


def test_noise_depends_on_class_and_rank_alone() -> None:
    config = SRe2LConfig(images_per_class=40)
    noise = torch.stack([images_of(config, label) for label in range(5)])
    assert len(noise.flatten(0, 1).flatten(1).unique(dim=0)) == 200
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    rows = Rows(*(torch.tensor(values) for values in ([0, 0], [3, 1], [7, 0], [0, 0])))
    few = initial_images(replace(config, images_per_class=9), taught.task(), rows, KEY)
    assert torch.equal(few, torch.stack([noise[3, 7], noise[1, 0]]))


def test_mosaics_show_ranked_images_in_a_grid() -> None:
    found = images_of(replace(DELT, mosaic=2), 4)
    best = TRAIN.images[taught.ranking().order(4, "medium", KEY)[:12]]
    small = resize(best, [4, 4], antialias=True)
    for rank, image in enumerate(found):
        assert torch.allclose(image, reference.mosaic([small[q * 3 + rank] for q in range(4)], 2), atol=1e-5)


# RDED


def chosen(config: RDEDConfig, *groups: int, key: Key = KEY) -> ChosenCrops:
    method = config.build(taught.task(*groups), Start(), key)
    assert isinstance(method, ChosenCrops)
    assert isinstance(method, GroupMethod)
    return method


@pytest.mark.parametrize("factor", [1, 2])
def test_rded_is_the_paper_step_by_step(factor: int) -> None:
    found = chosen(replace(RDED, factor=factor), 3, 1).results()
    for label, part in zip((3, 1), found, strict=True):
        rows = random_rows(taught.data(), label, 12, KEY.child("candidates"), "").tolist()
        crops = []
        for row in rows:
            boxes = square_boxes(KEY.child("crops"), 3 * row + torch.arange(3), 8, 8, 0.2).tolist()
            size = [8 // factor] * 2
            crops.append([resized_crop(TRAIN.images[row], t, left, s, s, size, antialias=True) for t, left, s in boxes])
        wanted = reference.rded(taught.teacher().module, crops, label, 3, factor, 8)
        assert torch.equal(part.pixels(), pixels(torch.stack(wanted)))
        assert part.labels.tolist() == [label] * 3


def pixels(images: Tensor) -> Tensor:
    return taught.data().preprocessing.inverse(images).mul(255).round().clamp(0, 255).to(torch.uint8)


def test_rded_is_finished_at_once() -> None:
    method = chosen(RDED)
    whole = method.result()
    assert RDED.iterations == method.iteration == RDED.image_iterations(5) == RDED.uniform_iterations(5) == 0
    assert (method.units, RDED.num_groups(5)) == (5, 5)
    assert whole.labels.tolist() == [label for label in range(5) for _ in range(3)]
    assert whole.is_exact
    assert method.revised() is None
    assert whole.card == {"image_iterations": 0, "uniform_iterations": 0, "saving": 0.0}
    assert torch.equal(torch.cat([part.images for part in method.results()]), whole.images)
    with pytest.raises(RunError, match="nothing is optimised"):
        method.step()
    other: SyntheticSet = chosen(RDED, key=Key.root(8)).result()
    assert not torch.equal(other.images, whole.images)
    restored = chosen(RDED, key=Key.root(8))
    restored.load_state_dict(method.state_dict())
    assert torch.equal(restored.result().images, whole.images)


def test_rded_takes_all_candidates_where_there_are_few() -> None:
    assert torch.equal(
        chosen(replace(RDED, candidates=300), 0).result().images,
        chosen(replace(RDED, candidates=18), 0).result().images,
    )


def test_square_boxes_are_inside_and_of_the_asked_area() -> None:
    top, left, side = square_boxes(KEY, torch.arange(4000), 32, 32, 0.25).T
    assert side.min() == 16
    assert side.max() == 32
    assert float((side**2).double().mean() / 1024) == pytest.approx(0.625, abs=0.01)
    for corner in (top, left):
        assert corner.min() == 0
        assert (corner + side).max() == 32
        assert float((corner / (32 - side).clamp(min=1))[side < 32].mean()) == pytest.approx(0.5, abs=0.02)
    _, _, side = square_boxes(KEY, torch.arange(1000), 16, 64, 0.08).T
    assert side.max() == 16


def test_crops_are_padded_on_all_sides() -> None:
    found = padded(torch.ones(2, 1, 3, 4), 8, 8)
    assert found.shape == (2, 1, 8, 8)
    assert found.sum() == 24
    assert found[:, :, 2:5, 2:6].all()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("images_per_class", {"images_per_class": 0}),
        ("candidates", {"candidates": 0}),
        ("crops", {"crops": 0}),
        ("factor", {"factor": 0}),
        ("min_crop_scale", {"min_crop_scale": 2.0}),
    ],
)
def test_rded_refuses_what_cannot_run(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^method.{field}: "):
        replace(RDED, **change)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("candidates", {"candidates": 2}),
        ("candidates", {"images_per_class": 5, "factor": 2}),
        ("factor", {"factor": 3}),
    ],
)
def test_rded_refuses_what_the_data_cannot_give(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^method.{field}: "):
        chosen(replace(RDED, **change))
