"""Tables of what probes found: hand-computed means and spreads, and a comparison of real runs from end to end."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pyarrow as pa
import pytest

import raydd
from raydd.evaluation import records
from raydd.evaluation.record import Record, record_id
from raydd.evaluation.tables.probe_tables import HEADLINES, ProbeRow, compare, rows, shown
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record
from tests.support.small import CONFIG, small_run
from tests.support.small import raydd as command

Read = Callable[..., pa.Table]
Captured = pytest.CaptureFixture[str]


def found(probe: str, number: int = 0, variant: str = "", **changes: object) -> Record:
    """An answer; `metrics`, and whatever else differs."""
    name = f"{probe}-{number}-{variant.replace(' ', '-')}-{'-'.join(map(str, changes.values()))}"
    own = {"record_id": record_id({"name": name}), "labels": "hard"} | changes
    return make_record(probe=probe, variant=variant, student_seed=number, **own)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(*answers: Record) -> pa.Table:
        folder = Folder.at(tmp_path / str(len(list(tmp_path.iterdir()))) / "results")
        for answer in answers:
            records.write(folder, answer)
        return records.read_probes(folder)

    return read


def by_place(table: pa.Table) -> dict[tuple[str, ...], ProbeRow]:
    return {row.place: row for row in rows(table)}


def test_answers_that_differ_in_seed_and_draw_are_one_row(read: Read) -> None:
    aucs = {(0, 0): 0.5, (1, 0): 0.6, (0, 1): 0.9}
    table = read(
        *(
            found("membership", seed, subject="random", distill_seed=draw, metrics={"lira_auc": auc})
            for (seed, draw), auc in aucs.items()
        ),
        found("membership", 0, metrics={"lira_auc": 0.7, "shadows": 8.0}),
        make_failure(record_id="0" * 16, probe="membership", variant="", labels="hard"),
        found("membership", 0, labels="stored", metrics={"lira_auc": 0.4}),
    )
    of = by_place(table)
    assert list(of) == [
        ("membership", "synthetic", "", "hard"),
        ("membership", "synthetic", "", "stored"),
        ("membership", "random", "", "hard"),
    ]
    random = of["membership", "random", "", "hard"]
    assert (random.count, random.failed) == (3, 0)
    assert random.values["lira_auc"] == pytest.approx((fmean(aucs.values()), stdev(aucs.values())))
    own = of["membership", "synthetic", "", "hard"]
    assert (own.count, own.failed) == (1, 1)
    assert own.values == {"lira_auc": (0.7, None), "shadows": (8.0, None)}


def test_memories_are_rows_of_what_they_are_made_of(read: Read) -> None:
    kinds = {"set": 0.9, "random": 0.5, "herding": 0.6, "random_bytes": 0.7, "full": 0.95}
    table = read(
        *(
            found(
                "continual",
                order,
                f"{memory} {order}",
                subject="full" if memory == "full" else "synthetic",
                metrics={"average_accuracy": accuracy + 0.1 * order},
            )
            for memory, accuracy in kinds.items()
            for order in range(2)
        )
    )
    means = {place[1:3]: row.values["average_accuracy"][0] for place, row in by_place(table).items()}
    assert means == pytest.approx(
        {
            ("synthetic", ""): 0.95,
            ("synthetic", "random_bytes"): 0.75,
            ("random", ""): 0.55,
            ("herding", ""): 0.65,
            ("full", ""): 1.0,
        }
    )


def searching(proxy: list[float], truth: list[float], **changes: object) -> list[Record]:
    made = []
    for number, values in enumerate(zip(proxy, truth, strict=True)):
        for subject, accuracy in zip(("synthetic", "full"), values, strict=True):
            network = {"subject": subject, "network": f"net-{number}"} | changes
            made.append(found("search", test_accuracy=accuracy, metrics={"selection_accuracy": accuracy}, **network))
    return made


def test_a_search_is_a_row_of_rank_correlation_and_regret(read: Read) -> None:
    (row,) = rows(read(*searching([0.1, 0.4, 0.2, 0.3], [0.2, 0.5, 0.6, 0.9])))
    # ranks 1 4 2 3 and 1 2 3 4: sum of squared differences 0 + 4 + 1 + 1, so 1 - 6 * 6 / (4 * 15)
    assert row.values["spearman"] == (pytest.approx(0.4), None)
    assert row.values["regret"] == (pytest.approx(0.9 - 0.5), None)
    assert row.values["architectures"] == (4.0, None)
    assert row.place == ("search", "synthetic", "", "hard")


def test_spreads_are_between_seeds_or_over_the_answers_of_one(read: Read) -> None:
    of_seed = {seed: [0.5 + seed, 0.7 + seed] for seed in (0, 1)}
    tables = {
        ("one", seed): read(*(found("copies", n, metrics={"pixel_copies": v}) for n, v in enumerate(values)))
        for seed, values in of_seed.items()
    }
    tables["two", 0] = tables["one", 1]
    tables["none", 0] = read()
    first, second = compare(tables).to_pylist(maps_as_pydicts="strict")
    assert first["config"] == "one" and (first["seeds"], first["answers"], first["std_over"]) == (2, 4, "seeds")
    assert first["mean"] == pytest.approx(1.1) and first["std"] == pytest.approx(stdev([0.6, 1.6]))
    assert first["seed_means"] == pytest.approx({0: 0.6, 1: 1.6})
    assert second["config"] == "two" and (second["seeds"], second["std_over"]) == (1, "answers")
    assert second["std"] == pytest.approx(stdev([1.5, 1.7]))


def test_leading_metrics_come_in_the_order_of_the_headlines() -> None:
    known = ["robust_drop_8", "clean_accuracy", "robust_accuracy_2", "robust_accuracy_8", "fog_accuracy"]
    assert shown("robustness", known) == ["robust_accuracy_2", "robust_accuracy_8", "clean_accuracy"]
    assert set(HEADLINES) == {"copies", "membership", "robustness", "continual", "search", "realism"}


@pytest.mark.slow
def test_a_comparison_of_runs_with_probes(tmp_path: Path, capsys: Captured) -> None:
    """One table; asking for another probe answers that alone; nothing is done twice; a lost answer is made anew."""
    asked = {
        "probes": ["copies", "realism"],
        "baselines": ["random"],
        "random_draws": 2,
        "realism": {"permutations": 9},
    }
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = small_run(tmp_path / "one", {"name": "one", "evaluate": CONFIG["evaluate"] | asked})
    two = small_run(tmp_path / "two", {"name": "two", "evaluate": CONFIG["evaluate"] | asked | {"probes": []}})
    line = ("compare", one.file, two.file, "--seeds", 0, "--no-ray", "--quiet")
    assert command(*line) == 0
    printed = capsys.readouterr().out
    table = raydd.probes(one.out / "seed-0")
    (copied,) = (
        row["mean"]
        for row in table.to_pylist()
        if (row["subject"], row["metric"], row["labels"]) == ("random", "pixel_copies", "stored")
    )
    assert copied == 1.0, "random images are images of the training set"
    (shown,) = (line for line in printed.splitlines() if "pixel copies" in line)
    assert [cell.strip() for cell in shown.split("│")[-3:-1]] == ["1.000 ± 0.000 (2)", ""], printed
    parts = sorted((one.out / "seed-0" / "results").glob("*.parquet"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    assert command(*line) == 0
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    assert "pixel copies" in capsys.readouterr().out
    answers = records.read_probes(Folder.at(one.out / "seed-0") / "results")["record_id"].to_pylist()
    (lost,) = (part for part in parts if answers[0] in part.name)
    lost.unlink()
    assert command("compare", one.file, "--seeds", 0, "--only-print", "--quiet") == 0
    assert "pixel copies" not in capsys.readouterr().out, "an unfinished run has no numbers"
    assert command(*line) == 0
    assert lost.exists() and all(part.stat().st_mtime_ns == before[part] for part in parts if part != lost)
    assert table.equals(raydd.probes(one.out / "seed-0"))


def test_answers_to_earlier_questions_are_not_mixed_in(tmp_path: Path, capsys: Captured) -> None:
    asked = {"probes": ["realism"], "baselines": ["random"], "labels": ["hard"], "realism": {"permutations": 9}}
    small = small_run(tmp_path, {"evaluate": CONFIG["evaluate"] | asked})
    for permutations in (9, 19):
        assert small.does("probe", "--evaluate.realism.permutations", permutations) == 0
    assert len(records.read_probes(Folder.at(small.out) / "results")) == 4
    last = capsys.readouterr().out.rpartition("┡")[2]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in last.splitlines() if line.startswith("│")]
    assert [(line[0], line[-2]) for line in cells] == [("synthetic", "1"), ("random", "1")]
