"""A method of another package, and an ingredient of its own: one file, and raydd does the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import raydd
from raydd.data.facts import DataFacts
from tests.support.plugins import FOLDER, PLUGIN, told_in_a_row
from tests.support.runs import Command, running
from tests.support.runs import run as run_to_its_end

CONFIG: dict[str, Any] = {
    "name": "means",
    "seed": 2,
    "data": {"source": "digits", "train_limit_per_class": 20},
    "network": {"width": 8, "depth": 2},
    "method": {"name": "class_means", "images_per_class": 1, "iterations": 20},
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "recipe": {"epochs": 30, "lr": 0.05, "momentum": 0.9, "batch_size": 32, "augmentation": "none"},
        "full_epochs": 1,
    },
    "cluster": {"checkpoint_seconds": 0},
}


def made(out: Path) -> dict[str, bytes]:
    """The means and the images."""
    files = [*(out / "class_means").glob("means*"), *(out / "synthetic").glob("images-*.parquet")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_to_its_end(out, "--no-ray", config=CONFIG, **PLUGIN)
    return out


def test_it_is_made_evaluated_reported_and_checked(alone: Path, tmp_path: Path) -> None:
    assert {"class_means/means.safetensors", "synthetic/images-00000.parquet"} <= made(alone).keys()
    rows = {row["subject"]: row for row in raydd.results(alone).to_pylist()}
    assert rows["synthetic"]["method"] == "class_means"
    assert rows["synthetic"]["test_accuracy"] > rows["random"]["test_accuracy"]
    assert (alone / "report.html").stat().st_size > 10_000
    export = ("export", alone, "--format", "pt", "--to", tmp_path / "pt")
    (verified, listed), (exported, _) = told_in_a_row(("verify", alone), export, log=tmp_path / "log")
    assert verified == exported == 0 and str(alone / "class_means") in listed.replace("\n", "")
    assert (tmp_path / "pt" / "images_best.pt").exists()


def test_what_the_ingredient_states_is_what_it_takes(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from raydd_class_means import ClassMeans

    stated = ClassMeans.cost(DataFacts(200, 296, (1, 8, 8), 10), 0)
    really = sum(file.stat().st_size for file in (alone / "class_means").iterdir())
    assert stated.disk_bytes == pytest.approx(really, rel=0.1)
    assert stated.units == stated.pieces == len(means(alone)) == 10


def test_it_is_listed_planned_and_has_flags(tmp_path: Path) -> None:
    file = tmp_path / "means.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"out": str(tmp_path / "run")}))
    said = told_in_a_row(
        ("methods",),
        ("show", file, "--method.image-lr", "0.5"),
        ("show", file, "--config", "--method.image-lr", "0.5"),
        ("show", file, "--graph"),
        ("show", file, "--gpus", 2),
        ("show", file, "--method.image-lr", "x"),
        log=tmp_path / "log",
    )
    assert [code for code, _ in said] == [0, 0, 0, 0, 0, 2]
    listed, planned, whole, graph, scaled, wrong = (words for _, words in said)
    assert "class_means" in listed and "raydd-class-means 0.1" in listed
    assert "not counted:" not in planned and "mean images of the" in planned
    assert "image_lr: 0.5" in whole
    (row,) = (line for line in graph.splitlines() if line.startswith("│ class means"))
    assert "not planned" not in row and "12.8 k" in row
    assert "class_means" in scaled and "measured here" in scaled
    assert "image-lr" in wrong


def test_without_the_package_the_method_is_unknown(tmp_path: Path) -> None:
    printed = run_to_its_end(tmp_path / "run", "--no-ray", code=2, config=CONFIG)
    assert "method.name: must be one of" in printed and "class_means" in printed


@pytest.mark.slow
def test_ray_makes_the_same_by_actors(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_to_its_end(out, config=CONFIG, **PLUGIN)
    assert made(out) == made(alone)
    events = [json.loads(line) for line in (out / "metrics" / "events.jsonl").read_text().splitlines()]
    assert any("class means" in str(event) for event in events)


def test_killed_it_goes_on_to_the_same_bytes(alone: Path, tmp_path: Path) -> None:
    out, slow = tmp_path / "run", {**CONFIG, "method": {**CONFIG["method"], "pause": 0.5}}
    with running(out, "--no-ray", config=slow, **PLUGIN) as command:
        command.until(lambda: len(means(out)) > 2)
        kill(command)
    kept = {file: file.stat().st_mtime_ns for file in means(out)}
    assert 2 < len(kept) < 10 and not (out / "class_means" / "manifest.json").exists()
    run_to_its_end(out, "--no-ray", config=CONFIG, **PLUGIN)
    assert made(out)["class_means/means.safetensors"] == made(alone)["class_means/means.safetensors"]
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_what_is_finished_is_not_replaced(alone: Path) -> None:
    other = {**CONFIG, "data": {**CONFIG["data"], "train_limit_per_class": 15}}
    before = made(alone)
    printed = run_to_its_end(alone, "--no-ray", code=2, config=other, **PLUGIN)
    assert "data.train_limit_per_class" in printed and "class_means" in printed
    assert made(alone) == before


def means(out: Path) -> list[Path]:
    """What is kept of the ingredient."""
    return sorted((out / "work" / "class_means").rglob("class-*.safetensors"))


def kill(command: Command) -> None:
    """SIGKILL the whole family."""
    for member in command.family():
        member.kill()
    command.process.wait()
