"""`raydd sweep` in one process: what its points reach, what it shares with the run around it, and where it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydd import config as configs
from raydd.evaluation import records
from raydd.storage import Folder
from tests.pipeline.test_decoupled_runs import small as taught_run
from tests.support.small import SmallRun, small_run, state

LR, LABELS, IMAGE_LR = "evaluate.recipe.lr", "evaluate.labels", "method.image_lr"
COMMON: dict[str, object] = {
    "data.train_limit_per_class": 16,
    "data.validation_fraction": 0.25,
    "evaluate.labels": ["hard"],
    "evaluate.baselines": ["random"],
}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished run with a validation split; not to be changed."""
    run = small_run(tmp_path_factory.mktemp("distilled"), COMMON)
    assert run.does("run") == 0
    return run


@pytest.fixture
def sweeping(distilled: SmallRun, tmp_path: Path) -> Callable[..., SmallRun]:
    """A copy of that run with something to sweep."""
    shutil.copytree(distilled.out, tmp_path / "run")

    def make(parameters: dict[str, Any], **changes: object) -> SmallRun:
        return small_run(tmp_path, {**COMMON, **changes, "sweep": {"parameters": parameters}})

    return make


def folder(run: SmallRun) -> Path:
    """That of its only sweep."""
    (found,) = (path for path in (run.out / "sweeps").iterdir() if path.name != "shared")
    return found


def rows(place: Path) -> dict[str, dict[str, Any]]:
    """The records of a sweep by their names."""
    return {row["record_id"]: row for row in records.read(Folder.at(place / "results")).to_pylist()}


def points(place: Path) -> list[dict[str, Any]]:
    found = json.loads((place / "points.json").read_text())
    assert [point["number"] for point in found] == list(range(len(found)))
    return found


def results(place: Path) -> dict[str, tuple[int, str]]:
    return state(place / "results")


def test_every_point_has_its_students_and_the_best_one_its_config(
    sweeping: Callable[..., SmallRun], capsys: pytest.CaptureFixture[str]
) -> None:
    run = sweeping({LABELS: [["hard"], ["stored"]], LR: ["1e-2", 0.1, 1e6]})
    before = {name: seen for name, seen in run.artefacts().items() if not name.startswith("work")}
    assert run.does("sweep") == 0
    place, printed = folder(run), capsys.readouterr().out
    assert {name: seen for name, seen in run.artefacts().items() if name in before} == before
    there, tried = rows(place), points(place)
    assert [(point["parameters"][LABELS], point["parameters"][LR]) for point in tried] == [
        (labels, lr) for labels in (["hard"], ["stored"]) for lr in (0.01, 0.1, 1e6)
    ]
    ids = [name for point in tried for name in point["record_ids"]]
    assert len(set(ids)) == len(ids) == 12 and set(ids) == there.keys()
    for point in tried:
        for row in map(there.get, point["record_ids"]):
            assert row is not None and row["learned_lr"] == row[f"param.{LR}"] == point["parameters"][LR]
            assert [row["labels"]] == json.loads(row[f"param.{LABELS}"]) == point["parameters"][LABELS]
            assert (row["status"] == "failed") == (row["learned_lr"] == 1e6)
            assert row["status"] == "ok" or "loss is" in row["error"]
    every = [there[name] for point in tried for name in point["record_ids"]]
    finished = [row for row in every if row["subject"] == "synthetic" and row["status"] == "ok"]
    winner = max(finished, key=lambda row: row["validation_accuracy"])
    best = configs.load(str(place / "best.yaml"))
    assert (best.evaluate.recipe.lr, best.evaluate.labels) == (winner["learned_lr"], (winner["labels"],))
    assert best.sweep is None and Path(best.out) == place / "best"
    assert printed.count("failed: point") == 2 and "best.yaml" in printed
    assert f"{100 * winner['validation_accuracy']:.2f}" in printed and f"{100 * winner['test_accuracy']:.2f}" in printed


