"""The decoupled family on a real Ray: two workers, one of them killed while it recovers."""

import copy
from pathlib import Path
from typing import Any

import pytest

import raydd
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.pipeline.test_decoupled_runs import CONFIG as SMALL
from tests.support.runs import run, running, times, wait_until_gone

CONFIG: dict[str, Any] = copy.deepcopy(SMALL) | {
    "method": {"name": "delt", "images_per_class": 2, "iterations": 240, "round_iterations": 120, "batch_size": 2},
    "cluster": {"num_workers": 2, "checkpoint_seconds": 0},
}
"""Ten class groups of a class each, every one of some seconds on a busy machine."""


def finished_groups(out: Path) -> list[Path]:
    return sorted((out / "stages" / "000" / "groups").glob("*/synthetic/manifest.json"))


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a teacher that others may share, one of whose recovering workers was killed."""
    folder = tmp_path_factory.mktemp("disturbed")
    config = CONFIG | {"teacher": {**CONFIG["teacher"], "store": str(folder / "teachers"), "seed": 0}}
    out = folder / "run"
    with running(out, config=config) as command:
        before = command.until(lambda: finished_groups(out) if len(finished_groups(out)) > 1 else [])
        made = {manifest: manifest.stat().st_mtime_ns for manifest in before}
        worker = command.find("ray::RayTrainWorker")
        assert worker
        worker.kill()
        wait_until_gone([worker])
        assert len(finished_groups(out)) < 10
        assert command.wait() == 0, command.output()
    assert {manifest: manifest.stat().st_mtime_ns for manifest in before} == made
    return out


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(disturbed: Path, tmp_path: Path) -> None:
    """The groups that were finished stay, and all images are those of one process that nobody disturbed."""
    config = CONFIG | {"teacher": {**CONFIG["teacher"], "store": str(disturbed.parent / "teachers"), "seed": 0}}
    alone = config | {"cluster": {**CONFIG["cluster"], "num_workers": 1}}
    run(tmp_path / "run", "--no-ray", config=alone)
    for name in ("synthetic", "stages/000/init"):
        found, wanted = (sorted((out / name).glob("images-*")) for out in (disturbed, tmp_path / "run"))
        assert [file.read_bytes() for file in found] == [file.read_bytes() for file in wanted]
    counted = [SyntheticSet.load(Folder.at(out / "synthetic")).card for out in (disturbed, tmp_path / "run")]
    assert [card["image_iterations"] for card in counted] == 2 * [10 * (240 + 120)]
    verify(Folder.at(disturbed))


@pytest.mark.slow
def test_labels_and_students_are_all_there_once(disturbed: Path) -> None:
    rows = raydd.results(disturbed).to_pylist()
    assert all(row["status"] == "ok" for row in rows)
    assert {row["labels"] for row in rows if row["subject"] == "synthetic"} == {"online", "replayed", "hard"}
    assert len({row["record_id"] for row in rows}) == len(rows)
    assert len(list((disturbed / "labels").glob("*/epoch-*"))) == 2


@pytest.mark.slow
def test_the_second_run_makes_nothing(disturbed: Path) -> None:
    before = times(disturbed)
    config = CONFIG | {"teacher": {**CONFIG["teacher"], "store": str(disturbed.parent / "teachers"), "seed": 0}}
    run(disturbed, config=config)
    assert times(disturbed) == before
