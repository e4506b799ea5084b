"""Runs of WMDD: what is made first, the same bytes after a kill, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder, verify_below
from tests.pipeline.test_decoupled_runs import CONFIG as DECOUPLED
from tests.support.runs import Command, running
from tests.support.runs import run as run_to_its_end

pytest.importorskip("ot", reason="optimal transport comes with raydd[transport]")
CONFIG: dict[str, Any] = {
    **DECOUPLED,
    "method": {"name": "wmdd", "images_per_class": 2, "iterations": 12, "batch_size": 6, "image_lr": 0.1},
    "evaluate": {**DECOUPLED["evaluate"], "labels": ["online"], "baselines": [], "num_students": 1},
}


def made(out: Path) -> dict[str, bytes]:
    """All that was made for the set, and the set."""
    folders = ("statistics", "barycentres", "synthetic")
    files = [file for folder in folders for file in (out / folder).iterdir() if file.suffix != ".json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_to_its_end(out, "--no-ray", config=CONFIG)
    return out


def test_a_run_makes_statistics_barycentres_and_a_set(alone: Path) -> None:
    folder = Folder.at(alone)
    assert {f"{alone}/{name}" for name in ("statistics", "barycentres", "synthetic")} <= {
        uri.removeprefix("file://") for uri in verify_below(folder)
    }
    found = SyntheticSet.load(folder / "synthetic")
    assert found.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert found.card["image_iterations"] == 20 * 12 and found.is_exact


def test_killed_it_goes_on_to_the_same_bytes(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, "--no-ray", config=CONFIG) as command:
        command.until(lambda: (out / "barycentres" / "manifest.json").exists())
        kill(command)
    assert not (out / "synthetic" / "manifest.json").exists()
    run_to_its_end(out, "--no-ray", config=CONFIG)
    assert made(out) == made(alone)


def test_several_stages_are_refused(tmp_path: Path) -> None:
    printed = run_to_its_end(tmp_path / "run", "--no-ray", code=2, config={**CONFIG, "stages": {"count": 2}})
    assert "stages.count: wmdd makes its set in one stage" in printed


def kill(command: Command) -> None:
    """SIGKILL the whole family."""
    for member in command.family():
        member.kill()
    command.process.wait()
