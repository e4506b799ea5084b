"""Ranking on a real Ray: from memory and from files the same, and the same after actors were killed."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd import config as configs
from raydd.cluster.executor import RayExecutor
from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data import prepared
from raydd.ingredients.base import make_here
from raydd.ingredients.ranking import PART, Ranking
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder
from tests.support.image_files import noise, write_folders
from tests.support.runs import find

pytestmark = pytest.mark.usefixtures("two_cpus")

KEY = Key.root(0)
MARK = 0.25
PATIENCE = 120.0
"""Seconds until an actor has to be seen at work; the machine may be busy with other things."""


def run_of(folder: Path, streaming: str = "auto", **data: Any) -> Run:
    network = {"width": 8, "depth": 2, "norm": "batch"}
    training = {"epochs": 1, "lr": 0.05, "momentum": 0.9, "batch_size": 64, "augmentation": "none"}
    config = {
        "data": {"streaming": streaming, **data},
        "network": {"width": 8, "depth": 2},
        "teacher": {"network": network, "training": training},
    }
    return Run(configs.from_mapping(config), Folder.at(folder))


def taught(run: Run) -> Run:
    """The run once it has data and a teacher."""
    prepared.save(run.data, run.work / "data", run.data_key)
    make_here(run.teacher, NoProgress())
    return run


def ranked(run: Run) -> Ranking:
    """The ranking, made on Ray."""
    with RayExecutor() as executor:
        reading = replace(run, reader=executor.reader)
        executor.make(reading, [reading.ranking], NoProgress())
    return Ranking.load(run.ranking.folder)


def require_same(found: Ranking, wanted: Ranking) -> None:
    """Fail unless two rankings agree: scores to rounding, orders exactly."""
    assert found.path == wanted.path
    assert torch.equal(found.class_, wanted.class_) and torch.equal(found.index, wanted.index)
    assert (found.p_true - wanted.p_true).abs().max() < 1e-6
    for label in wanted.class_.unique().tolist():
        for by in ("medium", "easy", "hard"):
            assert torch.equal(*(ranking.order(label, by, KEY) for ranking in (found, wanted)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 400 training images of many sizes, every third of them grey."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(1230):
        split = "train" if number < 1200 else "test"
        image = noise(number, 12 + number % 7, 12 + number % 5)
        image = image.convert("L") if number % 9 < 3 else image
        write_folders(root, {f"{split}/class{number % 3}/{number:04}.png": image})
    return root


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with teacher and ranking, made in one process without Ray."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run = taught(run_of(out, source="imagefolder", root=str(pictures), image_size=12))
    make_here(run.ranking, NoProgress())
    assert Ranking.load(run.ranking.folder).p_true.std() > 0.01
    return out


@contextmanager
def killed_when_seen(title: str) -> Iterator[list[int]]:
    """Kill the first process below this one whose title begins like this; its number is in the list by the end."""
    killed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while not killed and time.monotonic() < deadline:
            if (process := find(os.getpid(), title)) is not None:
                process.kill()
                killed.append(process.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield killed
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("streaming", "title"), [("off", "ray::Maker.make"), ("on", "ray::MapWorker")])
def test_both_ways_make_what_one_process_makes_though_an_actor_is_killed(
    undisturbed: Path, pictures: Path, tmp_path: Path, streaming: str, title: str
) -> None:
    run = taught(run_of(tmp_path / "run", streaming, source="imagefolder", root=str(pictures), image_size=12))
    with killed_when_seen(title) as killed:
        found = ranked(run)
    assert killed
    require_same(found, Ranking.load(Folder.at(undisturbed / "ranking")))


@pytest.mark.slow
def test_an_image_that_turns_unreadable_is_named_and_finished_parts_stay(
    pictures: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file keeps its size and time, so that the prepared data pass for good; the first part has marked scores."""
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    run = taught(run_of(tmp_path / "run", "on", source="imagefolder", root=str(copy), image_size=12))
    run.ranking.parts.write(0, torch.full((PART,), MARK))
    file = copy / "train" / "class2" / "1199.png"
    before = file.stat()
    good = file.read_bytes()
    file.write_bytes(bytes(len(good)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"cannot decode 1 image.*class2/1199\.png \(not an image\)"):
        ranked(run)
    assert [line for line in capfd.readouterr().err.splitlines() if "core_worker.cc" not in line] == []
    file.write_bytes(good)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, wanted = ranked(run), Ranking.load(Folder.at(undisturbed / "ranking"))
    assert (found.p_true[:PART] == MARK).all()
    assert (found.p_true[PART:] - wanted.p_true[PART:]).abs().max() < 1e-6
