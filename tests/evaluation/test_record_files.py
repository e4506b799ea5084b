"""Many records in one file: the same table, the same students, at whatever moment a process dies."""

import shutil
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raydd.core.errors import ArtefactError
from raydd.evaluation import record_files, records
from raydd.evaluation.record import Record
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record
from tests.support.children import running, wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "results")


def students(count: int) -> list[Record]:
    """One in five of them failed."""
    return [
        make_failure(student_seed=seed) if seed % 5 == 4 else make_record(student_seed=seed) for seed in range(count)
    ]


def written(folder: Folder, made: list[Record]) -> pa.Table:
    for record in made:
        seed = record.student_seed
        confusion = [[seed, 1], [2, 3]] if record.status == "ok" and seed % 2 else None
        parameters = {"method.image_lr": 0.5 if seed % 3 else "auto"} if seed > 5 else None
        records.write(folder, record, parameters, confusion)
    return records.read(folder)


def same(folder: Folder, made: list[Record], table: pa.Table) -> None:
    """Whether everything is found as it was written."""
    assert records.read(folder).equals(table)
    assert sorted(records.names(folder)) == sorted(record.record_id for record in made)
    for record in made:
        assert records.find(folder, record.record_id) == record
        seed = record.student_seed
        wanted = [[seed, 1], [2, 3]] if record.status == "ok" and seed % 2 else None
        assert records.read_confusion(folder, record.record_id) == wanted
    assert records.find(folder, "0" * 16) is None and records.read_confusion(folder, "0" * 16) is None


def test_a_bundle_is_read_as_its_parts_were(folder: Folder) -> None:
    """One file for each set of columns: without a parameter, with a number, with a word."""
    made = students(20)
    table = written(folder, made)
    assert record_files.bundle(folder, 21) == 0 and len(folder.files()) == 20
    assert record_files.bundle(folder, 20) == 20
    assert [name[:7] for name in folder.files()] == ["bundle-"] * 3
    same(folder, made, table)
    assert records.verify(folder) == 20
    assert record_files.bundle(folder, 1) == 0


def test_few_records_stay_files_of_their_own(folder: Folder) -> None:
    assert record_files.BUNDLED == 100
    written(folder, students(3))
    assert record_files.bundle(folder) == 0 and len(folder.files()) == 3


def test_a_student_that_is_tried_again_counts_once(folder: Folder) -> None:
    failed, fine = make_failure(), make_record()
    assert failed.record_id == fine.record_id
    records.write(folder, failed)
    record_files.bundle(folder, 1)
    later = make_record(time=fine.time + timedelta(seconds=1), test_accuracy=0.75)
    for newest in (fine, later):
        records.write(folder, newest)
        assert records.find(folder, fine.record_id) == newest
        assert records.read(folder)["test_accuracy"].to_pylist() == [newest.test_accuracy]
    record_files.bundle(folder, 1)
    assert records.find(folder, fine.record_id) == later
    assert records.read(folder)["test_accuracy"].to_pylist() == [0.75]


def test_any_altered_byte_of_a_bundle_is_found(folder: Folder) -> None:
    written(folder, students(4))
    record_files.bundle(folder, 1)
    (name,) = folder.files()
    whole = folder.read(name)
    for place in range(0, len(whole), 101):
        folder.write(name, whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(ArtefactError, match=name):
            records.verify(folder)


def test_a_bundle_under_another_name_or_with_other_records_is_found(folder: Folder) -> None:
    table = written(folder, students(4))
    record_files.bundle(folder, 1)
    (name,) = folder.files()
    other = f"bundle-{'0' * 16}.parquet"
    folder.write(other, folder.read(name))
    with pytest.raises(ArtefactError, match=f"{other}: is {name} under another name"):
        records.read(folder)
    folder.delete(other)
    twice = pa.concat_tables([table, table.slice(0, 1)])
    record_files.write_bundle(folder, twice)
    with pytest.raises(ArtefactError, match="has a record twice"):
        records.read(folder)


def test_records_of_other_sets_leave_a_bundle(folder: Folder, tmp_path: Path) -> None:
    own = [make_record(student_seed=seed, metrics={}) for seed in range(3)]
    others = [make_record(student_seed=seed, config_key="f" * 16) for seed in range(3, 5)]
    for record in own + others:
        records.write(folder, record)
    record_files.bundle(folder, 1)
    aside = Folder.at(tmp_path / "aside")
    assert records.set_aside(folder, {own[0].config_key}, aside) == 2
    assert sorted(records.names(folder)) == sorted(record.record_id for record in own)
    assert sorted(records.names(aside)) == sorted(record.record_id for record in others)
    assert records.set_aside(folder, {own[0].config_key}, aside) == 0


def test_parts_beside_the_bundle_that_has_them_count_once(folder: Folder, tmp_path: Path) -> None:
    """As after a kill between the two."""
    made = students(6)
    table = written(folder, made)
    shutil.copytree(folder.path, tmp_path / "before")
    record_files.bundle(folder, 1)
    for path in (tmp_path / "before").iterdir():
        shutil.copy(path, folder.path)
    assert records.read(folder).equals(table)
    record_files.bundle(folder, 1)
    same(folder, made, table)
    assert all(map(record_files.is_bundle, folder.files()))


_BUNDLING = """
import sys
from raydd.evaluation import record_files
from raydd.storage import Folder
print("begins", flush=True)
record_files.bundle(Folder.at(sys.argv[1]), 1)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(folder: Folder, tmp_path: Path) -> None:
    made = students(150)
    table = written(folder, made)
    shutil.copytree(folder.path, tmp_path / "before")
    for delay in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8):
        shutil.rmtree(folder.path)
        shutil.copytree(tmp_path / "before", folder.path)
        with running(_BUNDLING, folder.path) as process:
            wait_for(process, "begins")
            time.sleep(delay)
        assert records.read(folder).equals(table), delay
        record_files.bundle(folder, 1)
        same(folder, made, table)
