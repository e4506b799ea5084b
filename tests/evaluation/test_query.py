"""Students of several runs, chosen by conditions and summarised, agree with plain Python over their rows."""

import argparse
import csv
import io
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raydd.cli import query as command
from raydd.core.errors import UserError
from raydd.evaluation import records
from raydd.evaluation.record import SCHEMA
from raydd.evaluation.tables import collection, query
from raydd.evaluation.tables.pooling import after_all_stages, pool, told_apart
from raydd.evaluation.tables.query import Condition
from raydd.storage import Folder
from tests.evaluation.test_records import make_record
from tests.support.several_runs import student, write_config

OPERATORS: dict[str, Callable[[object, object], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
ORDERED = {
    "images_per_class": [1, 2, 10, 50],
    "learned_lr": [None, 0.01, 0.1],
    "metrics.ece": [None, 0.05, 0.25],
    "param.evaluate.recipe.lr": [None, 0.01, 0.5],
}
TEXT = {"labels": ["hard", "stored"], "network": ["convnet", "mlp"], "error": [None]}


def rows_of(values: dict[str, list[object]]) -> list[dict[str, object]]:
    """Rows that go through the values of all columns, each at a pace of its own."""
    count = 24
    return [
        {name: own[(i // (1 + k)) % len(own)] for k, (name, own) in enumerate(values.items())} for i in range(count)
    ]


ROWS = rows_of({**ORDERED, **TEXT})


def table() -> pa.Table:
    parts = []
    for number, row in enumerate(ROWS):
        plain = {name: value for name, value in row.items() if "." not in name and name != "error"}
        metrics = {} if row["metrics.ece"] is None else {"ece": row["metrics.ece"]}
        record = make_record(**plain, metrics=metrics, record_id=f"{number:016x}", student_seed=number)
        values = {**record.__dict__, "metrics": list(metrics.items())}
        made = pa.Table.from_pylist([values], SCHEMA)
        parts.append(
            made.append_column("param.evaluate.recipe.lr", pa.array([row["param.evaluate.recipe.lr"]], pa.float64()))
        )
    return pa.concat_tables(parts)


TABLE = table()


def chosen(*conditions: str) -> list[int]:
    return query.select(TABLE, [query.parse(text) for text in conditions])["student_seed"].to_pylist()


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, str, object]:
    name = draw(st.sampled_from([*ORDERED, *TEXT]))
    sign = draw(st.sampled_from(list(OPERATORS) if name in ORDERED else ["=", "!="]))
    values = [value for value in {**ORDERED, **TEXT}[name] if value is not None]
    return name, sign, draw(st.sampled_from([*values, *([None] if sign in ("=", "!=") else [])] or [None]))


@given(st.lists(comparisons(), max_size=3), st.sampled_from(["", " "]))
def test_conditions_are_a_conjunction(asked: list[tuple[str, str, object]], space: str) -> None:
    def passes(row: dict[str, object], name: str, sign: str, value: object) -> bool:
        own = row[name]
        return OPERATORS[sign](own, value) if own is not None or sign in ("=", "!=") else False

    words = [f"{name}{space}{sign}{space}{'null' if value is None else value}" for name, sign, value in asked]
    assert chosen(*words) == [i for i, row in enumerate(ROWS) if all(passes(row, *one) for one in asked)]


def test_a_condition_is_read_as_it_is_written() -> None:
    assert query.parse(" images_per_class >= 10 ") == Condition("images_per_class", ">=", "10")
    assert query.parse("run=a b") == Condition("run", "=", "a b")
    assert str(query.parse("metrics.ece <0.1")) == "metrics.ece<0.1"
    assert query.parse("augmentation=").value == ""


@pytest.mark.parametrize("text", ["labels", "=hard", "labels==hard", "labels=>hard", "labels<>hard", ""])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write COLUMN OP VALUE, OP one of =, !="):
        query.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labls=hard", r"there is no column labls; did you mean labels"),
        ("metrics.ec>0", r"did you mean metrics\.ece"),
        ("recipe.lr=1", r"did you mean .*param\.evaluate\.recipe\.lr"),
        ("zzz=1", r"there are record_id, probe, variant, run, .*metrics\.ece"),
        ("images_per_class>ten", r"images_per_class holds whole numbers, not 'ten'"),
        ("images_per_class=1.5", r"images_per_class holds whole numbers, not '1.5'"),
        ("images_per_class<99999999999999999999", r"images_per_class holds whole numbers"),
        ("test_accuracy>50%", r"test_accuracy holds numbers, not '50%'"),
        ("time>yesterday", r"time holds times \(2026-11-20"),
        ("network>convnet", r"network holds text, which has no order; take = or !="),
        ("class_accuracy=0.5", r"class_accuracy holds lists; they can be compared with null alone"),
        ("learned_lr<null", r"null has no order; take = or !="),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(text)


def test_times_are_compared_in_utc() -> None:
    assert len(chosen("time>=2026-11-20")) == len(ROWS)
    assert chosen("time<2026-11-20T12:00") == []
    assert len(chosen("time<2026-11-20T14:00:01+02:00")) == len(ROWS)


def write(folder: Folder, name: str, **changes: object) -> str:
    record = student(name, **changes)
    records.write(folder / "results", record)
    return record.record_id


def ask(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    out = io.StringIO()
    assert command.report(parser.parse_args(arguments), Console(file=out, width=400, highlight=False)) == 0
    return out.getvalue()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of one configuration and one of another; random images are the same student in both of seed 0."""
    folder = Folder.at(tmp_path / "runs")
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        run = folder / name / f"seed-{seed}"
        write_config(run, name, seed, {"name": "datm", "image_lr": 1.0 if name == "a" else 2.0})
        for number in range(3):
            accuracy = 0.5 + 0.1 * seed + 0.02 * number + 0.2 * (name == "b")
            own = {"student_seed": number, "distill_seed": seed, "config_key": f"{name}{seed}"}
            write(
                run,
                name,
                test_accuracy=accuracy,
                images_per_class=10,
                metrics={"ece": accuracy / 10, "a.b": 1.0},
                **own,
            )
        shared = make_record(subject="random", labels="hard", test_accuracy=0.3, images_per_class=10, run=name)
        records.write(run / "results", shared)
    return tmp_path / "runs"


def test_csv_has_the_means_of_each_configuration(runs: Path, tmp_path: Path) -> None:
    ask(str(runs), "--csv", str(tmp_path / "out.csv"))
    rows = {(row["run"], row["subject"]): row for row in csv.DictReader((tmp_path / "out.csv").open())}
    assert rows.keys() == {("a", "synthetic"), ("b", "synthetic"), ("", "random")}
    seeds = [[0.5, 0.52, 0.54], [0.6, 0.62, 0.64]]
    a = rows["a", "synthetic"]
    assert float(a["mean_percent"]) == pytest.approx(100 * fmean(seeds[0] + seeds[1]))
    assert float(a["sd_percent"]) == pytest.approx(100 * stdev(seeds[0] + seeds[1]), abs=1e-5)
    assert (a["n"], a["draws"], a["failed"], a["labels"], a["images_per_class"]) == ("6", "2", "0", "stored", "10")
    assert float(a["sd_of_draws_percent"]) == pytest.approx(100 * stdev(map(fmean, seeds)), abs=1e-5)
    assert float(a["metrics.ece"]) == pytest.approx(fmean(seeds[0] + seeds[1]) / 10) and "metrics.a.b" not in a
    assert (rows["", "random"]["n"], rows["", "random"]["sd_percent"]) == ("1", "")
    assert rows["", "random"]["method"] == "random"


def test_markdown_and_the_terminal_show_the_same_best_first(runs: Path, tmp_path: Path) -> None:
    printed = ask(str(runs), "--where", "labels=stored", "--markdown", str(tmp_path / "out.md"))
    head, rule, *lines = (tmp_path / "out.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    assert [row[0] for row in cells] == ["run", "b", "a"]
    assert set(rule) == set("|-: ") and rule.count("|") == head.count("|")
    mean = cells[0].index("mean %")
    assert [row[mean] for row in cells[1:]] == ["72.00", "57.00"]
    for row in cells:
        assert all(cell in printed for cell in row)


def test_one_run_can_be_named_alone(runs: Path, tmp_path: Path) -> None:
    ask(str(runs / "a" / "seed-1"), str(runs / "a" / "seed-1" / "results"), "--csv", str(tmp_path / "out.csv"))
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(row["run"], row["n"]) for row in rows] == [("", "1"), ("a", "3")]


def test_where_nothing_is_left_that_is_said(runs: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("out.csv", "out.md", "out.html")]
    flags = ["--csv", str(files[0]), "--markdown", str(files[1]), "--html", str(files[2])]
    printed = ask(str(runs), "--where", "labels=online", "--where", "images_per_class>=10", *flags)
    assert "none of 10 students passes labels=online and images_per_class>=10" in printed
    assert files[0].read_text().startswith("run,subject,dataset") and files[0].read_text().count("\n") == 1
    assert files[1].read_text().count("\n") == 2
    assert not files[2].exists()


def test_a_folder_without_records_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no student's record lies here"):
        ask(str(runs), str(tmp_path / "empty"))


def test_runs_of_one_name_are_told_apart_by_their_configs(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    for number, (lr, seed) in enumerate([(1.0, 0), (1.0, 1), (5.0, 0)]):
        run = folder / str(number)
        write_config(run, "same", seed, {"name": "datm", "image_lr": lr})
        write(run, "same", distill_seed=seed, learned_lr=lr)
    found = collection.collect([folder])
    assert [source.variant for source in found.sources] == ["same (image_lr 1.0)"] * 2 + ["same (image_lr 5.0)"]
    assert found.differing() == ["method.image_lr"]
    lines = pool(collection.named(found.table, found.owners))
    assert [(line.variant, line.row.n) for line in lines] == [("same (image_lr 1.0)", 2), ("same (image_lr 5.0)", 1)]


def test_draws_of_runs_with_other_seeds_are_other_draws(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        run = folder / f"{name}{seed}"
        write_config(run, name, seed, {"name": name})
        write(run, name, subject="random", labels="hard", distill_seed=0, config_key=f"{name}{seed}")
    found = collection.collect([folder])
    (line,) = pool(collection.named(found.table, found.owners))
    assert (line.variant, line.row.n, line.draws.n) == ("", 3, 2)


def test_points_of_a_sweep_are_lines_of_their_own(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "sweeps" / "s-1234" / "results"
    for lr in (0.1, 0.5):
        for seed in (0, 1):
            record = student("swept", student_seed=seed, learned_lr=lr)
            records.write(folder, record, {"evaluate.recipe.lr": lr})
    found = collection.collect([Folder.at(tmp_path)])
    lines = pool(collection.named(found.table, found.owners))
    assert [(line.parameters, line.row.n) for line in lines] == [({"evaluate.recipe.lr": lr}, 2) for lr in (0.1, 0.5)]
    assert "evaluate.recipe.lr" in ask(str(tmp_path))


def test_chains_count_after_their_last_stage(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "run"
    for stage in range(3):
        write(folder, "pdd", stage=stage, mode="chain", budget="matched", images_per_class=2 * (stage + 1))
    write(folder, "pdd", stage=2, mode="single_shot", images_per_class=6)
    found = collection.collect([folder])
    every = pool(collection.named(found.table, found.owners))
    last = after_all_stages(every)
    assert [(line.row.mode, line.row.images_per_class) for line in last] == [("chain", 6), ("single_shot", 6)]
    assert len(every) == 4
    assert told_apart([line.facts for line in last], ("labels", "mode", "budget")) == ["mode"]


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "run"
    write(folder, "a")
    folder.write("config.yaml", b"name: [")
    with pytest.raises(UserError, match=r"run/config\.yaml: damaged"):
        collection.collect([folder])


def test_the_latest_record_of_a_student_counts_wherever_it_lies(tmp_path: Path) -> None:
    for name, hour, accuracy in (("a", 10, 0.1), ("b", 11, 0.9)):
        record = make_record(run=name, test_accuracy=accuracy, time=datetime(2026, 11, 20, hour, tzinfo=UTC))
        records.write(Folder.at(tmp_path) / name / "results", record)
    found = collection.collect([Folder.at(tmp_path)])
    assert found.table["test_accuracy"].to_pylist() == [0.9]
