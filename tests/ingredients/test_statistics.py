"""Statistics of the real data: moments against a restatement, pieces, merging, damage, keys."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.core.progress import NoProgress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.ingredients.base import Kitchen, make_here
from raydd.ingredients.measured_statistics import MeasuredStatistics
from raydd.ingredients.moments import Moments, block_moments, channel_moments, moments_of, summed
from raydd.ingredients.statistics import DataStatistics, Pieces, StatisticsWanted, joined, measured
from raydd.ingredients.teacher import Teacher
from raydd.storage import Folder, verify_below
from tests.reference import statistics as reference
from tests.support import taught

ALL = StatisticsWanted(block=4, features=True)


def images_of(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The pictures, of which the last class has only one left."""
    train = taught.data().train
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[(train.labels == 4).nonzero().squeeze(1)[1:]] = False
    return train.images[kept.nonzero().squeeze(1)].to(dtype), train.labels[kept]


def whole(images: Tensor, asked: StatisticsWanted = ALL) -> dict[str, Tensor]:
    return measured(taught.teacher(torch.float64).module, [images], asked)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


# Moments


@pytest.mark.parametrize("chunks", [[73], [1] * 73, [30, 43], [5, 60, 8]])
def test_streamed_moments_are_those_in_memory(chunks: list[int]) -> None:
    images, _ = images_of()
    network = taught.teacher(torch.float64).module
    found = measured(network, images.split(chunks), ALL)
    count = torch.tensor(len(images))
    for kind, name in ((nn.BatchNorm2d, "norm."), (nn.Conv2d, "conv.")):
        seen = reference.inputs_of(network, kind, images)
        assert {f"{name}{layer}" for layer in seen} == {one for one in found if one.startswith(name)}
        for layer, inputs in seen.items():
            moments = moments_of(found[f"{name}{layer}"], count)
            for value, wanted in zip(vars(moments).values(), reference.moments(inputs), strict=True):
                close(value, wanted)
            if name == "conv.":
                blocks = moments_of(found[f"blocks.{layer}"], count)
                for value, wanted in zip((blocks.mean, blocks.variance), reference.blocks(inputs, 4), strict=True):
                    close(value, wanted)
    with torch.no_grad():
        features = network.features(images)
        close(found["features"].double(), features.float().double(), 1e-6)
        close(found["logits"], network.head(features).square().sum().reshape(1))


def test_blocks_of_one_image_size_and_of_constants() -> None:
    x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, variance = block_moments(x, 6)
    close(mean[:, 0], x.mean((1, 2, 3)))
    close(variance[:, 0], x.var((1, 2, 3), correction=0))
    assert not block_moments(torch.ones_like(x), 4)[1].any()
    assert block_moments(x, 4).shape == (2, 5, 4) and block_moments(x, 16).shape == (2, 5, 1)


def test_variance_is_within_and_between_images() -> None:
    x = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    count = torch.tensor(6)
    apart = moments_of(summed(channel_moments(x)), count)
    assert (apart.variance > apart.within).all()
    level = x - x.mean((2, 3), keepdim=True) + 2
    alike = moments_of(summed(channel_moments(level)), count)
    close(alike.variance, alike.within, 1e-14)
    one = moments_of(summed(channel_moments(x[:1])), torch.tensor(1))
    close(one.variance, x[0].var((1, 2), correction=0), 1e-14)


def test_statistics_that_are_not_finite_stop_the_work() -> None:
    with pytest.raises(RunError, match="what the teacher sees is not finite"):
        measured(taught.teacher().module, [torch.full((1, *taught.SHAPE), torch.inf)], StatisticsWanted())


# The ingredient


class FixedTeacher:
    """An ingredient that is made: the teacher of these tests, in float64, or one that somebody has changed."""

    def __init__(self, key: str = "teacher") -> None:
        self._key = key

    def key(self) -> str:
        return self._key

    def open(self) -> Teacher:
        return taught.teacher(torch.float64)


def data_of(images: Tensor, labels: Tensor) -> PreparedData:
    return replace(taught.data(), train=LabelledImages(images, labels))


def ingredient(
    folder: Path, asked: StatisticsWanted = ALL, key: str = "teacher", data: PreparedData | None = None
) -> MeasuredStatistics:
    real = data or data_of(*images_of())
    kitchen = SimpleNamespace(folder=Folder.at(folder), work=Folder.at(folder / "work"), data=real)
    return MeasuredStatistics(cast(Kitchen, kitchen), cast(Any, FixedTeacher(key)), asked)


def in_pieces_of(made: MeasuredStatistics, size: int) -> MeasuredStatistics:
    made.__dict__["parts"] = replace(made.parts, size=size)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "statistics").iterdir()}


