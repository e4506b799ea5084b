"""Runs of DC, DSA and DM, which need nothing that is trained first."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import raydd
from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.data import DataFacts
from raydd.methods import Start, Task
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.plan import make_plan
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support import tiny
from tests.support.small import CONFIG, SmallRun, small_run

RECIPE = {**CONFIG["evaluate"]["recipe"], "lr": 0.05}
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "images_per_class": 2, "iterations": 6, "real_batch_size": 8},
    "dc": {"name": "dc", "images_per_class": 2, "iterations": 4, "outer_loops": 2, "inner_epochs": 1},
    "dsa": {"name": "dsa", "images_per_class": 1, "iterations": 4, "real_batch_size": 8},
}


def run_of(folder: Path, name: str) -> SmallRun:
    folder.mkdir(exist_ok=True)
    return small_run(folder, {"method": METHODS[name], "evaluate.recipe": RECIPE})


@pytest.mark.parametrize("name", METHODS)
def test_from_images_to_students(name: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, name)
    assert run.does("run") == 0
    assert not (run.out / "experts").exists() and not (run.out / "teacher").exists()
    made = SyntheticSet.load(Folder.at(run.out / "synthetic"))
    start = SyntheticSet.load(Folder.at(run.out / "stages" / "000" / "init"))
    assert made.labels.tolist() == [k for k in range(10) for _ in range(METHODS[name]["images_per_class"])]
    assert not torch.equal(made.images, start.images) and made.soft_labels is None
    rows = raydd.results(run.out).to_pylist()
    assert {(row["subject"], row["labels"]) for row in rows} == {
        (subject, "hard") for subject in ("synthetic", "init", "random", "full")
    }
    assert all(row["status"] == "ok" and row["method"] == name for row in rows)
    before = run.artefacts()
    assert run.does("run") == 0
    assert run.artefacts() == before


class Interrupts(NoProgress):
    """Presses Ctrl-C in the middle."""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if str(task) == "distil" and done == 4:
            raise KeyboardInterrupt


def test_a_broken_off_run_goes_on_to_the_same_images(tmp_path: Path) -> None:
    whole, broken = run_of(tmp_path / "whole", "dm"), run_of(tmp_path / "broken", "dm")
    with pytest.raises(KeyboardInterrupt):
        execution.execute(configs.load(str(broken.file)), LocalExecutor(), Interrupts(), "distill")
    for run in (whole, broken):
        assert run.does("distill") == 0
    images = [SyntheticSet.load(Folder.at(run.out / "synthetic")).images for run in (whole, broken)]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("changes", "step", "words"),
    [
        ({}, "experts", ["method.name", "the images alone"]),
        ({"evaluate.recipe": CONFIG["evaluate"]["recipe"]}, "run", ["evaluate.recipe.lr"]),
        ({"evaluate.protocol": "delt"}, "run", ["evaluate.protocol"]),
    ],
    ids=["step", "step size", "protocol"],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], step: str, words: list[str]
) -> None:
    run = small_run(tmp_path, {"method": METHODS["dm"], "evaluate.recipe": RECIPE, **changes})
    assert run.does(step) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert not run.out.exists()


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_counts_the_flops_of_an_iteration(name: str) -> None:
    config: RunConfig = configs.from_mapping(
        {
            "network": {"width": 4, "depth": 2},
            "method": {**METHODS[name], "real_batch_size": 8, "iterations": 1},
            "evaluate": {"recipe": RECIPE},
        }
    )
    data = tiny.data()
    method = config.method.build(Task(data=data, network=config.network), Start(), Key.root(0))
    with FlopCounterMode(display=False) as counter:
        method.step()
    plan = make_plan(config, DataFacts(len(data.train), len(data.test), data.shape, data.num_classes))
    (distill,) = (step for step in plan.steps if step.work == "distill")
    assert [step.work for step in plan.steps] == ["data", "distill", "evaluate"]
    assert distill.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
