"""Records survive the way to disk and back; summaries agree with numpy."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.evaluation.record import SCHEMA, Record, record_id
from raydd.evaluation.tables.summary import difference, pool_draws, summarise
from raydd.storage import Folder, new_artefact

TYPES = {
    pa.string(): "record_id probe variant run status error method dataset subject labels mode budget network "
    "recipe augmentation optimizer device config_key commit",
    pa.int32(): "images_per_class num_images stage epochs",
    pa.int64(): "student_seed distill_seed optimizer_steps teacher_forwards peak_memory_bytes bytes_total",
    pa.float64(): "learned_lr train_accuracy validation_accuracy test_accuracy best_test_accuracy seconds",
    pa.list_(pa.float64()): "class_accuracy",
    pa.map_(pa.string(), pa.float64()): "metrics",
    pa.timestamp("us", "UTC"): "time",
}


def make_record(**changes: object) -> Record:
    """A finished student of a DATM run; its id follows from subject, labels, network and the two seeds."""
    values: dict[str, object] = {
        "run": "small",
        "method": "datm",
        "dataset": "shapes",
        "images_per_class": 2,
        "num_images": 6,
        "stage": 0,
        "subject": "synthetic",
        "labels": "stored",
        "mode": "single_shot",
        "budget": "reference",
        "network": "convnet-d1-w8-instance",
        "recipe": "datm",
        "augmentation": "dsa",
        "optimizer": "sgd",
        "student_seed": 0,
        "distill_seed": 0,
        "learned_lr": 0.01,
        "epochs": 1001,
        "optimizer_steps": 1001,
        "train_accuracy": 0.99,
        "test_accuracy": 0.5,
        "class_accuracy": (0.25, 0.5, 0.75),
        "seconds": 12.5,
        "device": "cpu",
        "config_key": "0123456789abcdef",
        "commit": "0.1.0",
        "time": datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC),
    } | changes
    identity = {name: values[name] for name in ("subject", "labels", "network", "student_seed", "distill_seed")}
    return Record(**{"record_id": record_id(identity)} | values)


def make_failure(**changes: object) -> Record:
    nothing = {"train_accuracy": None, "test_accuracy": None, "class_accuracy": None}
    return make_record(status="failed", error="RunError: the loss is nan", **nothing | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "results")


def table_of(folder: Folder, *students: Record) -> pa.Table:
    for student in students:
        records.write(folder, student)
    return records.read(folder)


def test_the_schema_is_the_designs() -> None:
    assert {name: kind for kind, names in TYPES.items() for name in names.split()} == dict(
        zip(SCHEMA.names, SCHEMA.types, strict=True)
    )
    assert [field.name for field in fields(Record)] == SCHEMA.names


@pytest.mark.parametrize(
    "record",
    [
        make_record(metrics={"ece": 0.125}, best_test_accuracy=0.625, peak_memory_bytes=2**40, bytes_total=1),
        make_record(class_accuracy=None, learned_lr=None),
        make_failure(),
    ],
)
def test_a_record_comes_back_as_it_was(folder: Folder, record: Record) -> None:
    assert records.find(folder, record.record_id) is None
    records.write(folder, record)
    assert folder.files() == [f"part-{record.record_id}.parquet"]
    assert records.find(folder, record.record_id) == record
    table = records.read(folder)
    assert table.schema.equals(SCHEMA)
    (row,) = table.to_pylist()
    assert (row["record_id"], row["test_accuracy"], row["time"]) == (
        record.record_id,
        record.test_accuracy,
        record.time,
    )


def test_the_id_follows_from_the_identity_alone() -> None:
    one = record_id({"network": "convnet", "recipe": {"epochs": 3, "lr": None}})
    assert len(one) == 16 and int(one, 16) >= 0
    assert one == record_id({"recipe": {"lr": None, "epochs": 3}, "network": "convnet"})
    assert one != record_id({"network": "convnet", "recipe": {"epochs": 4, "lr": None}})


def test_a_record_is_either_finished_or_failed() -> None:
    with pytest.raises(ValueError, match="has an error and no accuracies"):
        make_failure(test_accuracy=0.5)
    with pytest.raises(ValueError, match="no error"):
        make_record(test_accuracy=None)


def test_nothing_to_read_gives_the_typed_empty_table(folder: Folder) -> None:
    for table in (records.read(), records.read(folder)):
        assert table.num_rows == 0
        assert table.schema.equals(SCHEMA)


def test_one_row_per_id_and_a_finished_one_wins(tmp_path: Path) -> None:
    here, there, elsewhere = (Folder.at(tmp_path / name) for name in ("a", "b", "c"))
    later = make_record().time + timedelta(hours=1)
    records.write(here, make_record(test_accuracy=0.25))
    records.write(there, make_record(test_accuracy=0.75, time=later))
    records.write(elsewhere, make_failure(time=later + timedelta(hours=1)))
    for seed in (3, 2, 1):
        records.write(elsewhere, make_record(student_seed=seed))
    table = records.read(here, there, elsewhere)
    assert table["student_seed"].to_pylist() == [0, 1, 2, 3]
    assert table["test_accuracy"][0].as_py() == 0.75
    assert table.equals(records.read(elsewhere, there, here))


def test_parameters_of_a_sweep_are_columns_whatever_their_types(folder: Folder) -> None:
    records.write(folder, make_record(student_seed=0), {"method.image_lr": 100.0, "method.threshold": 0.5})
    records.write(folder, make_record(student_seed=1), {"method.threshold": "auto"})
    records.write(folder, make_record(student_seed=2))
    table = records.read(folder)
    assert table.column_names == [*SCHEMA.names, "param.method.image_lr", "param.method.threshold"]
    assert table["param.method.image_lr"].to_pylist() == [100.0, None, None]
    assert table["param.method.threshold"].to_pylist() == ["0.5", "auto", None]


def test_columns_that_an_older_part_lacks_are_null(folder: Folder) -> None:
    (old,) = table_of(folder, make_record()).to_batches()
    folder.write(PART, digested(pa.Table.from_batches([old]).drop(["peak_memory_bytes", "probe"])))
    table = records.read(folder)
    assert table.schema.equals(SCHEMA)
    assert table["peak_memory_bytes"].to_pylist() == table["probe"].to_pylist() == [None]


PART = f"part-{make_record().record_id}.parquet"


def digested(table: pa.Table) -> bytes:
    """A part file of a table that says its own digest, as `write` makes it."""
    blank = _parquet(table.replace_schema_metadata({b"raydd.sha256": b"0" * 64}))
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": None}, "has no budget"),
        ({"test_accuracy": 61.5}, "test_accuracy is 61.5, not a fraction"),
        ({"test_accuracy": None}, "says both that the student finished and that it did not"),
        ({"status": "failed"}, "says both that the student finished and that it did not"),
        ({"status": "done"}, "its status is neither ok nor failed"),
        ({"status": None}, "has no status"),
        ({"time": None, "run": None}, "has no run, time"),
    ],
)
def test_records_of_odd_shape_are_damaged_though_their_digest_is_right(
    folder: Folder, changes: dict[str, Any], words: str
) -> None:
    (row,) = table_of(folder, make_record()).to_pylist()
    folder.write(PART, digested(pa.Table.from_pylist([{**row, **changes}], SCHEMA)))
    for read in (records.read, records.verify, lambda place: records.find(place, make_record().record_id)):
        with pytest.raises(ArtefactError, match=rf"{PART}: .*{words}"):
            read(folder)


def test_a_record_without_a_digest_is_damaged(folder: Folder) -> None:
    table = table_of(folder, make_record())
    folder.write(PART, _parquet(table))
    with pytest.raises(ArtefactError, match="it says no sha256 of itself"):
        records.read(folder)


def test_a_record_under_another_name_is_found(folder: Folder) -> None:
    """As by `cp part-X.parquet part-Y.parquet`, after which one student would count as another."""
    table_of(folder, make_record())
    folder.write("part-fedcba9876543210.parquet", folder.read(PART))
    for read in (records.read, records.verify):
        with pytest.raises(ArtefactError, match=f"part-fedcba9876543210.parquet: is {PART} under another name"):
            read(folder)


def test_records_of_students_of_another_set_are_found(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_record())
    records.require_own(run, records.read(run / "results"))
    with new_artefact(run / "synthetic", "synthetic", make_record().config_key):
        pass
    records.require_own(run, records.read(run / "results"))
    records.write(run / "results", make_record(record_id="f" * 16, config_key="f" * 16))
    with pytest.raises(ArtefactError, match="results: the record f{16} is of students of another set"):
        records.require_own(run, records.read(run / "results"))
    assert sorted(records.names(run / "results")) == sorted([make_record().record_id, "f" * 16])
    assert records.set_aside(run / "results", {make_record().config_key}, run / "aside") == 1
    assert (run / "results").files() == [PART] and (run / "aside").files() == [f"part-{'f' * 16}.parquet"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-20],
        lambda data: b"",
        lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
        lambda data: _parquet(pa.table({"accuracy": [0.5]})),
        lambda data: _parquet(pa.table({"record_id": ["a"], "test_accuracy": ["high"]})),
    ],
    ids=["truncated", "empty", "a flipped bit", "something else", "another type"],
)
def test_a_damaged_part_is_named(folder: Folder, spoil: Callable[[bytes], bytes]) -> None:
    record = make_record()
    records.write(folder, record)
    name = f"part-{record.record_id}.parquet"
    folder.write(name, spoil(folder.read(name)))
    with pytest.raises(ArtefactError, match=name):
        records.read(folder)


def test_any_altered_byte_is_found(folder: Folder) -> None:
    record = make_record()
    records.write(folder, record)
    name = f"part-{record.record_id}.parquet"
    whole = folder.read(name)
    for place in range(0, len(whole), 37):
        folder.write(name, whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(ArtefactError, match=name):
            records.read(folder)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_a_summary_agrees_with_numpy(folder: Folder) -> None:
    accuracies, classes = np.array([0.5, 0.625, 0.4]), np.array([[0.3, 0.2, 0.7], [0.2, 0.1, 0.9], [0.4, 0.3, 0.8]])
    students = [
        make_record(student_seed=seed, test_accuracy=a, class_accuracy=tuple(c), learned_lr=0.01 * seed, seconds=seed)
        for seed, (a, c) in enumerate(zip(accuracies.tolist(), classes.tolist(), strict=True))
    ]
    (row,) = summarise(table_of(folder, *students, make_failure(student_seed=3), make_failure(student_seed=4)))
    assert (row.n, row.failed) == (3, 2)
    assert row.mean == pytest.approx(accuracies.mean())
    assert row.std == pytest.approx(accuracies.std(ddof=1))
    assert row.accuracies == tuple(accuracies)
    assert row.class_accuracy == pytest.approx(classes.mean(axis=0))
    assert row.worst_class == 1
    assert (row.train_accuracy, row.learned_lr, row.seconds) == pytest.approx((0.99, 0.01, 1.0))
    assert (row.epochs, row.optimizer_steps, row.best_test_accuracy) == (1001, 1001, None)
    assert (row.teacher_forwards, row.bytes_total) == (0, None)


def test_storage_and_the_teachers_work_are_averaged(folder: Folder) -> None:
    costs = [{"student_seed": n, "bytes_total": 100 + n, "teacher_forwards": 3000 * n} for n in range(3)]
    (row,) = summarise(table_of(folder, *(make_record(**cost) for cost in costs)))
    assert (row.bytes_total, row.teacher_forwards) == (101, 3000)


def test_what_cannot_be_said_is_none(folder: Folder) -> None:
    one, failed = summarise(table_of(folder, make_record(), make_failure(subject="init")))
    assert (one.n, one.mean, one.std) == (1, 0.5, None)
    assert (failed.n, failed.failed, failed.mean, failed.std, failed.worst_class) == (0, 1, None, None, None)
    with pytest.raises(ValueError, match="cannot be compared"):
        difference(one, failed)
    assert difference(one, replace(one, mean=0.25)).standard_error is None


def test_groups_differ_in_more_than_seeds_and_come_in_order(folder: Folder) -> None:
    subjects = ["full", "imported", "herding", "k_center", "random", "init", "synthetic"]
    students = [make_record(subject=subject) for subject in subjects]
    rows = summarise(table_of(folder, *students, make_record(subject="random", labels="hard", student_seed=1)))
    assert [row.subject for row in rows] == [
        "synthetic",
        "init",
        *["random"] * 2,
        "k_center",
        "herding",
        "imported",
        "full",
    ]
    assert [row.labels for row in rows if row.subject == "random"] == ["hard", "stored"]


def test_a_draw_counts_once(folder: Folder) -> None:
    accuracies = [[0.25, 0.5], [0.5, 0.75, 0.625], [1.0]]
    students = [
        make_record(subject="random", distill_seed=draw, student_seed=seed, test_accuracy=accuracy)
        for draw, own in enumerate(accuracies)
        for seed, accuracy in enumerate(own)
    ]
    table = table_of(folder, *students, make_failure(subject="random", distill_seed=2, student_seed=9))
    (row,) = pool_draws(table)
    means = np.array([np.mean(own) for own in accuracies])
    assert (row.n, row.failed) == (3, 1)
    assert (row.mean, row.std) == pytest.approx((means.mean(), means.std(ddof=1)))
    assert summarise(table)[0].n == 6


def test_the_difference_of_two_groups(folder: Folder) -> None:
    a, b = [0.6, 0.7, 0.8], [0.1, 0.3]
    students = [make_record(student_seed=i, test_accuracy=x) for i, x in enumerate(a)]
    students += [make_record(subject="init", student_seed=i, test_accuracy=x) for i, x in enumerate(b)]
    lead = difference(*summarise(table_of(folder, *students)))
    assert lead.mean == pytest.approx(0.5)
    assert lead.standard_error == pytest.approx(math.sqrt(0.01 / 3 + 0.02 / 2))


def test_a_confusion_is_kept_beside_the_columns(folder: Folder) -> None:
    alone, seen = make_record(student_seed=0), make_record(student_seed=1)
    counts = [[5, 1, 0], [0, 6, 0], [2, 0, 4]]
    records.write(folder, alone)
    records.write(folder, seen, confusion=counts)
    assert records.read_confusion(folder, seen.record_id) == counts
    assert records.read_confusion(folder, alone.record_id) is None
    assert records.read_confusion(folder, "0" * 16) is None
    assert records.find(folder, seen.record_id) == seen
    assert records.read(folder).schema.equals(SCHEMA)
    many = records.CONFUSION_CLASSES + 1
    records.write(folder, seen, confusion=[[1] * many] * many)
    assert records.read_confusion(folder, seen.record_id) is None
