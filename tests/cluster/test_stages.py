"""Stages on several workers: two of a gloo group in everyday tests, and a real Ray one of whose workers is killed."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import raydd
from raydd import config as configs
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.pipeline.test_stages import METHODS, STAGES, images, opened, staged
from tests.support import tiny
from tests.support.runs import run, running, wait_until_gone
from tests.support.small import CONFIG as DATM
from tests.support.stages import distilled_together
from tests.support.tiny import Results, relative_error

LONG: dict[str, Any] = copy.deepcopy(METHODS["mtt"]) | {
    "stages": {**STAGES, "count": 2, "pool_size": 3, "keep_trajectories": True},
    "cluster": {"num_workers": 2, "checkpoint_seconds": 0},
}
LONG["method"]["iterations"] = 100
LONG["evaluate"] = {**DATM["evaluate"], "modes": ["chain"], "baselines": []}


def walked(file: str) -> Results:
    """What this rank of a group has distilled of a run whose experts are trained."""
    config = configs.load(file)
    opened = Run(config, Folder.at(config.out))
    distilled_together(opened)
    union, last = opened.last_stage.union(), opened.last_stage
    networks = [torch.cat([network[name].flatten() for name in sorted(network)]) for network in last.pool]
    return {"images": union.images, "networks": torch.stack(networks)}


@pytest.mark.parametrize("method", [pytest.param("mtt", marks=pytest.mark.slow), "dm"])
def test_two_workers_share_stages_and_transitions(method: str, tmp_path: Path) -> None:
    """They make what one makes, to rounding, and hold the same; networks of the pool are dealt by their numbers."""
    alone = staged(tmp_path / "alone", METHODS[method], {**STAGES, "count": 2})
    assert alone.does("run") == 0
    both = staged(tmp_path / "both", METHODS[method], {**STAGES, "count": 2})
    if method == "mtt":
        assert both.does("experts") == 0
    first, second = tiny.on_workers(2, walked, str(both.file))
    assert torch.equal(first["images"], second["images"]) and torch.equal(first["networks"], second["networks"])
    wanted = opened(alone).last_stage.union()
    assert relative_error(first["images"], wanted.images) < 1e-3
    assert {name for name in both.artefacts() if "/pool/" in name} == {
        name for name in alone.artefacts() if "/pool/" in name
    }


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on Ray, one of whose workers was killed in the second stage.

    Its experts are named by a path from here, while workers are in folders of their own.
    """
    out = tmp_path_factory.mktemp("disturbed") / "run"
    checkpoints = out / "work" / "checkpoints"
    config = copy.deepcopy(LONG)
    config["experts"]["store"] = os.path.relpath(out.with_name("experts"))
    with running(out, config=config) as command:
        command.until(lambda: list(checkpoints.glob("stage-001-*")))
        earlier = images(out / "stages" / "000" / "synthetic")
        worker = command.find("ray::RayTrainWorker")
        assert worker
        worker.kill()
        wait_until_gone([worker])
        assert not (out / "stages" / "001" / "synthetic" / "manifest.json").exists()
        assert command.wait() == 0, command.output()
    assert images(out / "stages" / "000" / "synthetic") == earlier
    return out


@pytest.mark.slow
def test_a_killed_worker_changes_no_stage(disturbed: Path, tmp_path: Path) -> None:
    """All is as two workers make it whom nobody disturbs."""
    quiet = staged(tmp_path, LONG, LONG["stages"], cluster={"checkpoint_seconds": 0})
    assert quiet.does("experts") == 0
    (wanted, _) = tiny.on_workers(2, walked, str(quiet.file))
    found = SyntheticSet.load(Folder.at(disturbed / "synthetic"))
    assert torch.equal(found.images, wanted["images"])
    verify(Folder.at(disturbed))


@pytest.mark.slow
def test_every_leg_of_a_disturbed_run_has_its_record(disturbed: Path) -> None:
    rows = raydd.results(disturbed).to_pylist()
    assert sorted((row["stage"], row["status"]) for row in rows) == [(0, "ok"), (1, "ok")]


@pytest.mark.slow
def test_students_go_through_the_first_stage_beside_the_second(tmp_path: Path) -> None:
    """A worker that distils leaves them a core: their record is there long before the second stage is."""
    out, config = tmp_path / "run", copy.deepcopy(LONG)
    config["stages"]["overrides"] = {1: {"iterations": 1_000_000}}
    config["cluster"]["num_workers"] = 1
    with running(out, config=config) as command:
        command.until(lambda: list((out / "results").glob("part-*.parquet")))
        (row,) = raydd.results(out).to_pylist()
        assert "Traceback" not in command.output()
    assert (row["stage"], row["status"]) == (0, "ok")
    assert not (out / "stages" / "001" / "synthetic" / "manifest.json").exists()


@pytest.mark.slow
def test_the_second_run_makes_nothing(disturbed: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (disturbed / "stages").rglob("*") if file.is_file()}
    run(disturbed, "--no-ray", config=yaml.safe_load(disturbed.with_suffix(".yaml").read_text()))
    after = {file: file.stat().st_mtime_ns for file in (disturbed / "stages").rglob("*") if file.is_file()}
    assert after == before
