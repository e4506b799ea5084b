"""Students at step sizes of their own, and the best of them kept: whole small runs in this process."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import raydd
from raydd import config as configs
from raydd.evaluation.students.kept import KeptStudent
from raydd.evaluation.students.step_search import FACTORS
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import Run
from raydd.plan import DataFacts, make_plan
from raydd.storage import Folder
from tests.pipeline.test_condensation_runs import METHODS, RECIPE
from tests.support.small import SmallRun, small_run
from tests.support.small import raydd as command

Captured = pytest.CaptureFixture[str]
CHANGES = {
    "method": METHODS["dm"],
    "evaluate.recipe": RECIPE,
    "evaluate.num_students": 2,
    "evaluate.random_draws": 2,
    "evaluate.lr": "search",
    "evaluate.keep": "best",
    "data.validation_fraction": 0.25,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Finished."""
    made = small_run(tmp_path_factory.mktemp("own"), CHANGES)
    assert made.does("run") == 0
    return made


def test_every_set_has_a_step_size_of_its_own_that_its_draws_share(run: SmallRun) -> None:
    rows = raydd.results(run.out).to_pylist()
    assert {row["status"] for row in rows} == {"ok"} and len(rows) == 2 + 2 + 4 + 1
    found: dict[str, set[tuple[float, int]]] = {}
    for row in rows:
        found.setdefault(row["subject"], set()).add((row["learned_lr"], row["epochs"]))
    for subject, own in found.items():
        ((lr, epochs),) = own
        assert any(lr == pytest.approx(0.05 * factor) for factor in (*FACTORS, 30, 90))
        assert epochs in ((1, 2, 4) if subject == "full" else (5,))
    searches = sorted((run.out / "work" / "step_sizes").iterdir())
    chosen = sorted((own["lr"], own["epochs"]) for own in (json.loads(file.read_text()) for file in searches))
    assert chosen == sorted(pair for own in found.values() for pair in own)


def test_what_is_finished_is_not_searched_for_again(run: SmallRun) -> None:
    before = run.artefacts()
    assert run.does("run") == 0
    assert run.artefacts() == before


def test_the_best_student_by_the_validation_split_is_kept(run: SmallRun) -> None:
    rows = [row for row in raydd.results(run.out).to_pylist() if row["subject"] == "synthetic"]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    kept = KeptStudent.load(Folder.at(run.out / "student"))
    for name in ("validation_accuracy", "test_accuracy", "student_seed", "record_id"):
        assert kept.about[name] in [
            row[name] for row in rows if row["validation_accuracy"] == best["validation_accuracy"]
        ]
    assert measured(kept.module(), run) == pytest.approx(kept.about["test_accuracy"], abs=1e-6)
    assert not list((run.out / "work").glob("students/*"))
    assert command("verify", run.out) == 0


def measured(module: torch.nn.Module, run: SmallRun) -> float:
    """Test accuracy of a module that takes pixels."""
    test = Run.of(configs.load(str(run.file))).data
    with torch.no_grad():
        logits = module(test.preprocessing.inverse(test.test.images[:]))
    return float((logits.argmax(1) == test.test.labels).double().mean())


def test_it_is_exported_for_devices(run: SmallRun, tmp_path: Path, capsys: Captured) -> None:
    assert command("export", run.out, "--format", "student", "--to", tmp_path / "out") == 0
    assert "exported the best student (convnet-d2-w8-instance, test accuracy" in capsys.readouterr().out
    kept = KeptStudent.load(Folder.at(run.out / "student"))
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.load(str(tmp_path / "out" / "student.pt"))
    program = torch.export.load(tmp_path / "out" / "student.pt2").module()
    for count in (1, 3):
        pixels = torch.rand(count, 1, 8, 8)
        for loaded in (script, program):
            torch.testing.assert_close(loaded(pixels), kept.module()(pixels))
    assert load_file(tmp_path / "out" / "student.safetensors").keys() == kept.parameters.keys()
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["class_names"] == list(kept.class_names) and card["student"]["chosen_by"] == "validation_accuracy"


def test_one_that_was_not_kept_is_trained_again_where_it_is_to_be(run: SmallRun, tmp_path: Path) -> None:
    other = small_run(tmp_path, {**CHANGES, "evaluate.keep": "nothing"})
    assert other.does("run") == 0 and not (other.out / "student").exists()
    before = raydd.results(other.out).drop_columns(["seconds", "time", "peak_memory_bytes"])
    assert other.does("evaluate", "--evaluate.keep", "best") == 0
    assert raydd.results(other.out).drop_columns(["seconds", "time", "peak_memory_bytes"]).equals(before)
    first, second = (KeptStudent.load(Folder.at(out / "student")) for out in (run.out, other.out))
    assert first.about == second.about
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters)


def test_there_is_none_to_export(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "run").mkdir()
    assert command("export", tmp_path / "run", "--format", "student", "--to", tmp_path / "out") == 2
    assert "no student was kept here; set evaluate.keep to best" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("field", "value"), [("lr", "search"), ("keep", "best")])
def test_both_need_held_out_images(field: str, value: str, tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path, {f"evaluate.{field}": value})
    assert run.does("run") == 2
    assert (
        f"evaluate.{field}: {value} goes by held-out images: give a data.validation_fraction" in capsys.readouterr().err
    )
    assert not run.out.exists()


def test_stages_have_no_search(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path, {"evaluate.lr": "search", "data.validation_fraction": 0.25, "stages.count": 2})
    assert run.does("run") == 2
    assert "evaluate.lr: search is for sets of one stage" in capsys.readouterr().err


def test_the_plan_has_the_search(tmp_path: Path) -> None:
    facts = DataFacts(100, 50, (1, 8, 8), 10, 20)
    plans = []
    for value in ("recipe", "search"):
        config = resolved(configs.load(str(small_run(tmp_path, {**CHANGES, "evaluate.lr": value}).file)))
        plans.append(next(step for step in make_plan(config, facts).steps if step.work == "evaluate"))
    students, full = 20 * 5, 100  # images a student sees
    steps = [step.optimizer_steps for step in plans]
    assert steps[1] - steps[0] == 3 * 6 * 5 + (12 + 3) * 4
    assert students == full and plans[1].flops > 2 * plans[0].flops
