"""Images that are decoded when they are needed: what they are, when they are decoded, and what is trained on them."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raydd.config import from_mapping
from raydd.core.errors import DataError
from raydd.core.keyed_random import permutation, seeded
from raydd.core.progress import NoProgress
from raydd.data import prepared
from raydd.data.images import Images, Resident, SelectedImages
from raydd.data.listing import Item
from raydd.data.prepared import prepare
from raydd.data.streamed_images import AHEAD, Streamed
from raydd.ingredients.base import make_here
from raydd.networks import build
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder
from raydd.training.loop import Training, predict
from raydd.training.recipe import Recipe
from tests.support.image_files import noise, write_folders
from tests.support.streamed_sets import KEY, SIZE, TEST, TRAIN, config_of, written

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("streamed") / "pictures")


def streamed(root: Path, **fields: Any) -> Streamed:
    images = prepare(config_of(root, **fields), KEY).train.images
    assert isinstance(images, Streamed)
    return images


def resident(root: Path, **fields: Any) -> Resident:
    images = prepare(config_of(root, "off", **fields), KEY).train.images
    assert isinstance(images, Resident)
    return images


def decoders() -> list[str]:
    """The threads that decode."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decoding")]


@pytest.mark.parametrize("preprocess", ["none", "standardise", "zca"])
def test_images_are_those_that_stay_in_memory(pictures: Path, preprocess: str) -> None:
    found, wanted = streamed(pictures, preprocess=preprocess), resident(pictures, preprocess=preprocess)
    assert len(found) == TRAIN and found.shape == wanted.shape == (TRAIN, 3, SIZE, SIZE)
    mask = torch.arange(TRAIN) % 5 == 1
    for rows in (slice(3, 17, 2), torch.tensor([9, 2, 9, -1]), mask, torch.empty(0, dtype=torch.int64), slice(0, 0)):
        one, other = found[rows], wanted[rows]
        assert one.dtype == torch.float32 and one.shape == other.shape
        assert torch.equal(one, other) or (preprocess == "zca" and (one - other).abs().max() < 1e-5)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, TRAIN - 1), max_size=9), max_size=9))
def test_batches_are_what_indexing_gives_in_order(pictures: Path, rows: list[list[int]]) -> None:
    asked = [torch.tensor(own, dtype=torch.int64) for own in rows]
    images, wanted = streamed_once(pictures)
    found = list(images.batches(asked))
    assert len(found) == len(asked)
    assert all(torch.equal(one, wanted[own]) for one, own in zip(found, asked, strict=True))
    assert not decoders()


_MADE: dict[Path, tuple[Streamed, Resident]] = {}


def streamed_once(root: Path) -> tuple[Streamed, Resident]:
    if root not in _MADE:
        _MADE[root] = streamed(root), resident(root)
    return _MADE[root]


def test_splitting_and_choosing(pictures: Path) -> None:
    found, wanted = streamed_once(pictures)
    assert torch.equal(torch.cat(list(found.split(10))), wanted[:])
    rows = permutation(KEY, TRAIN)[:20]
    assert torch.equal(torch.cat(list(SelectedImages(found.to(CPU), rows).split(7))), wanted[rows])


def counted(images: Streamed, seen: list[str], hold: threading.Event | None = None) -> Streamed:
    """The same, which write down every image that is opened, and may be made to wait."""
    listing = images.files.listing

    def items(rows: Tensor) -> Iterator[Item]:
        for item in listing.items(rows):
            yield Item(item.where, lambda item=item: opened(item))

    def opened(item: Item) -> Any:
        seen.append(item.where)
        if hold is not None:
            assert hold.wait(30)
        return item.open()

    return replace(images, files=replace(images.files, listing=replace(listing, items=items)))


def test_only_a_few_batches_are_decoded_ahead(pictures: Path) -> None:
    seen: list[str] = []
    images = counted(streamed(pictures), seen)
    batches = images.batches(torch.arange(TRAIN).split(3))
    assert not seen
    for taken in range(1, 4):
        next(batches)
        assert 3 * taken <= len(seen) <= 3 * (taken + AHEAD)


def test_who_stops_early_leaves_nothing_behind(pictures: Path) -> None:
    seen: list[str] = []
    batches = counted(streamed(pictures), seen).batches(torch.arange(TRAIN).split(3))
    next(batches)
    assert decoders()
    del batches
    assert not decoders()
    assert len(seen) <= 3 * (1 + AHEAD)


def test_batches_that_nobody_asks_for_start_nothing(pictures: Path) -> None:
    batches = streamed(pictures).batches(torch.arange(TRAIN).split(3))
    assert not decoders()
    del batches


