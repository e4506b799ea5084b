"""Several configurations with several seeds: the table agrees with numpy, and the command goes on where it stopped."""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from raydd.cli import tables
from raydd.core.progress import Numbers, Progress, Work
from raydd.evaluation import record, records
from raydd.evaluation.record import Record
from raydd.evaluation.tables.comparison import SCHEMA, compare
from raydd.storage import Folder
from tests.cli.test_main import Captured, Interrupted, require_refusal
from tests.evaluation.test_records import make_failure, make_record
from tests.support import runs
from tests.support.small import SmallRun, raydd, small_run, state

SEEDS = (0, 7)
ACCURACIES = {
    ("base", 0): (0.50, 0.52, 0.57),
    ("base", 7): (0.54, 0.55, 0.56),
    ("other", 0): (0.61, 0.64),
    ("other", 7): (0.60, 0.70),
}
"""Test accuracies of single-shot students on the distilled set, by configuration and seed."""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., pa.Table]:
    """Records by way of files, those of each call in a folder of their own."""
    folders = iter(range(1000))

    def table(*students: Record) -> pa.Table:
        folder = Folder.at(tmp_path / str(next(folders)))
        for number, student in enumerate(students):
            values = {name: getattr(student, name) for name in record.SCHEMA.names}
            records.write(folder, Record(**values | {"record_id": f"{number:016x}"}))
        return records.read(folder)

    return table


def single_shots(accuracies: tuple[float, ...], **changes: object) -> list[Record]:
    return [make_record(student_seed=n, test_accuracy=a, **changes) for n, a in enumerate(accuracies)]


def rows(tables: Mapping[tuple[str, int], pa.Table]) -> list[dict[str, object]]:
    compared = compare(tables)
    assert compared.schema.equals(SCHEMA)
    return [row | {"seed_means": dict(row["seed_means"])} for row in compared.to_pylist()]


def test_means_and_spreads_are_between_seeds(read: Callable[..., pa.Table]) -> None:
    base, other = rows({place: read(*single_shots(a)) for place, a in ACCURACIES.items()})
    for row, name in ((base, "base"), (other, "other")):
        means = np.array([np.mean(ACCURACIES[name, seed]) for seed in SEEDS])
        assert row["config"] == name and row["std_over"] == "seeds"
        assert row["seed_means"] == pytest.approx(dict(zip(SEEDS, means, strict=True)))
        assert (row["mean"], row["std"]) == pytest.approx((means.mean(), means.std(ddof=1)))
        assert (row["seeds"], row["students"]) == (2, sum(len(ACCURACIES[name, seed]) for seed in SEEDS))
        assert (row["stages"], row["images_per_class"], row["optimizer_steps"]) == (1, 2, 1001)
    assert (base["difference"], base["difference_std"]) == (None, None)
    wanted = np.mean([np.mean(ACCURACIES["other", s]) - np.mean(ACCURACIES["base", s]) for s in SEEDS])
    assert other["difference"] == pytest.approx(wanted)
    assert other["difference_std"] == pytest.approx(math.sqrt(base["std"] ** 2 + other["std"] ** 2))


def test_with_one_seed_the_spread_is_that_of_students(read: Callable[..., pa.Table]) -> None:
    one = {name: read(*single_shots(ACCURACIES[name, 0])) for name in ("base", "other")}
    found = rows({("base", 0): one["base"], ("other", 0): one["other"], ("other", 7): read()})
    assert [row["std_over"] for row in found] == ["students"] * 2
    assert found[0]["std"] == pytest.approx(np.std(ACCURACIES["base", 0], ddof=1))
    assert found[1]["seed_means"] == {0: pytest.approx(0.625), 7: None}
    assert found[1]["difference"] == pytest.approx(0.625 - 0.53) and found[1]["difference_std"] is None


def test_a_single_student_has_no_spread(read: Callable[..., pa.Table]) -> None:
    (row,) = rows({("base", 0): read(make_record())})
    assert (row["mean"], row["std"], row["std_over"]) == (0.5, None, None)