def test_a_sweep_goes_on_where_it_broke_off(sweeping: Callable[..., SmallRun]) -> None:
    run = sweeping({LR: [0.01, 0.1]})
    assert run.does("sweep") == 0
    place = folder(run)
    before, timing = results(place), (place / "sweep.json").read_text()
    assert run.does("sweep") == 0
    assert results(place) == before and (place / "sweep.json").read_text() == timing
    lost = points(place)[1]["record_ids"][0]
    (place / "results" / f"part-{lost}.parquet").unlink()
    (place / "work" / "students" / f"part-{lost}.parquet").unlink()
    assert run.does("sweep") == 0
    after = results(place)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [f"part-{lost}.parquet"]
    assert json.loads((place / "sweep.json").read_text())["trials"] == 1
    (place / "results" / f"part-{lost}.parquet").unlink()
    began = state(place / "work" / "students")
    assert run.does("sweep") == 0
    assert results(place).keys() == before.keys() and state(place / "work" / "students") == began


def test_another_grid_is_another_sweep(sweeping: Callable[..., SmallRun]) -> None:
    run = sweeping({LR: [0.01]})
    assert run.does("sweep") == 0
    first = folder(run)
    before = state(first)
    assert sweeping({LR: [0.02]}).does("sweep") == 0
    assert len(list((run.out / "sweeps").iterdir())) == 2 and state(first) == before


def test_students_that_the_run_has_are_taken_over_and_shared_ones_trained_once(
    sweeping: Callable[..., SmallRun],
) -> None:
    run = sweeping({"evaluate.num_students": [1, 2], LR: [None, 0.1]})
    own = {row["record_id"]: row for row in records.read(Folder.at(run.out / "results")).to_pylist()}
    assert run.does("sweep") == 0
    place = folder(run)
    there, tried = rows(place), points(place)
    same = own.keys() & there.keys()
    assert len(same) == 2 and all(there[name]["time"] == own[name]["time"] for name in same)
    counts = [len(point["record_ids"]) for point in tried]
    assert counts == [2, 2, 4, 4] and len(there) == 8
    assert set(tried[0]["record_ids"]) < set(tried[2]["record_ids"])
    assert {there[name]["param.evaluate.num_students"] for name in tried[1]["record_ids"]} == {1.0}


