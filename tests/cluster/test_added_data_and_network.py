"""A dataset and a network of another package: one file each, and raydd does the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import raydd
from tests.support.plugins import PLUGIN, told, told_in_a_row
from tests.support.runs import run as run_to_its_end

CONFIG: dict[str, Any] = {
    "name": "discs",
    "seed": 4,
    "data": {"source": "discs:3", "statistics": "literature"},
    "network": {"name": "shallow", "width": 4},
    "experts": {"count": 2, "training": {"epochs": 3, "lr": 0.1, "batch_size": 32, "augmentation": "none"}},
    "method": {
        "name": "mtt",
        "images_per_class": 1,
        "iterations": 4,
        "synthetic_steps": 3,
        "expert_epochs": 1,
        "max_start_epoch": 2,
        "image_lr": 10.0,
        "synthetic_lr_init": 0.05,
        "augmentation": "none",
    },
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "recipe": {"epochs": 20, "lr": 0.05, "momentum": 0.9, "batch_size": 32, "augmentation": "none"},
        "full_epochs": 1,
    },
    "cluster": {"checkpoint_seconds": 0},
}


def made(out: Path) -> dict[str, bytes]:
    """Experts and images."""
    files = [*(out / "experts").rglob("expert*"), *(out / "synthetic").glob("images-*.parquet")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_to_its_end(out, "--no-ray", config=CONFIG, **PLUGIN)
    return out


def test_a_run_on_them_is_made_evaluated_and_reported(alone: Path) -> None:
    assert len(made(alone)) >= 2
    rows = {row["subject"]: row for row in raydd.results(alone).to_pylist()}
    assert {row["dataset"] for row in rows.values()} == {"discs"}
    assert {row["network"] for row in rows.values()} == {"shallow-w4"}
    assert (alone / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_ray_goes_on_to_the_same_bytes(alone: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"out": str(out)}))
    told("experts", file, "--no-ray", log=tmp_path / "experts.log")
    told("run", file, log=tmp_path / "run.log")
    assert made(out) == made(alone)
    events = [json.loads(line) for line in (out / "metrics" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step_skipped"] == ["experts"]


def test_without_the_package_both_are_refused(alone: Path, tmp_path: Path) -> None:
    before = made(alone)
    printed = run_to_its_end(alone, "--no-ray", code=2, config=CONFIG)
    assert "data.source: 'discs:3' is not one of digits, cifar10" in printed and "raydd methods" in printed
    assert made(alone) == before
    other = {**CONFIG, "data": {"source": "digits"}}
    printed = run_to_its_end(tmp_path / "run", "--no-ray", code=2, config=other)
    assert "network.name: 'shallow' is not one of convnet, resnet18" in printed and "raydd methods" in printed
    assert not (tmp_path / "run").exists()


def test_they_are_listed_planned_and_have_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"out": str(tmp_path / "run")}))
    flags = ("--data.source", "discs:2", "--network.width", 6)
    said = told_in_a_row(
        ("methods",),
        ("show", file, *flags),
        ("show", file, "--config", *flags),
        ("show", file, "--data.source", "discs"),
        ("show", file, "--data.source", "discs:9"),
        ("show", file, "--network.name", "shalow"),
        log=tmp_path / "log",
    )
    assert [code for code, _ in said] == [0, 0, 0, 2, 2, 2]
    listed, planned, whole, nameless, too_many, misspelt = (words for _, words in said)
    assert "discs:<name>" in listed and "shallow" in listed and listed.count("raydd-class-means 0.1") == 3
    assert "source: discs:2" in whole and "width: 6" in whole and "not counted" not in planned
    assert "data.source: must be discs:<name>, is 'discs'" in nameless
    assert "discs have 2 to 5 sizes" in too_many
    assert "did you mean shallow?" in misspelt
