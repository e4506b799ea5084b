"""Multi-formation against the same pixel by pixel, its order, its derivatives, and sets that carry it."""

import json
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from raydd import api
from raydd.core.errors import ConfigError
from raydd.data import DataConfig
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.preprocessing import Identity, Standardise
from raydd.networks.config import NetworkConfig
from raydd.sets.formation import Formation, FormationMode, decode, grey
from raydd.sets.synthetic import SyntheticSet, by_class, union
from raydd.storage import Folder
from tests.reference import formation as by_hand
from tests.support.tiny import randn

PAD = [0.25, -0.5]
STANDARDISED = Standardise(torch.tensor([0.5, 0.4]).double(), torch.tensor([0.25, 0.2]).double())


def example(formation: Formation | None = None, stage: int = 0, soft: bool = False) -> SyntheticSet:
    """Four images of two classes, not class after class."""
    return SyntheticSet(
        images=randn(5 + stage, 4, 2, 5, 4, dtype=torch.float32),
        labels=torch.tensor([0, 1, 1, 0]),
        soft_labels=randn(8, 4, 2, dtype=torch.float32) if soft else None,
        stage=torch.full((4,), stage, dtype=torch.int32),
        learned_lr=(None,),
        class_names=("ant", "bee"),
        preprocessing=STANDARDISED,
        card={"recipe": {"epochs": 2}},
        formation=formation,
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 8), (3, 4)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_single_is_each_part_enlarged_pixel_by_pixel(size: tuple[int, int], factor: int) -> None:
    images = randn(1, 3, 2, *size)
    found, index = decode(images, factor, pad=torch.tensor(PAD))
    wanted, rows = by_hand.decoded(images, [[factor]] * 3, PAD)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert index.tolist() == rows == [number for number in range(3) for _ in range(factor**2)]


def test_multi_holds_all_smaller_factors() -> None:
    images = randn(1, 2, 2, 6, 5)
    found, index = decode(images, 3, "multi", pad=torch.tensor(PAD))
    wanted, rows = by_hand.decoded(images, [[1, 2, 3]] * 2, PAD)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert index.tolist() == rows and len(rows) == 2 * (1 + 4 + 9)
    assert torch.equal(found[0], images[0]) and torch.equal(found[14], images[1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 300))
def test_bound_keeps_its_limit(num_images: int, factor: int, limit: int) -> None:
    images = torch.arange(num_images).double().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found, index = decode(images, factor, "bound", limit)
    factors = by_hand.bound_factors(num_images, factor, limit)
    assert index.bincount(minlength=num_images).tolist() == [f * f for f in factors]
    assert len(found) <= max(limit, num_images)
    assert len(found) == Formation(factor=factor, mode="bound", limit=limit).num_decoded(num_images)
    assert torch.equal(index, index.sort().values)


def test_bound_decodes_each_image_by_its_own_factor() -> None:
    images = randn(1, 20, 1, 6, 6)
    found, index = decode(images, 3, "bound", 128)
    factors = by_hand.bound_factors(20, 3, 128)
    assert factors == [3] * 12 + [2] * 3 + [1] * 5
    wanted, rows = by_hand.decoded(images, [[f] for f in factors], [0.5])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert index.tolist() == rows


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_num_decoded(mode: FormationMode) -> None:
    assert Formation(factor=3, mode=mode).num_decoded(4) == len(decode(randn(1, 4, 1, 6, 6), 3, mode)[0])