def test_points_that_distil_make_what_a_run_makes_with_the_experts_that_there_are(
    sweeping: Callable[..., SmallRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = sweeping({LR: [0.05, 0.1], IMAGE_LR: [1.0, 5.0, 1e30]})
    experts = state(run.out / "experts")
    assert run.does("sweep") == 0
    place = folder(run)
    assert state(run.out / "experts") == experts and not (run.out / "sweeps" / "shared").exists()
    sets = {json.loads((path / "stages/000/init/card.json").read_text())["method"]["image_lr"]: path
            for path in (place / "sets").iterdir()}  # fmt: skip
    assert sets.keys() == {5.0, 1e30}
    assert not (sets[1e30] / "synthetic").exists()
    (tmp_path / "alone").mkdir()
    alone = small_run(tmp_path / "alone", {**COMMON, IMAGE_LR: 5.0, LR: 0.1})
    assert alone.does("evaluate") == 0
    name = "synthetic/images-00000.parquet"
    assert (sets[5.0] / name).read_bytes() == (alone.out / name).read_bytes()
    there = rows(place)
    for row in records.read(Folder.at(alone.out / "results")).to_pylist():
        found = there[row["record_id"]]
        assert (found["test_accuracy"], found["validation_accuracy"]) == (
            row["test_accuracy"],
            row["validation_accuracy"],
        )
    failed = [row for row in there.values() if row["status"] == "failed"]
    assert {row[f"param.{IMAGE_LR}"] for row in failed} == {1e30} and len(failed) == 4
    assert all("lower method.image_lr" in row["error"] for row in failed)
    assert capsys.readouterr().out.count("failed: point") == 2


def test_the_best_config_is_ready_to_be_run(sweeping: Callable[..., SmallRun]) -> None:
    run = sweeping({LR: [0.05, 0.1]})
    assert run.does("sweep") == 0
    place = folder(run)
    experts = state(run.out / "experts")
    best = SmallRun(place / "best.yaml", place / "best")
    assert best.does("run") == 0
    assert state(run.out / "experts") == experts and not (best.out / "experts").exists()
    again, there = records.read(Folder.at(best.out / "results")).to_pylist(), rows(place)
    assert len(again) == 2
    for row in again:
        assert there[row["record_id"]]["test_accuracy"] == row["test_accuracy"]


@pytest.mark.slow
def test_other_experts_are_made_once_for_all_points_that_follow_them(sweeping: Callable[..., SmallRun]) -> None:
    run = sweeping({"experts.training.lr": [0.2, 0.1], IMAGE_LR: [1.0, 2.0]}, **{"evaluate.baselines": []})
    experts = state(run.out / "experts")
    assert run.does("sweep") == 0
    assert state(run.out / "experts") == experts
    (shared,) = (run.out / "sweeps" / "shared" / "experts").iterdir()
    assert len(list(shared.glob("expert-*.arrow"))) == 2
    place = folder(run)
    assert len(list((place / "sets").iterdir())) == 3
    for own in (place / "sets").iterdir():
        assert not (own / "experts").exists() and not (own / "work" / "data").exists()
    assert all(row["status"] == "ok" for row in rows(place).values()) and len(rows(place)) == 4


@pytest.mark.slow
def test_a_teacher_is_lent_to_points_that_recover_their_own_images(tmp_path: Path) -> None:
    run = taught_run(
        tmp_path,
        data={"source": "digits", "train_limit_per_class": 16, "validation_fraction": 0.25},
        sweep={"parameters": {"method.iterations": [6, 9]}},
        evaluate={"baselines": []},
    )
    assert run.does("rank") == 0
    teacher = state(run.out / "teacher")
    assert run.does("sweep") == 0
    assert state(run.out / "teacher") == teacher
    place = folder(run)
    assert all(row["status"] == "ok" for row in rows(place).values()) and len(points(place)) == 2
    lent = run.out / "sweeps" / "shared" / "teacher"
    (copy,) = lent.iterdir()
    assert (copy / "model.safetensors").read_bytes() == (run.out / "teacher" / "model.safetensors").read_bytes()
    assert not list((place / "sets").glob("*/teacher"))


def test_points_that_do_not_fit_are_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {"parameters": {LR: [0.1, "much"], "method.max_start_epoch": [2]}}
    run = small_run(tmp_path, {**COMMON, "sweep": sweep})
    assert run.does("sweep") == 2
    assert capsys.readouterr().err.startswith("error: evaluate.recipe.lr: Input should be a valid number")
    sweep["parameters"] = {LR: [0.1], "method.max_start_epoch": [2, 40]}
    assert small_run(tmp_path, {**COMMON, "sweep": sweep}).does("sweep") == 2
    refusal = capsys.readouterr().err
    assert refusal.startswith("error: method.max_start_epoch: ") and refusal.count("\n") == 1
    assert "[point 1 (lr 0.1, max_start_epoch 40) of the sweep]" in refusal
    assert not run.out.exists()


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (None, "error: sweep: names nothing to try"),
        (
            {"parameters": {LR: [0.1]}, "scheduler": "asha"},
            "error: sweep.scheduler: asha needs Ray: leave out --no-ray",
        ),
        ({"parameters": {LR: [0.1]}, "search": "optuna"}, "error: sweep.search: optuna needs Ray: leave out --no-ray"),
    ],
)
def test_what_one_process_cannot_do_is_refused(
    sweeping: Callable[..., SmallRun], capsys: pytest.CaptureFixture[str], sweep: object, message: str
) -> None:
    run = sweeping({LR: [0.1]})
    run = small_run(run.file.parent, {**COMMON, "sweep": sweep})
    assert run.does("sweep") == 2
    assert message in capsys.readouterr().err


def test_without_a_validation_split_nothing_is_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"evaluate.baselines": [], LABELS: ["hard"], "sweep": {"parameters": {LR: [0.05, 0.1]}}}
    run = small_run(tmp_path, changes)
    assert run.does("sweep") == 0
    printed = capsys.readouterr().out
    assert "nothing is selected: that goes by validation accuracy, which needs data.validation_fraction" in printed
    assert not (folder(run) / "best.yaml").exists()
    assert all(f"{100 * row['test_accuracy']:.2f}" in printed for row in rows(folder(run)).values())
