"""Scores of training sets: numbers worked out by hand, and students on digits whose scores are known beforehand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pytest
from torch import Tensor

from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data import DataConfig
from raydd.data.prepared import PreparedData, prepare
from raydd.evaluation import records
from raydd.evaluation.record import Record, Subject
from raydd.evaluation.students.training import Provenance, Pupil, TrainingSet, train_students
from raydd.evaluation.students.trials import Trial
from raydd.evaluation.tables.architectures import SCHEMA as MATRIX
from raydd.evaluation.tables.architectures import architectures
from raydd.evaluation.tables.scores import SCHEMA, normalised, scores
from raydd.evaluation.tables.summary import summarise
from raydd.methods.initial import class_labels, random_real
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.training.recipe import Recipe
from tests.evaluation.test_records import make_failure, make_record
from tests.reference import scores as reference
from tests.support import tiny

Accuracies = Sequence[Sequence[float]]
"""Of each draw or distillation the students'."""
SETS: dict[tuple[Subject, str], Accuracies] = {
    ("synthetic", "stored"): [(0.61, 0.65, 0.63)],
    ("synthetic", "hard"): [(0.52, 0.50, 0.57)],
    ("random", "stored"): [(0.40, 0.44), (0.37, 0.39), (0.46, 0.42)],
    ("random", "hard"): [(0.30, 0.34), (0.35, 0.33), (0.29, 0.25)],
    ("full", "hard"): [(0.80, 0.84)],
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., pa.Table]:
    """Records by way of files, those of each call in a folder of their own."""
    folders = iter(range(1000))

    def table(*students: Record, parameters: Sequence[dict[str, float | str]] = ()) -> pa.Table:
        folder = Folder.at(tmp_path / str(next(folders)))
        chosen = parameters or [{}] * len(students)
        for number, (student, own) in enumerate(zip(students, chosen, strict=True)):
            records.write(folder, replace(student, record_id=f"{number:016x}"), own)
        return records.read(folder)

    return table


def students(subject: str, labels: str, accuracies: Accuracies, **changes: Any) -> list[Record]:
    """Records of the students of each draw or distillation; all the data take other epochs, and are more."""
    other = {"epochs": 30, "images_per_class": 500, "mode": "single_shot"} if subject == "full" else {}
    return [
        make_record(**{"subject": subject, "labels": labels, **changes, **other}, **own)
        for draw, found in enumerate(accuracies)
        for seed, accuracy in enumerate(found)
        for own in [{"distill_seed": draw, "student_seed": seed, "test_accuracy": accuracy}]
    ]


def everything(**changes: Any) -> list[Record]:
    return [
        record for (subject, labels), found in SETS.items() for record in students(subject, labels, found, **changes)
    ]