def test_errors_come_when_their_batch_is_due(tmp_path: Path) -> None:
    root = written(tmp_path / "pictures")
    images = streamed(root)
    write_folders(root, {"train/class0/36.png": b"rubbish"})
    row = images.files.paths().index("train/class0/36.png")
    batches = images.batches(torch.arange(TRAIN).split(4))
    for _ in range(row // 4):
        next(batches)
    with pytest.raises(DataError, match=r"cannot decode 1 image.*class0/36\.png \(not an image\)"):
        next(batches)
    assert not decoders()
    with pytest.raises(DataError, match=r"class0/36\.png"):
        images[torch.tensor([row])]


def test_images_that_have_changed_their_size_are_refused(tmp_path: Path) -> None:
    names = [f"{split}/{name}/a.png" for split in ("train", "test") for name in ("cat", "dog")]
    write_folders(tmp_path, {name: noise(number, 6, 5) for number, name in enumerate(names)})
    images = streamed(tmp_path)
    images = replace(images, files=replace(images.files, image_size=None), image_shape=(3, 6, 5))
    images[:]
    write_folders(tmp_path, {name: noise(number, 7, 5) for number, name in enumerate(names)})
    with pytest.raises(DataError, match=r"images are \(3, 7, 5\), but were \(3, 6, 5\)"):
        images[:]


Trained = list[dict[str, Tensor]]


def trained(images: Images, labels: Tensor, recipe: Recipe, count: int = 1) -> Trained:
    """Two epochs of some networks side by side."""
    modules = []
    for number in range(count):
        with seeded(KEY.child("network", number)):
            modules.append(build(NetworkConfig(width=4, depth=1), (3, SIZE, SIZE), 3))
    training = Training(modules, images, labels, recipe, [KEY.child("training", number) for number in range(count)])
    for epoch in range(recipe.epochs):
        training.run_epoch(epoch)
    return training.state_dicts()


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"augmentation": "crop+flip"}, 1),
        ({"augmentation": "dsa"}, 3),
        ({"cutmix": 0.6, "augmentation": "none"}, 1),
        ({"cutmix": 0.6, "augmentation": "crop+flip"}, 2),
    ],
)
def test_trainings_are_the_same_bit_by_bit(pictures: Path, changes: dict[str, Any], count: int) -> None:
    recipe = Recipe(epochs=2, batch_size=16, momentum=0.9, **changes)
    found, wanted = streamed_once(pictures)
    labels = found.files.labels
    for one, other in zip(trained(found, labels, recipe, count), trained(wanted, labels, recipe, count), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not decoders()


def test_a_training_that_fails_leaves_nothing_behind(pictures: Path) -> None:
    class Failing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("failed")

    images, _ = streamed_once(pictures)
    training = Training([Failing(1, 3)], images, images.files.labels, Recipe(batch_size=4), [KEY])
    with pytest.raises(RuntimeError, match="failed"):
        training.run_epoch(0)
    assert not decoders()


def test_predictions_are_the_same(pictures: Path) -> None:
    found, wanted = streamed_once(pictures)
    with seeded(KEY):
        module = build(NetworkConfig(width=4, depth=1), (3, SIZE, SIZE), 3)
    assert torch.equal(predict(module, found, 10), predict(module, wanted[:], 10))


def test_runs_make_the_same_teacher_and_ranking(pictures: Path, tmp_path: Path) -> None:
    runs = [ranked(pictures, tmp_path, streaming) for streaming in ("on", "off")]
    models, rankings = ([read(run) for run in runs] for read in (model, ranking))
    assert models[0] == models[1] and rankings[0] == rankings[1]
    cards = [json.loads(run.teacher.folder.read("card.json")) for run in runs]
    assert cards[0].pop("fingerprint") != cards[1].pop("fingerprint")
    assert cards[0] == cards[1]
    stored = [(tmp_path / way / "work" / "data" / "data.safetensors").stat().st_size for way in ("on", "off")]
    assert stored[1] - stored[0] > (TRAIN + TEST) * (3 * SIZE**2 - 8) - 200


def ranked(root: Path, folder: Path, streaming: str) -> Run:
    """A run with a teacher and a ranking, made by this process."""
    data = {"source": "imagefolder", "root": str(root), "image_size": SIZE, "validation_fraction": 0.2}
    training = {"epochs": 2, "lr": 0.05, "momentum": 0.9, "batch_size": 16, "augmentation": "crop+flip"}
    values = {
        "data": {**data, "streaming": streaming},
        "network": {"width": 4, "depth": 2},
        "teacher": {"network": {"width": 4, "depth": 2, "norm": "batch"}, "training": training},
    }
    run = Run(from_mapping(values), Folder.at(folder / streaming))
    prepared.save(run.data, run.work / "data", run.data_key)
    make_here(run.teacher, NoProgress())
    make_here(run.ranking, NoProgress())
    return run


def model(run: Run) -> bytes:
    return run.teacher.folder.read("model.safetensors")


def ranking(run: Run) -> bytes:
    return run.ranking.folder.read("ranking.parquet")
