"""Independent branches on a real Ray: an observer and chosen images beside distilling, what they cost each other."""

import copy
from pathlib import Path
from typing import Any

import pytest

import raydd
from tests.support.runs import CONFIG, made, run, running

SELECTED: dict[str, Any] = copy.deepcopy(CONFIG)
SELECTED["evaluate"] |= {
    "baselines": ["herding"],
    "labels": ["hard"],
    "selector": {"epochs": 2, "lr": 0.05, "batch_size": 64, "augmentation": "none"},
}
ENDLESS: dict[str, Any] = {**SELECTED, "method": {**SELECTED["method"], "iterations": 1_000_000}}


def chosen(out: Path) -> dict[str, bytes]:
    """The observer and the images that it chose."""
    files = (file for part in ("observer", "selection") for file in (out / part).rglob("*") if file.is_file())
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_images_are_chosen_beside_distilling(tmp_path: Path) -> None:
    """The worker that distils leaves a core, and what was chosen there is what one process chooses at its turn."""
    alone, out = tmp_path / "alone", tmp_path / "run"
    run(alone, "--no-ray", config=SELECTED)
    with running(out, config=ENDLESS) as command:
        command.until(lambda: list((out / "selection").glob("*/manifest.json")))
        assert not (out / "stages" / "000" / "synthetic" / "manifest.json").exists()
        assert "Traceback" not in command.output()
    assert chosen(out) == chosen(alone) and len(chosen(out)) >= 4


@pytest.mark.slow
def test_a_branch_that_fails_leaves_the_other_finished(tmp_path: Path) -> None:
    """Its turn comes after distilling, and its message; the same command with what works goes on from there."""
    out = tmp_path / "run"
    config = copy.deepcopy(SELECTED)
    config["method"]["iterations"] = 300
    config["evaluate"]["selector"]["lr"] = 1e30
    with running(out, config=config) as command:
        assert command.wait() == 1, command.output()
        printed = command.output()
    assert "Traceback" not in printed and "loss is" in printed
    assert (out / "synthetic" / "manifest.json").exists()
    before = made(out)
    config["evaluate"]["selector"]["lr"] = 0.05
    run(out, config=config)
    assert {name: made(out)[name] for name in before if name.startswith(("stages", "synthetic"))} == {
        name: seen for name, seen in before.items() if name.startswith(("stages", "synthetic"))
    }
    assert {row["status"] for row in raydd.results(out).to_pylist()} == {"ok"}
