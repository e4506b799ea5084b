"""`raydd sweep` on Ray Tune: what one process reaches, in little time beside the trials, and again after a kill."""

import copy
import json
import os
import shutil
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from raydd import config as configs
from raydd.cli import sweep as command
from raydd.cluster.executor import RayExecutor
from raydd.core.errors import ConfigError
from raydd.evaluation import records
from raydd.storage import Folder
from tests.support import runs
from tests.support.small import raydd

LR, LABELS, NETWORKS = "evaluate.recipe.lr", "evaluate.labels", "evaluate.networks"
WIDTHS = [[{"name": "convnet", "width": width, "depth": 2}] for width in (4, 6, 8)]
CONFIG = {
    **runs.CONFIG,
    "data": {"source": "digits", "validation_fraction": 0.2},
    "evaluate": {**runs.CONFIG["evaluate"], "baselines": ["random"], "labels": ["hard"]},
}
TWENTY_FOUR = {NETWORKS: WIDTHS, LABELS: [["hard"], ["stored"]], LR: [0.01, 0.03, 0.1, 0.3]}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run around which all sweeps lie, distilled by one process; not to be changed."""
    out = tmp_path_factory.mktemp("distilled") / "run"
    assert raydd("distill", written(out, {}), "--no-ray", "--quiet") == 0
    return out


def written(out: Path, sweep: dict[str, Any], **evaluate: object) -> Path:
    """A config file with a sweep."""
    values = copy.deepcopy(CONFIG) | {"out": str(out)} | ({"sweep": sweep} if sweep else {})
    values["evaluate"] = {**values["evaluate"], **evaluate}
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def arguments(file: Path) -> list[str]:
    return [sys.executable, "-m", "raydd", "sweep", str(file)]


def place(out: Path) -> Path:
    (found,) = (path for path in (out / "sweeps").iterdir() if path.name != "shared")
    return found


def students(out: Path) -> pa.Table:
    """The records of a sweep, without what differs from one execution to the next."""
    table = records.read(Folder.at(place(out) / "results"))
    return table.drop_columns(["seconds", "time", "peak_memory_bytes", "device", "commit"])


def wanted(out: Path) -> list[str]:
    """The names of the records that the points are to have."""
    return [name for point in json.loads((place(out) / "points.json").read_text()) for name in point["record_ids"]]


@pytest.mark.slow
def test_tune_reaches_what_one_process_reaches(distilled: Path, tmp_path: Path) -> None:
    sweep = {"parameters": {"method.image_lr": [10.0, 20.0, 1e30], LR: [0.1, 1e6]}}
    shutil.copytree(distilled, tmp_path / "here")
    shutil.copytree(distilled, tmp_path / "there")
    assert raydd("sweep", written(tmp_path / "here", sweep), "--no-ray", "--quiet") == 0
    with runs.started(arguments(written(tmp_path / "there", sweep)), tmp_path / "log") as driver:
        assert driver.wait() == 0, driver.output()
    here, there = students(tmp_path / "here"), students(tmp_path / "there")
    assert there.equals(here) and sorted(there["record_id"].to_pylist()) == sorted(wanted(tmp_path / "there"))
    assert there["status"].to_pylist().count("failed") == 8 and len(there) == 12
    timing = json.loads((place(tmp_path / "there") / "sweep.json").read_text())
    assert timing["trials"] == 6 and timing["at_once"] == min(6, len(os.sched_getaffinity(0)))
    overhead = (timing["at_once"] * timing["wall_seconds"] - timing["trial_seconds"]) / 6
    assert timing["overhead_seconds"] == pytest.approx(overhead) and timing["trial_seconds"] > 0
    said = f"6 trials, {timing['at_once']} at once, {timing['wall_seconds']:.0f} s; {overhead:.1f} s of overhead each"
    assert said in driver.output() and "sweep: 6/6" in driver.output()


@pytest.mark.slow
def test_24_trials_take_little_time_beside_their_own(distilled: Path, tmp_path: Path) -> None:
    if (load := os.getloadavg()[0]) > 2 * len(os.sched_getaffinity(0)):
        pytest.skip(f"a load of {load:.1f} by others: this machine cannot be timed now")
    shutil.copytree(distilled, tmp_path / "run")
    file = written(tmp_path / "run", {"parameters": TWENTY_FOUR})
    with runs.started(arguments(file), tmp_path / "log") as driver:
        assert driver.wait() == 0, driver.output()
    timing = json.loads((place(tmp_path / "run") / "sweep.json").read_text())
    assert timing["trials"] == 24 and timing["overhead_seconds"] <= 2.0


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_students_that_are_left(distilled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(distilled, out)
    recipe = {**runs.CONFIG["evaluate"]["recipe"], "epochs": 100}
    file = written(out, {"parameters": TWENTY_FOUR}, recipe=recipe)
    with runs.started(arguments(file), tmp_path / "first.log") as driver:
        driver.until(lambda: len(list(out.glob("sweeps/*/results/part-*"))) >= 20)
        family = driver.family()
        driver.process.kill()
        driver.process.wait()
        runs.wait_until_gone(family)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in place(out).glob("results/part-*")}
    begun = {path.name: path.stat().st_mtime_ns for path in place(out).glob("work/students/part-*")}
    assert 20 <= len(before) <= len(begun) < 48
    with runs.started(arguments(file), tmp_path / "second.log") as driver:
        assert driver.wait() == 0, driver.output()
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in place(out).glob("results/part-*")}
    assert {name: after[name] for name in before} == before
    trained = {path.name: path.stat().st_mtime_ns for path in place(out).glob("work/students/part-*")}
    assert {name: trained[name] for name in begun} == begun
    ids = records.read(Folder.at(place(out) / "results"))["record_id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(after) == 48 and sorted(ids) == sorted(wanted(out))
    assert set(students(out)["status"].to_pylist()) == {"ok"}
    timing = json.loads((place(out) / "sweep.json").read_text())
    finished = sum(
        all(f"part-{name}.parquet" in before for name in point["record_ids"])
        for point in json.loads((place(out) / "points.json").read_text())
    )
    assert timing["trials"] == 24 - finished < 24


def swept(file: Path) -> tuple[int, str]:
    """The exit code of a sweep in this process, and what it printed."""
    console = Console(file=StringIO(), width=200)
    code = command.sweep(configs.load(str(file)), RayExecutor, False, True, console)
    assert isinstance(console.file, StringIO)
    return code, console.file.getvalue()


@pytest.mark.slow
def test_searches_go_by_validation_accuracy_and_go_on(two_cpus: None, distilled: Path, tmp_path: Path) -> None:
    """Optuna over a range and a list, extended later; ASHA over step sizes of which most teach nothing."""
    pytest.importorskip("optuna")
    out = tmp_path / "optuna"
    shutil.copytree(distilled, out)
    space = {LR: {"low": 1e-6, "high": 1.0, "scale": "log"}, "method.image_lr": [10.0, 20.0]}
    sweep = {"search": "optuna", "num_samples": 6, "parameters": space}
    assert swept(written(out, sweep))[0] == 0
    first, ids = students(out), wanted(out)
    assert len(ids) == 12 and sorted(first["record_id"].to_pylist()) == sorted(set(ids))
    assert swept(written(out, sweep))[0] == 0
    assert students(out).equals(first)
    assert swept(written(out, {**sweep, "num_samples": 9}))[0] == 0
    tried = json.loads((place(out) / "points.json").read_text())
    assert len(tried) == 9 and wanted(out)[:12] == ids
    assert {point["parameters"]["method.image_lr"] for point in tried} == {10.0, 20.0}
    assert all(1e-6 <= point["parameters"][LR] <= 1 for point in tried)
    assert len({point["parameters"][LR] for point in tried}) == 9
    assert len(list((place(out) / "sets").iterdir())) == 1

    out = tmp_path / "asha"
    shutil.copytree(distilled, out)
    recipe = {**runs.CONFIG["evaluate"]["recipe"], "epochs": 45}
    rates = [0.3, 0.1, 0.2, 1e-7, 2e-7, 3e-7, 4e-7, 5e-7]
    file = written(out, {"scheduler": "asha", "parameters": {LR: rates}}, recipe=recipe)
    code, printed = swept(file)
    stopped = [point for point in json.loads((place(out) / "points.json").read_text()) if point["error"]]
    there = set(students(out)["record_id"].to_pylist())
    assert code == 0 and stopped and printed.count("given up: point") == len(stopped)
    assert rates[0] not in (rates_stopped := [point["parameters"][LR] for point in stopped])
    assert sum(rate < 1e-6 for rate in rates_stopped) >= 2
    for point in stopped:
        assert "stopped by asha after epoch" in point["error"] and not there & set(point["record_ids"])
    assert there == set(wanted(out)) - {name for point in stopped for name in point["record_ids"]}
    assert swept(file)[0] == 0 and set(students(out)["record_id"].to_pylist()) == there
    distilling = written(out, {"scheduler": "asha", "parameters": {"method.image_lr": [9.0]}}, recipe=recipe)
    with pytest.raises(
        ConfigError, match=r"^sweep\.scheduler: asha stops students, not distilling: point 0 \(image_lr 9\)"
    ):
        swept(distilling)