def scored(table: pa.Table) -> dict[tuple[str, ...], dict[str, Any]]:
    """The rows by subject, labels and augmentation."""
    found = scores(table)
    assert found.schema.equals(SCHEMA)
    rows = found.to_pylist(maps_as_pydicts="strict")
    by_name = {(row["subject"], row["labels"], row["augmentation"]): row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def mean(subject: Subject, labels: str) -> float:
    """Of the draws' means."""
    return fmean(map(fmean, SETS[subject, labels]))


def squared_error(subject: Subject, labels: str) -> float:
    """Of that mean: over draws of random images, over students of the others."""
    found = SETS[subject, labels]
    return reference.squared_error([fmean(own) for own in found] if subject == "random" else found[0])


@pytest.mark.parametrize(("advantage", "wanted"), [(0.0, 0.269), (0.1, 0.314), (-0.2, 0.192), (-1.0, 0.0), (1.0, 1.0)])
def test_the_scale_is_dd_rankings(advantage: float, wanted: float) -> None:
    assert normalised(advantage) == pytest.approx(wanted, abs=5e-4)
    assert normalised(advantage) == pytest.approx(reference.score(advantage))


@pytest.mark.parametrize(
    ("hlr", "ior", "wanted"),
    [(26.84, 35.05, 28.7), (18.89, 23.89, 28.0), (23.73, 30.90, 28.4), (69.86, -0.27, 14.3), (52.66, 12.40, 19.1)],
    ids=["DATM 10", "DATM 50", "MTT 10", "SRe2L 1", "DC 1"],
)
def test_rows_of_the_leaderboard(read: Callable[..., pa.Table], hlr: float, ior: float, wanted: float) -> None:
    """CIFAR-10, in %; LRS worked out from the other two."""
    made = {("synthetic", "stored"): 0.6, ("random", "stored"): 0.6 - ior / 100, ("full", "hard"): 0.85}
    made["synthetic", "hard"] = 0.85 - hlr / 100
    row = scored(read(*(s for name, a in made.items() for s in students(*name, [(a,)]))))["synthetic", "stored", "dsa"]
    assert (100 * row["hlr"], 100 * row["ior"]) == pytest.approx((hlr, ior))
    assert 100 * row["lrs"] == pytest.approx(wanted, abs=0.05)
    assert row["lrs_error"] is None and row["ars"] is None


def test_scores_and_their_errors_are_those_of_the_groups(read: Callable[..., pa.Table]) -> None:
    found = scored(read(*everything()))
    assert list(found) == [("synthetic", "hard", "dsa"), ("synthetic", "stored", "dsa")]
    for labels in ("hard", "stored"):
        row = found["synthetic", labels, "dsa"]
        hlr = mean("full", "hard") - mean("synthetic", "hard")
        ior = mean("synthetic", labels) - mean("random", labels)
        assert (row["accuracy"], row["hard_accuracy"]) == pytest.approx(
            (mean("synthetic", labels), mean("synthetic", "hard"))
        )
        assert (row["random_accuracy"], row["full_accuracy"]) == pytest.approx((mean("random", labels), 0.82))
        assert (row["hlr"], row["ior"]) == pytest.approx((hlr, ior))
        of_hard, of_random = squared_error("synthetic", "hard"), squared_error("random", labels)
        of_set, of_full = squared_error("synthetic", labels), squared_error("full", "hard")
        assert row["accuracy_error"] == pytest.approx(math.sqrt(of_set))
        assert row["hlr_error"] == pytest.approx(math.sqrt(of_full + of_hard))
        assert row["ior_error"] == pytest.approx(math.sqrt(of_set + of_random))
        assert row["lrs"] == pytest.approx(reference.score((ior - hlr) / 2))
        sets = of_set if labels == "hard" else (of_set + of_hard) / 4  # the same students twice, or others
        slope = (reference.score((ior - hlr) / 2 + 1e-6) - reference.score((ior - hlr) / 2 - 1e-6)) / 2e-6
        assert row["lrs_error"] == pytest.approx(slope * math.sqrt(sets + (of_random + of_full) / 4), rel=1e-6)
        assert (row["n"], row["over"], row["ars"], row["parameters"]) == (3, "students", None, {})


def test_what_was_not_evaluated_leaves_scores_open_and_regimes_are_not_mixed(read: Callable[..., pa.Table]) -> None:
    def without(*names: tuple[str, str]) -> dict[str, Any]:
        kept = [s for s in everything() if (s.subject, s.labels) not in names]
        failed = [make_failure(subject=subject, labels=labels, student_seed=9) for subject, labels in names]
        return scored(read(*kept, *failed))["synthetic", "stored", "dsa"]

    row = without(("synthetic", "hard"))
    assert (row["hlr"], row["lrs"], row["hard_accuracy"]) == (None, None, None) and row["ior"] is not None
    row = without(("random", "stored"))
    assert (row["ior"], row["ior_error"], row["lrs"]) == (None, None, None) and row["hlr"] is not None
    row = without(("full", "hard"))
    assert (row["hlr"], row["lrs"], row["full_accuracy"]) == (None, None, None) and row["ior"] is not None


@pytest.mark.parametrize(
    "other",
    [
        {"run": "other"},
        {"network": "mlp"},
        {"augmentation": "none"},
        {"recipe": "rd3"},
        {"dataset": "other"},
        {"optimizer": "adamw"},
        {"images_per_class": 5},
    ],
    ids=lambda other: next(iter(other)),
)
def test_only_what_was_trained_alike_is_compared(read: Callable[..., pa.Table], other: dict[str, Any]) -> None:
    baselines = [s for s in everything(**other) if s.subject != "synthetic"]
    sets = [s for s in everything() if s.subject == "synthetic"]
    row = scored(read(*sets, *baselines))["synthetic", "stored", "dsa"]
    assert row["ior"] is None
    assert (row["hlr"] is None) == ("images_per_class" not in other)


def test_points_of_a_sweep_are_told_apart(read: Callable[..., pa.Table]) -> None:
    low, high = everything(), [replace(s, test_accuracy=(s.test_accuracy or 0) / 2) for s in everything()]
    found = scores(read(*low, *high, parameters=[{"method.lr": 1.0}] * len(low) + [{"method.lr": 2.0}] * len(high)))
    rows = [row for row in found.to_pylist(maps_as_pydicts="strict") if row["labels"] == "stored"]
    assert [row["parameters"] for row in rows] == [{"method.lr": "1.0"}, {"method.lr": "2.0"}]
    assert rows[1]["ior"] == pytest.approx(rows[0]["ior"] / 2) and rows[0]["n"] == rows[1]["n"] == 3


def test_distillations_count_once_where_there_are_several(read: Callable[..., pa.Table]) -> None:
    found = [(0.5, 0.6), (0.7, 0.72), (0.58, 0.6)]
    row = scored(read(*students("synthetic", "stored", found)))["synthetic", "stored", "dsa"]
    assert (row["n"], row["over"]) == (3, "seeds")
    assert row["accuracy_error"] == pytest.approx(math.sqrt(reference.squared_error([fmean(own) for own in found])))


def test_the_augmentation_score_needs_students_without(read: Callable[..., pa.Table]) -> None:
    plain = {("synthetic", "stored"): [(0.3, 0.34)], ("random", "stored"): [(0.36,), (0.33,)]}
    more = [s for (subject, labels), a in plain.items() for s in students(subject, labels, a, augmentation="none")]
    found = scored(read(*everything(), *more))
    row, without = found["synthetic", "stored", "dsa"], found["synthetic", "stored", "none"]
    assert without["ior"] == pytest.approx(0.32 - 0.345) and without["ars"] is None
    assert row["ars"] == pytest.approx(reference.score((row["ior"] + without["ior"]) / 2))
    slope = (reference.score(1e-6) - reference.score(-1e-6)) / 2e-6 * math.exp((row["ior"] + without["ior"]) / 2)
    assert row["ars_error"] == pytest.approx(slope * math.hypot(row["ior_error"], without["ior_error"]) / 2, rel=1e-6)
    assert found["synthetic", "hard", "dsa"]["ars"] is None


def test_chains_stand_against_random_images_that_take_as_many_steps(read: Callable[..., pa.Table]) -> None:
    random = students("random", "hard", [(0.4,), (0.5,)], stage=1, images_per_class=4)

    def ior(**changes: Any) -> float | None:
        legs = [
            make_record(labels="hard", stage=stage, images_per_class=2 * (stage + 1), test_accuracy=0.5 + 0.2 * stage)
            for stage in (0, 1)
        ]
        chain = [replace(leg, **{"mode": "chain", "budget": "matched", "epochs": 650, **changes}) for leg in legs]
        (row,) = scores(read(*chain, *random)).to_pylist()
        assert (row["accuracy"], row["images_per_class"]) == (0.7, 4)
        found: float | None = row["ior"]
        return found

    assert ior(optimizer_steps=1040) == pytest.approx(0.25)
    assert ior(optimizer_steps=1200) is None
    assert ior(optimizer_steps=1200, epochs=1001) is None


def test_storage_is_by_class_and_costs_are_a_students(read: Callable[..., pa.Table]) -> None:
    parts = {"bytes.images": 600.0, "bytes.labels": 240.0}
    costs = {"bytes_total": 840, "metrics": parts, "teacher_forwards": 50, "seconds": 2.0}
    row = scored(read(make_record(**costs), make_record(student_seed=1, **costs | {"seconds": 4.0})))
    (found,) = row.values()
    assert (found["bytes_per_class"], found["image_bytes_per_class"], found["label_bytes_per_class"]) == (280, 200, 80)
    assert found["teacher_bytes_per_class"] is None
    assert (found["optimizer_steps"], found["teacher_forwards"], found["seconds"]) == (1001, 50, 3.0)
    (bare,) = scored(read(make_record(class_accuracy=None, bytes_total=840))).values()
    assert bare["bytes_per_class"] is None


def test_summaries_average_what_was_measured(read: Callable[..., pa.Table]) -> None:
    said = [{"ece": 0.1, "nll": 1.0}, {"ece": 0.3}, {}]
    (row,) = summarise(read(*(make_record(student_seed=n, metrics=own) for n, own in enumerate(said))))
    assert row.metrics == pytest.approx({"ece": 0.2, "nll": 1.0})


def test_nothing_gives_the_typed_empty_table(read: Callable[..., pa.Table]) -> None:
    assert scores(read()).equals(SCHEMA.empty_table())
    assert architectures(read(), {}).equals(MATRIX.empty_table())


def test_the_matrix_has_a_row_for_each_regime_and_leaves_the_source_out_of_the_mean(
    read: Callable[..., pa.Table],
) -> None:
    accuracies = {"convnet": (0.6, 0.5, 0.9), "mlp": (0.3, 0.2, 0.7), "vgg": (0.4, 0.35, None)}
    made = []
    for network, (stored, hard, full) in accuracies.items():
        made += students("synthetic", "stored", [(stored, stored + 0.02)], network=network)
        made += students("synthetic", "hard", [(hard,)], network=network)
        made += students("full", "hard", [(full,)], network=network) if full else []
    table = read(*made)
    found = architectures(table, {"small": "convnet"})
    assert found.schema.equals(MATRIX)
    rows = {row["labels"]: row for row in found.to_pylist(maps_as_pydicts="strict")}
    assert list(rows) == ["hard", "stored"]
    assert rows["stored"]["accuracy"] == pytest.approx({"convnet": 0.61, "mlp": 0.31, "vgg": 0.41})
    assert rows["stored"]["drop"] == pytest.approx({"convnet": 0.29, "mlp": 0.39})
    assert (rows["stored"]["others_accuracy"], rows["stored"]["others_drop"]) == pytest.approx((0.36, 0.39))
    assert (rows["hard"]["others_accuracy"], rows["hard"]["source"]) == (pytest.approx(0.275), "convnet")
    (unknown, _) = architectures(table, {}).to_pylist()
    assert (unknown["source"], unknown["others_accuracy"], unknown["others_drop"]) == (None, None, None)


NETWORK = NetworkConfig(width=8, depth=2)
RECIPE = Recipe(epochs=12, lr=0.05, momentum=0.9, batch_size=50, augmentation="none")
PER_CLASS = 5


@cache
def digits() -> PreparedData:
    return prepare(DataConfig(source="digits"), Key.root(0))


def trained(subject: Subject, draw: int, images: Tensor, labels: Tensor, seeds: int, epochs: int) -> list[Record]:
    """Students on images of digits under hard labels."""
    trials = [
        Trial(
            subject=subject,
            labels="hard",
            draw=draw,
            network=NETWORK,
            recipe=replace(RECIPE, epochs=epochs),
            student_seed=100 * draw + seed,
        )
        for seed in range(seeds)
    ]
    chosen = TrainingSet(
        images=images, targets=labels, learned_lr=None, images_per_class=len(images) // 10, bytes_total=0
    )
    provenance = Provenance(
        run="digits", method="none", dataset="digits", recipe_name="own", distill_seed=draw, config_key="0" * 16
    )
    arguments = [Pupil(trial, "") for trial in trials], digits(), chosen, provenance, tiny.CPU, NoProgress()
    return [student.record for student in train_students(*arguments)]


@cache
def drawn(subject: Subject, seed: int) -> list[Record]:
    """Students on five draws of random images."""
    found = []
    for draw in range(5):
        rows = random_real(digits(), PER_CLASS, Key.root(seed).child("random", draw))
        found += trained(subject, draw, digits().train.images[rows], class_labels(10, PER_CLASS), 2, RECIPE.epochs)
    return found


def test_random_images_are_no_improvement_over_random_images(read: Callable[..., pa.Table]) -> None:
    row = scored(read(*drawn("imported", 1), *drawn("random", 2)))["imported", "hard", "none"]
    assert 0.3 < row["random_accuracy"] < 0.95, "there is room for an improvement"
    assert row["n"] == 5 and 0 < row["ior_error"] < 0.06
    assert abs(row["ior"]) < 2 * row["ior_error"]


def test_permuted_classes_show_under_hard_labels(read: Callable[..., pa.Table]) -> None:
    """Images of one digit under the next one's label: what an importer makes of folders in another order."""
    train = digits().train
    rows = random_real(digits(), PER_CLASS, Key.root(1).child("random", 0))
    shifted = trained("imported", 0, train.images[rows], (train.labels[rows] + 1) % 10, 2, RECIPE.epochs)
    full = trained("full", 0, train.images, train.labels, 2, 2)
    row = scored(read(*shifted, *full, *drawn("random", 2)))["imported", "hard", "none"]
    assert row["hard_accuracy"] < 0.1 and row["full_accuracy"] > 0.85
    assert row["hlr"] == pytest.approx(row["full_accuracy"], abs=0.1)
    assert row["ior"] < -0.3 and row["lrs"] < reference.score(-0.6)
