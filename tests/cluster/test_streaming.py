"""Images that Ray Data decodes, on a real Ray: the same as those that stay in memory, wherever they are asked for."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor

from raydd.cluster import streaming
from raydd.cluster.executor import RayExecutor
from raydd.config import from_mapping
from raydd.core.errors import DataError
from raydd.core.keyed_random import permutation
from raydd.core.progress import NoProgress
from raydd.data import DataConfig, prepared
from raydd.data.images import Images, Resident
from raydd.data.prepared import prepare
from raydd.data.streamed_images import Streamed
from raydd.ingredients.base import make_here
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder
from tests.support.image_files import write_folders
from tests.support.streamed_sets import KEY, SIZE, TRAIN, config_of, written

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("streamed") / "pictures")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks for few images."""
    monkeypatch.setattr(streaming, "BLOCK", 5)


def streamed(config: DataConfig) -> Streamed:
    """The training images, decoded by Ray Data."""
    images = prepare(config, KEY).read_by(streaming.read).train.images
    assert isinstance(images, Streamed)
    return images


def asked() -> list[Tensor]:
    """Rows in no order, some more than once, in batches of many sizes."""
    rows = torch.cat([permutation(KEY.child(turn), TRAIN) for turn in range(3)])
    return [*rows.split([1, 0, 7, 64, 3, 51]), torch.tensor([4, 4, 2])]


def require_same(found: Images, wanted: Images) -> None:
    rows = asked()
    batches = list(found.batches(rows))
    assert len(batches) == len(rows)
    assert all(torch.equal(batch, wanted[own]) for batch, own in zip(batches, rows, strict=True))


def test_batches_are_those_of_images_in_memory(pictures: Path, small_blocks: None) -> None:
    wanted = prepare(config_of(pictures, "off"), KEY).train.images
    assert isinstance(wanted, Resident)
    found = streamed(config_of(pictures))
    require_same(found, wanted)
    assert torch.equal(torch.cat(list(found.split(9))), wanted[:])
    assert list(found.batches([])) == []


def test_a_task_that_has_all_cpus_reads_too(pictures: Path) -> None:
    @ray.remote(num_cpus=2)
    def reads(config: DataConfig, rows: list[Tensor]) -> list[Tensor]:
        return list(prepare(config, KEY).read_by(streaming.read).train.images.batches(rows))

    wanted = prepare(config_of(pictures, "off"), KEY).train.images
    found = ray.get(reads.remote(config_of(pictures), asked()), timeout=300)
    assert all(torch.equal(batch, wanted[own]) for batch, own in zip(found, asked(), strict=True))


def test_who_stops_early_leaves_nothing_running(pictures: Path, small_blocks: None) -> None:
    batches = streamed(config_of(pictures)).batches(torch.arange(TRAIN).split(2))
    next(batches)
    assert any("StreamingExecutor" in thread.name for thread in threading.enumerate())
    del batches
    assert not any("StreamingExecutor" in thread.name for thread in threading.enumerate())


def test_images_that_cannot_be_decoded_are_named(
    tmp_path: Path, small_blocks: None, capfd: pytest.CaptureFixture[str]
) -> None:
    root = written(tmp_path / "pictures")
    images = streamed(config_of(root))
    write_folders(root, {"train/class2/29.png": b"rubbish"})
    with pytest.raises(DataError, match=r"cannot decode 1 image.*class2/29\.png \(not an image\)"):
        list(images.batches(torch.arange(TRAIN).split(8)))
    assert capfd.readouterr().err == ""


def run_of(root: Path, out: Path, way: str) -> Run:
    training = {"epochs": 2, "lr": 0.05, "momentum": 0.9, "batch_size": 16, "augmentation": "crop+flip"}
    values = {
        "data": {"source": "imagefolder", "root": str(root), "image_size": SIZE, "streaming": way},
        "network": {"width": 4, "depth": 2},
        "teacher": {"network": {"width": 4, "depth": 2, "norm": "batch"}, "training": training},
    }
    run = Run(from_mapping(values), Folder.at(out))
    prepared.save(run.data, run.work / "data", run.data_key)
    return run


@pytest.mark.slow
def test_a_worker_of_ray_train_learns_the_same_teacher(pictures: Path, tmp_path: Path) -> None:
    """And the ranking by it is the same, whose images Ray Data decodes for actors."""
    runs = run_of(pictures, tmp_path / "ray", "on"), run_of(pictures, tmp_path / "here", "off")
    with RayExecutor() as executor:
        reading = replace(runs[0], reader=executor.reader)
        executor.make(reading, [reading.teacher], NoProgress())
        executor.make(reading, [reading.ranking], NoProgress())
    make_here(runs[1].teacher, NoProgress())
    make_here(runs[1].ranking, NoProgress())
    models = [run.teacher.folder.read("model.safetensors") for run in runs]
    assert models[0] == models[1]
    rankings = [run.ranking.folder.read("ranking.parquet") for run in runs]
    assert rankings[0] == rankings[1]
    assert isinstance(runs[0].data.train.images, Streamed) and isinstance(runs[1].data.train.images, Resident)