def test_parts_agree_with_torch_in_single_precision() -> None:
    images = randn(2, 2, 3, 32, 32, dtype=torch.float32)
    found, _ = decode(images, 2)
    for number in range(2):
        for row in range(2):
            for column in range(2):
                cell = images[number : number + 1, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                wanted = F.interpolate(cell, size=(32, 32), mode="bilinear")[0]
                torch.testing.assert_close(found[4 * number + 2 * row + column], wanted, rtol=0, atol=2e-6)


def test_decoding_has_derivatives_of_both_orders() -> None:
    images = randn(3, 2, 1, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decode(x, 2, "multi")[0], images)
    assert torch.autograd.gradgradcheck(lambda x: decode(x, 2)[0] ** 2, images)


@pytest.mark.parametrize("preprocessing", [Identity(), STANDARDISED], ids=["none", "standardise"])
@pytest.mark.parametrize("factor", [2, 3])
def test_network_space_decodes_as_pixels_do(preprocessing: Identity | Standardise, factor: int) -> None:
    pixels = randn(4, 2, 2, 8, 8) / 4 + 0.5
    pad = grey(preprocessing, 2)
    found, _ = decode(preprocessing.forward(pixels), factor, pad=pad.double())
    wanted, _ = decode(pixels, factor)
    torch.testing.assert_close(preprocessing.inverse(found), wanted, rtol=0, atol=1e-6)


def test_whitened_images_have_no_parts() -> None:
    whitened = fit_zca((64 * randn(9, 50, 2, 5, 4) + 128).clamp(0, 255).to(torch.uint8))
    made = replace(example(Formation(factor=2)), preprocessing=whitened)
    with pytest.raises(ConfigError, match="preprocess"):
        made.decoded()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"factor": 0}, "factor"),
        ({"factor": 2, "mode": "bound"}, "limit"),
        ({"factor": 2, "limit": 9}, "limit"),
        ({"factor": 2, "mode": "bound", "limit": 0}, "limit"),
    ],
)
def test_what_cannot_be_decoded_is_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Formation(**values)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_set_without_formation_is_its_own_decoding() -> None:
    stored = example()
    assert stored.decoded() is stored


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_decoded_set_repeats_what_belongs_to_an_image(soft: bool) -> None:
    stored = union([example(Formation(factor=2), 0, soft), example(Formation(factor=2), 1, soft)])
    decoded = stored.decoded()
    wanted, rows = by_hand.decoded(stored.images.double(), [[2]] * 8, grey(STANDARDISED, 2).tolist())
    torch.testing.assert_close(decoded.images.double(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(decoded.labels, stored.labels[rows]) and torch.equal(decoded.stage, stored.stage[rows])
    assert torch.equal(decoded.targets, stored.targets[rows])
    assert decoded.formation is None and decoded.decoded() is decoded


def test_bound_counts_each_class_by_itself() -> None:
    decoded = example(Formation(factor=2, mode="bound", limit=6)).decoded()
    assert decoded.labels.tolist() == [0] * 4 + [1] * 4 + [1, 0]


def test_a_set_keeps_its_formation_where_it_is_stored(tmp_path: Path) -> None:
    written = example(Formation(factor=2, mode="bound", limit=7))
    written.save(Folder.at(tmp_path), "key")
    read = SyntheticSet.load(Folder.at(tmp_path))
    assert read.formation == written.formation and torch.equal(read.images, written.images)
    assert json.loads((tmp_path / "card.json").read_text())["formation"] == {"factor": 2, "mode": "bound", "limit": 7}
    assert "formation" not in read.card


def test_other_sets_say_nothing_of_formations(tmp_path: Path) -> None:
    example().save(Folder.at(tmp_path), "key")
    assert "formation" not in json.loads((tmp_path / "card.json").read_text())
    assert SyntheticSet.load(Folder.at(tmp_path)).formation is None


def test_joined_sets_keep_their_formation() -> None:
    parts = [example(Formation(factor=2)), example(Formation(factor=2), 1)]
    assert union(parts).formation == by_class(parts).formation == Formation(factor=2)


@pytest.mark.parametrize("join", [union, by_class])
@pytest.mark.parametrize("other", [None, Formation(factor=3)])
def test_sets_of_different_formations_are_not_joined(join: object, other: Formation | None) -> None:
    with pytest.raises(ConfigError, match="decoded in different ways"):
        join([example(Formation(factor=2)), example(other)])  # type: ignore[operator]


def test_a_loaded_dataset_is_what_one_trains_on(tmp_path: Path) -> None:
    stored = example(Formation(factor=2))
    stored.save(Folder.at(tmp_path), "key")
    dataset = api.load(tmp_path)
    decoded = stored.decoded()
    assert len(dataset) == 16 and len(dataset.synthetic) == 4
    for number in (0, 7, 15):
        image, label = dataset[number]
        assert torch.equal(image, decoded.images[number]) and label == decoded.labels[number]


def test_students_are_trained_on_what_is_decoded() -> None:
    stored = SyntheticSet(
        images=randn(1, 20, 1, 8, 8, dtype=torch.float32),
        labels=torch.arange(20) % 10,
        stage=torch.zeros(20, dtype=torch.int32),
        learned_lr=(None,),
        class_names=tuple(str(digit) for digit in range(10)),
        preprocessing=Identity(),
        card={"recipe": {"epochs": 3, "lr": 0.01, "batch_size": 16}},
        formation=Formation(factor=2),
    )
    network = NetworkConfig(width=4, depth=2)
    (record,) = api.evaluate(api.DistilledDataset(stored), DataConfig(source="digits"), network=network, num_students=1)
    assert (record.images_per_class, record.num_images, record.bytes_total) == (2, 80, 20 * 64 * 4)
    (same,) = api.evaluate(
        api.DistilledDataset(stored.decoded()), DataConfig(source="digits"), network=network, num_students=1
    )
    assert same.images_per_class == 8 and same.class_accuracy == record.class_accuracy