def test_what_was_not_run_is_a_row_of_nothing(read: Callable[..., pa.Table]) -> None:
    found = rows({("base", 0): read(), ("other", 0): read(make_record()), ("base", 7): read(), ("other", 7): read()})
    assert [row["config"] for row in found] == ["base", "other"]
    assert found[0]["seed_means"] == {0: None, 7: None}
    assert (found[0]["seeds"], found[0]["mean"], found[0]["mode"]) == (0, None, None)
    assert compare({}).equals(SCHEMA.empty_table())


def chain(accuracies: tuple[float, ...], mode: str = "chain", seed: int = 0, budget: str = "matched") -> list[Record]:
    """One student's records after each stage, of a chain that takes 1030 optimiser steps."""
    return [
        make_record(
            mode=mode,
            budget=budget,
            stage=stage,
            images_per_class=2 if mode == "new_only" else 2 * (stage + 1),
            optimizer_steps=1030 * (stage + 1) // len(accuracies),
            epochs=500 + stage,
            student_seed=seed,
            test_accuracy=accuracy,
        )
        for stage, accuracy in enumerate(accuracies)
    ]


def test_of_chains_the_last_stage_counts_and_baselines_stand_once(
    read: Callable[..., pa.Table],
) -> None:
    last = {"stage": 2, "images_per_class": 6}
    students = [
        *single_shots((0.5, 0.6), **last),
        *chain((0.4, 0.5, 0.66)),
        *chain((0.3, 0.4, 0.68), seed=1),
        *chain((0.4, 0.41, 0.44), mode="new_only"),
        *chain((0.4, 0.41, 0.72), budget="reference"),
        *(make_record(subject="random", distill_seed=draw, test_accuracy=0.2 + draw / 10, **last) for draw in (0, 1)),
        make_record(subject="full", test_accuracy=0.9, labels="hard", **last | {"images_per_class": 60}),
        make_record(subject="herding", test_accuracy=0.28, **last),
        make_record(subject="k_center", test_accuracy=0.27, **last),
        make_record(subject="init", test_accuracy=0.3, **last),
    ]
    found = rows({("pdd", 0): read(*students)})
    assert [(row["subject"], row["mode"], row["budget"]) for row in found] == [
        ("synthetic", "single_shot", "reference"),
        ("synthetic", "chain", "reference"),
        ("synthetic", "chain", "matched"),
        ("synthetic", "new_only", "matched"),
        *((subject, "single_shot", "reference") for subject in ("init", "random", "k_center", "herding", "full")),
    ]
    assert [row["mean"] for row in found] == pytest.approx([0.55, 0.72, 0.67, 0.44, 0.3, 0.25, 0.27, 0.28, 0.9])
    assert [row["students"] for row in found] == [2, 1, 2, 1, 1, 2, 1, 1, 1]
    assert {row["stages"] for row in found} == {3}
    assert [row["images_per_class"] for row in found] == [6] * 8 + [60]
    assert [row["optimizer_steps"] for row in found] == [1001, 1030, 1030, 1030, *[1001] * 5]
    assert [row["difference"] for row in found[1:-1]] == pytest.approx([0.17, 0.12, -0.11, -0.25, -0.30, -0.28, -0.27])
    assert found[-1]["difference"] is None  # of another size


def test_a_set_that_is_imported_or_averaged_stands_beside_the_distilled_one(read: Callable[..., pa.Table]) -> None:
    tables = {
        ("own", 0): read(make_record(), make_record(subject="ema", test_accuracy=0.6)),
        ("theirs", 0): read(make_record(subject="imported", method="imported", test_accuracy=0.75)),
    }
    found = rows(tables)
    assert [(row["config"], row["subject"]) for row in found] == [
        ("own", "synthetic"),
        ("own", "ema"),
        ("theirs", "imported"),
    ]
    assert [row["difference"] for row in found] == [None, pytest.approx(0.1), pytest.approx(0.25)]


