"""Chosen real images as a set of their own: what the run's own herding and k-center are, and nothing else."""

import copy
from pathlib import Path

import pytest
import torch

from raydd import config as configs
from raydd.evaluation import records
from raydd.ingredients.coreset import Selection
from raydd.pipeline.runs.run import Run
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.small import SmallRun, raydd, small_run

EVALUATE = {
    "num_students": 1,
    "baselines": ["k_center", "herding"],
    "selector": {"epochs": 2, "lr": 0.01, "augmentation": "none"},
    "recipe": {"epochs": 5, "lr": 0.01, "momentum": 0.9, "batch_size": 32, "augmentation": "none"},
}


def chosen_run(folder: Path, selection: str, **changes: object) -> SmallRun:
    method = {"name": "coreset", "selection": selection, "images_per_class": 2}
    return small_run(folder, {"method": method, "evaluate": copy.deepcopy(EVALUATE), **changes})


@pytest.mark.parametrize("selection", ["herding", "k_center"])
def test_the_set_is_what_the_baseline_chooses(tmp_path: Path, selection: str) -> None:
    run = chosen_run(tmp_path, selection)
    assert run.does("run") == 0
    (folder,) = (Folder.at(run.out) / "selection" / name for name in (Folder.at(run.out) / "selection").folders())
    rows = Selection.load(folder).rows[selection]
    found = SyntheticSet.load(Folder.at(run.out) / "synthetic")
    assert found.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert len(torch.unique(found.images.flatten(1), dim=0)) == len(rows) == 20
    students = {row["subject"]: row for row in records.read(Folder.at(run.out) / "results").to_pylist()}
    same = students["synthetic"]["test_accuracy"], students[selection]["test_accuracy"]
    assert same[0] == same[1]


def test_other_ways_of_choosing_and_other_selectors_are_other_sets(tmp_path: Path) -> None:
    def key(name: str, **changes: object) -> str:
        (tmp_path / name).mkdir()
        return Run.of(configs.load(str(chosen_run(tmp_path / name, **changes).file))).synthetic_key

    plain = key("a", selection="herding")
    assert key("b", selection="herding") == plain
    others = [
        key("c", selection="k_center"),
        key("d", selection="herding", **{"evaluate.selector.epochs": 3}),
        key("e", selection="herding", **{"seed": 1}),
    ]
    assert len({plain, *others}) == 4


def test_a_teacher_may_label_it(tmp_path: Path) -> None:
    taught = {
        "method": {"name": "coreset", "images_per_class": 1, "taught": True},
        "network": {"width": 8, "depth": 2, "norm": "batch"},
        "teacher": {"training": {"epochs": 2, "lr": 0.1}},
        "evaluate.baselines": ["random"],
        "evaluate.recipe.views": {"min_scale": 0.25},
    }
    run = chosen_run(tmp_path, "herding", **taught)
    assert run.does("run") == 0
    table = records.read(Folder.at(run.out) / "results").to_pylist()
    assert {row["labels"] for row in table} == {"online"}
    assert run.does("run") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.count": 2}, "stages.count: coreset chooses all images at once: take 1"),
        ({"method.images_per_class": 0}, "method.images_per_class: must be at least 1, is 0"),
        ({"method.images_per_class": 40}, "method.images_per_class: 40 asked for, but class"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    run = chosen_run(tmp_path, "herding", **changes)
    assert run.does("run") == 2
    assert message in capsys.readouterr().err
    assert not run.out.exists() or not any(run.out.iterdir())


def test_the_plan_counts_the_choice_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = chosen_run(tmp_path, "herding")
    assert raydd("show", run.file, "--rate", "1G") == 0
    shown = capsys.readouterr().out
    assert shown.count("a selection") == 1 and "not counted" not in shown