def make_some(folder: Path, numbers: list[int]) -> None:
    torch.set_num_threads(1)
    own = in_pieces_of(ingredient(folder), 7)
    for number in numbers:
        own.make(number, NoProgress())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by one process, in pieces of seven images."""
    folder = tmp_path_factory.mktemp("alone")
    make_here(in_pieces_of(ingredient(folder), 7), NoProgress())
    return folder


@pytest.mark.parametrize("size", [1, 7, 2048])
def test_what_is_stored_is_what_was_seen(tmp_path: Path, size: int) -> None:
    images, labels = images_of()
    made = in_pieces_of(ingredient(tmp_path), size)
    make_here(made, NoProgress())
    assert made.is_made() and not (tmp_path / "work" / "statistics" / made.key()).exists()
    found, network = made.open(), taught.teacher(torch.float64).module
    assert found.card.counts == (18, 18, 18, 18, 1) and found.card.asked == ALL
    order = torch.tensor([3, 0, 4])
    by_class, together = found.of_classes(order), found.of_all()
    for layer, inputs in reference.inputs_of(network, nn.BatchNorm2d, images).items():
        for value, wanted in zip(vars(together[f"norm.{layer}"]).values(), reference.moments(inputs), strict=True):
            close(value, wanted)
        for place, label in enumerate(order.tolist()):
            wanted_of_class = reference.moments(inputs[labels == label])
            for value, wanted in zip(vars(by_class[f"norm.{layer}"]).values(), wanted_of_class, strict=True):
                close(value[place], wanted)
    with torch.no_grad():
        close(found.features(2), network.features(images[labels == 2]).float(), 1e-6)
        logits = network(images)
    assert found.card.logit_norm == pytest.approx(float(logits.square().sum(1).mean().sqrt()))
    assert {name: moments.mean.shape[0] for name, moments in together.items()} == found.card.layers


def test_classes_add_up_to_the_whole(alone: Path) -> None:
    found = DataStatistics.load(Folder.at(alone / "statistics"))
    count = torch.tensor(found.card.counts, dtype=torch.float64)[:, None]
    by_class, together = found.of_classes(torch.arange(5)), found.of_all()
    for name, one in together.items():
        own = by_class[name]
        mean = (count * own.mean).sum(0) / count.sum()
        close(mean, one.mean, 1e-13)
        spread = own.variance + (own.mean - one.mean).square()
        close((count * spread).sum(0) / count.sum(), one.variance, 1e-13)
        assert (one.variance >= one.within).all() and (own.variance >= own.within).all()


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_makes_the_same_bytes(alone: Path, tmp_path: Path, workers: int) -> None:
    made = in_pieces_of(ingredient(tmp_path), 7)
    pieces = list(made.pieces())
    assert len(pieces) == made.counted == 4 * 3 + 1
    context = multiprocessing.get_context("fork")
    shares = [pieces[rank::workers][::-1] for rank in range(workers)]
    running = [context.Process(target=make_some, args=(tmp_path, share)) for share in shares]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert not made.pieces()
    made.finish()
    assert files(tmp_path) == files(alone)


def test_damaged_and_foreign_pieces_are_made_again(alone: Path, tmp_path: Path) -> None:
    made = in_pieces_of(ingredient(tmp_path), 7)
    for piece in made.pieces():
        made.make(piece, NoProgress())
    parts = sorted((tmp_path / "work" / "statistics" / made.key()).iterdir())
    before = {part: part.stat().st_mtime_ns for part in parts}
    content = bytearray(parts[2].read_bytes())
    content[-1] ^= 1
    parts[2].write_bytes(content)
    parts[5].write_bytes(parts[6].read_bytes())
    parts[8].unlink()
    assert made.pieces() == [2, 5, 8] and made.num_missing() == 3
    make_here(made, NoProgress())
    assert files(tmp_path) == files(alone)
    assert {part for part in before if part.exists()} == set()


def test_what_is_altered_is_named(alone: Path, tmp_path: Path) -> None:
    make_here(ingredient(tmp_path), NoProgress())
    assert verify_below(Folder.at(tmp_path / "statistics"))
    file = tmp_path / "statistics" / "class-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"class-00000\.safetensors"):
        ingredient(tmp_path).verify(is_read=True)
    with pytest.raises(ArtefactError, match=r"class-00000\.safetensors"):
        ingredient(tmp_path).open().of_classes(torch.tensor([0]))


def test_the_key_is_of_teacher_images_and_what_is_asked(tmp_path: Path) -> None:
    other = replace(data_of(*images_of()), fingerprint="1" * 64)
    keys = {
        ingredient(tmp_path).key(),
        ingredient(tmp_path, key="another").key(),
        ingredient(tmp_path, data=other).key(),
        ingredient(tmp_path, asked=StatisticsWanted()).key(),
        ingredient(tmp_path, asked=StatisticsWanted(block=8, features=True)).key(),
    }
    assert len(keys) == 5


def test_only_what_is_asked_is_measured() -> None:
    images, _ = images_of()
    found = whole(images[:3], StatisticsWanted())
    assert all(name.startswith("norm.") or name == "logits" for name in found)
    assert whole(images[:3], StatisticsWanted(norms=False)).keys() == {"logits"}


def test_parts_are_joined_in_order() -> None:
    images, _ = images_of()
    parts = joined([whole(images[:20]), whole(images[20:])])
    for name, wanted in whole(images).items():
        close(parts[name], wanted)


def test_a_class_without_images_and_blocks_without_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^data: class 'dog' has no training image"):
        Pieces(Folder.at(tmp_path), torch.tensor([0, 1, 2, 2]), ("ant", "bee", "cat", "dog"))
    with pytest.raises(ConfigError, match=r"^method.block: must be at least 1"):
        StatisticsWanted(block=0)


def test_moments_are_of_any_number_of_sets() -> None:
    sums = torch.stack([torch.tensor([[2.0], [10.0], [3.0]]), torch.tensor([[1.0], [1.0], [0.5]])]).double()
    found: Moments = moments_of(sums, torch.tensor([2, 1]))
    assert found.mean.tolist() == [[1.0], [1.0]]
    assert found.variance.tolist() == [[1.5 + 5 - 1], [0.5]]
    assert found.within.tolist() == [[1.5], [0.5]]