def test_other_augmentations_have_rows_and_a_column_of_their_own(read: Callable[..., pa.Table]) -> None:
    base = [make_record(), make_record(augmentation="none", test_accuracy=0.4)]
    table = {("base", 0): read(*base), ("other", 0): read(make_record(augmentation="none", test_accuracy=0.75))}
    found = rows(table)
    assert [row["augmentation"] for row in found] == ["dsa", "none", "none"]
    assert [row["difference"] for row in found] == [None, None, pytest.approx(0.35)]
    printed = io.StringIO()
    tables.print_whole(tables.comparison(compare(table), {}), Console(file=printed))
    assert [row[2] for row in cells(printed.getvalue())] == ["dsa", "none", "none"]


def test_a_chain_that_broke_off_in_one_seed_is_not_mixed_with_whole_ones(read: Callable[..., pa.Table]) -> None:
    broken = make_failure(mode="chain", budget="matched", stage=1, images_per_class=4)
    found = rows({("pdd", 0): read(*chain((0.4, 0.5, 0.6))), ("pdd", 1): read(*chain((0.4,)), broken)})
    assert len(found) == 1
    assert found[0]["seed_means"] == {0: 0.6, 1: None}
    assert (found[0]["seeds"], found[0]["students"], found[0]["failed"], found[0]["stages"]) == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({}, True),
        ({"optimizer_steps": 1051}, True),
        ({"optimizer_steps": 1052}, False),
        ({"optimizer_steps": 950}, False),
        ({"images_per_class": 3}, False),
        ({"network": "resnet18"}, False),
        ({"dataset": "circles"}, False),
        ({"labels": "hard"}, True),
        ({"method": "mtt"}, True),
    ],
    ids=str,
)
def test_only_like_is_compared_with_like(
    changes: dict[str, object], compared: bool, read: Callable[..., pa.Table]
) -> None:
    found = rows({("base", 0): read(make_record()), ("other", 0): read(make_record(test_accuracy=0.75, **changes))})
    assert found[1]["difference"] == (0.25 if compared else None)


def test_stages_are_compared_with_their_method_by_itself(read: Callable[..., pa.Table]) -> None:
    """Whatever the order of the configurations; the first of all is there for what has no other."""
    last = {"method": "mtt", "stage": 2}
    parts = (
        make_record(test_accuracy=0.6, **last),
        make_record(mode="chain", budget="matched", test_accuracy=0.7, **last),
    )
    tables = {
        ("datm", 0): read(make_record(method="datm", test_accuracy=0.45)),
        ("a mtt in parts", 0): read(*parts),
        ("mtt", 0): read(make_record(method="mtt", test_accuracy=0.5)),
    }
    found = rows(tables)
    assert [row["reference"] for row in found] == [None, "mtt", "mtt", "datm"]
    assert [row["difference"] for row in found[1:]] == pytest.approx([0.1, 0.2, 0.05])


def test_label_regimes_are_compared_each_with_its_own(read: Callable[..., pa.Table]) -> None:
    base = [make_record(test_accuracy=0.5), make_record(labels="hard", test_accuracy=0.4)]
    found = rows({("base", 0): read(*base), ("other", 0): read(make_record(labels="hard", test_accuracy=0.75))})
    assert [row["labels"] for row in found] == ["hard", "stored", "hard"]
    assert [row["difference"] for row in found] == [None, None, pytest.approx(0.35)]


def test_what_is_printed_in_place_of_a_number_and_of_a_spread(read: Callable[..., pa.Table]) -> None:
    alone = [*single_shots((0.5, 0.6), stage=2, images_per_class=6), *chain((0.4, 0.5, 0.66))]
    places = {("a", 0): read(*alone), ("b", 0): read(make_failure()), ("a", 1): read(), ("b", 1): read()}
    states = dict(zip(places, ("finished", "finished", "failed", "unfinished"), strict=True))
    compared = compare(places)
    printed = io.StringIO()
    tables.print_whole(tables.comparison(compared, states), Console(file=printed))
    shown = cells(printed.getvalue())
    assert [row[-2:] for row in shown] == [["55.00", "failed"], ["66.00", "failed"], ["no student", "unfinished"]]
    assert [row[-5:-2] for row in shown] == [["55.00", "7.07", "students"], ["66.00", "", ""], ["", "", ""]]
    (line,) = tables.differences(compared)
    assert line == "a, chain, matched - a, single_shot = +11.00 points, of too few seeds for a spread"


def two(tmp_path: Path, **changes: object) -> tuple[SmallRun, SmallRun]:
    """Two configs that differ in the step size, without most of the baselines; `changes` are those of the second."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(parents=True)
    common = {"evaluate.baselines": ["random"], "evaluate.labels": ["hard"], "evaluate.num_students": 2}
    first = small_run(tmp_path / "a", {**common, "name": "first"})
    return first, small_run(tmp_path / "b", {**common, "name": "second", "method.image_lr": 5.0, **changes})


def artefacts(run: SmallRun) -> dict[str, str]:
    """The SHA-256 of what every seed of a config made."""
    return {
        f"{seed.name}/{name}": digest for seed in sorted(run.out.iterdir()) for name, digest in runs.made(seed).items()
    }


def cells(printed: str) -> list[list[str]]:
    """The cells of the last table that was printed."""
    last = printed.rpartition("┡")[2]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in last.splitlines() if line.startswith("│")]


def test_two_configs_with_two_seeds(tmp_path: Path, capsys: Captured) -> None:
    first, second = two(tmp_path)
    files, out = (first.file, second.file), tmp_path / "table.json"
    assert raydd("compare", *files, "--seeds", 0, 7, "--no-ray", "--json", out) == 0
    printed = capsys.readouterr().out
    order = [f"{name}, seed {seed}: finished" for seed in SEEDS for name in ("first", "second")]
    assert [line for line in printed.splitlines() if line.endswith(": finished")] == order
    written = json.loads(out.read_text())
    accuracies = {
        (run, subject, seed): students["test_accuracy"].to_numpy()
        for run in (first, second)
        for seed in SEEDS
        for subject in ("synthetic", "random")
        for students in [records.read(Folder.at(run.out / f"seed-{seed}" / "results"))]
        for students in [students.filter(pa.compute.equal(students["subject"], subject))]
    }
    shown = cells(printed)
    assert len(shown) == len(written) == 4
    for row, line, (run, subject) in zip(
        shown, written, [(run, subject) for run in (first, second) for subject in ("synthetic", "random")], strict=True
    ):
        means = [accuracies[run, subject, seed].mean() for seed in SEEDS]
        assert (line["config"], line["subject"]) == ("first" if run is first else "second", subject)
        assert line["mean"] == pytest.approx(np.mean(means)) and line["std"] == pytest.approx(np.std(means, ddof=1))
        assert row[0] == line["config"]
        assert row[-5:] == [f"{100 * line['mean']:.2f}", f"{100 * line['std']:.2f}", "seeds"] + [
            f"{100 * mean:.2f}" for mean in means
        ]
    change = 100 * written[2]["difference"]
    spread = 100 * math.hypot(written[0]["std"], written[2]["std"])
    words = "beyond" if abs(change) > spread else "within"
    assert (
        f"second, single_shot - first, single_shot = {change:+.2f} +- {spread:.2f} points, {words} one standard"
        in printed
    )
    before = state(tmp_path)
    assert raydd("compare", *files, "--seeds", 0, 7, "--no-ray") == 0
    again = capsys.readouterr().out
    assert "finished" not in again and cells(again) == shown
    assert state(tmp_path) == before


def test_a_run_of_several_stages_beside_one_of_one(tmp_path: Path, capsys: Captured) -> None:
    stages = {"count": 2, "pool_size": 2, "epochs": 3, "trajectory_epochs": 4}
    budgets = {"evaluate.modes": ["chain", "new_only", "single_shot"], "evaluate.budgets": ["reference"]}
    one, several = two(tmp_path, stages=stages, **budgets)
    out = tmp_path / "table.json"
    assert raydd("compare", one.file, several.file, "--seeds", 0, "--no-ray", "--quiet", "--json", out) == 0
    written = {(row["config"], row["subject"], row["mode"]): row for row in json.loads(out.read_text())}
    assert len(written) == len(cells(capsys.readouterr().out)) == 6
    table = records.read(Folder.at(several.out / "seed-0" / "results")).to_pylist()
    for mode, steps in (("chain", 6), ("new_only", 6), ("single_shot", 5)):
        own = [row for row in table if (row["subject"], row["mode"], row["stage"]) == ("synthetic", mode, 1)]
        row = written["second", "synthetic", mode]
        assert (row["stages"], row["images_per_class"], row["optimizer_steps"], row["students"]) == (2, 2, steps, 2)
        assert row["mean"] == pytest.approx(np.mean([student["test_accuracy"] for student in own]))
    assert written["first", "synthetic", "single_shot"]["images_per_class"] == 1
    page = (several.out / "seed-0" / "report.html").read_text()
    assert 'aria-label="Accuracy after each stage"' in page
    for stage in (0, 1):
        assert len(re.findall(f'alt="[^"]*[0-9], stage {stage}[^"]*"', page)) == 10
        assert f"Distilling, stage {stage}" in page


def test_each_seed_is_the_run_of_that_seed(tmp_path: Path) -> None:
    first, _ = two(tmp_path)
    assert raydd("compare", first.file, "--seeds", 7, "--no-ray", "--quiet") == 0
    assert raydd("run", first.file, "--no-ray", "--quiet", "--seed", 7, "--out", tmp_path / "alone") == 0
    assert runs.made(first.out / "seed-7") == runs.made(tmp_path / "alone")
    assert runs.students(first.out / "seed-7").equals(runs.students(tmp_path / "alone"))


def test_what_is_there_is_printed_and_nothing_run(tmp_path: Path, capsys: Captured) -> None:
    first, second = two(tmp_path)
    assert raydd("compare", first.file, "--seeds", 0, "--no-ray", "--quiet") == 0
    assert raydd("experts", second.file, "--no-ray", "--quiet", "--out", second.out / "seed-0") == 0
    before = state(tmp_path)
    capsys.readouterr()
    for flags in (["--only-print"], ["--hours", 0]):
        assert raydd("compare", first.file, second.file, "--seeds", 0, 1, "--no-ray", *flags) == 0
        printed = cells(capsys.readouterr().out)
        assert [row[-1] for row in printed] == ["not run"] * 3
        assert printed[2][-2] == "unfinished" and float(printed[0][-2]) > 0
    assert state(tmp_path) == before


def test_numbers_of_another_config_are_not_shown_as_this_ones(tmp_path: Path, capsys: Captured) -> None:
    first, _ = two(tmp_path)
    assert raydd("compare", first.file, "--seeds", 0, "--no-ray", "--quiet") == 0
    first.file.write_text(first.file.read_text().replace("image_lr: 1.0", "image_lr: 2.0"))
    capsys.readouterr()
    assert raydd("compare", first.file, "--seeds", 0, "--no-ray", "--quiet", "--only-print") == 0
    assert cells(capsys.readouterr().out)[0][-1] == "unfinished"
    assert raydd("compare", first.file, "--seeds", 0, "--no-ray", "--quiet") == 1
    printed = capsys.readouterr().out
    assert cells(printed)[0][-1] == "failed"
    assert "failed: first, seed 0: method.image_lr: is 2.0, but" in printed


FAILURES = {
    "user": ({"method.images_per_class": 13}, "method.images_per_class: 13 asked for"),
    "work": ({"method.image_lr": 1e30, "method.max_rollbacks": 0}, "after 0 roll-backs; lower method.image_lr"),
}


@pytest.mark.parametrize("kind", ["user", pytest.param("work", marks=pytest.mark.slow)])
def test_a_run_that_fails_leaves_the_others(kind: str, tmp_path: Path, capsys: Captured) -> None:
    changes, message = FAILURES[kind]
    first, second = two(tmp_path, **changes)
    assert raydd("compare", second.file, first.file, "--seeds", 0, 1, "--no-ray", "--quiet") == 1
    printed = capsys.readouterr().out
    table = cells(printed)
    assert table[0][0] == "second" and table[0][-2:] == ["failed", "failed"]
    assert table[1][0] == "first" and "failed" not in table[1]
    assert printed.count("failed: second, seed") == 2 and message in printed
    second.file.write_text(
        second.file.read_text()
        .replace("images_per_class: 13", "images_per_class: 1")
        .replace("image_lr: 1.0e+30", "image_lr: 5.0")
    )
    before = state(first.out)
    assert raydd("compare", second.file, first.file, "--seeds", 0, 1, "--no-ray", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "failed:" not in printed and not any("failed" in row for row in cells(printed))
    assert state(first.out) == before


class Broken(Interrupted):
    """A progress in which something goes wrong, once, after some updates."""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError("out of [luck]")


def test_an_error_that_nobody_foresaw_is_shown_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    broken = Broken(3)

    @contextmanager
    def breaking(console: Console, quiet: bool) -> Iterator[Progress]:
        yield broken

    first, second = two(tmp_path)
    monkeypatch.setattr("raydd.cli.compare.shown_progress", breaking)
    assert raydd("compare", first.file, second.file, "--seeds", 0, "--no-ray") == 1
    printed = capsys.readouterr()
    assert "failed: first, seed 0: ZeroDivisionError: out of [luck]" in printed.out
    assert "Traceback" in printed.err and "in update" in printed.err
    assert [row[-1] == "failed" for row in cells(printed.out)] == [True, False, False]


@pytest.mark.parametrize("updates", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_an_interrupted_comparison_goes_on_to_the_same_results(
    updates: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    @contextmanager
    def interrupted(console: Console, quiet: bool) -> Iterator[Progress]:
        yield Interrupted(updates)

    whole, cut = two(tmp_path / "whole")[0], two(tmp_path / "cut")[0]
    with monkeypatch.context() as patched:
        patched.setattr("raydd.cli.compare.shown_progress", interrupted)
        assert raydd("compare", cut.file, "--seeds", 0, 1, "--no-ray") == 130
    printed = capsys.readouterr()
    assert printed.err == "interrupted; the same command goes on from here\n"
    assert cells(printed.out)[0][-2:] == ["unfinished", "not run"]
    for run in (cut, whole):
        assert raydd("compare", run.file, "--seeds", 0, 1, "--no-ray", "--quiet") == 0
    assert artefacts(cut) == artefacts(whole)
    for seed in (0, 1):
        assert runs.students(cut.out / f"seed-{seed}").equals(runs.students(whole.out / f"seed-{seed}"))


def test_mistakes_are_refused_before_anything_is_run(tmp_path: Path, capsys: Captured) -> None:
    first, second = two(tmp_path)
    common, copied = ["--no-ray", "--quiet"], tmp_path / "copied.yaml"
    copied.write_text(first.file.read_text())

    def refused(*arguments: object, words: str) -> None:
        require_refusal(tmp_path, capsys, lambda: raydd("compare", *arguments, *common), words)

    refused(first.file, tmp_path / "none.yaml", words="none.yaml: there is no such configuration file")
    refused(first.file, first.file, words=f"{first.file}: is named twice")
    refused(first.file, copied, words=f"{first.file} and {copied} both write into {first.out}")
    refused(first.file, "--hours", -1, words="--hours: must not be negative, is -1")
    refused(first.file, "--hours", "nan", words="--hours: must not be negative")
    refused(first.file, "--method.image-lr", 3, words="compare: there is no option --method.image-lr")
    second.file.write_text(second.file.read_text().replace("image_lr", "image_lrr"))
    refused(first.file, second.file, words="method.image_lrr: there is no such field")


def test_configs_of_one_name_are_told_apart_by_their_files(tmp_path: Path, capsys: Captured) -> None:
    first, second = two(tmp_path, name="first")
    assert raydd("compare", first.file, second.file, "--seeds", 0, "--only-print") == 0
    assert [row[0] for row in cells(capsys.readouterr().out)] == [str(first.file), str(second.file)]
