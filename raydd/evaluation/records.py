"""The records of a folder: written by whoever trains a student or asks a probe, and read as one table.

Whoever is about to train a student looks its record up by `find` first, so that none is trained twice.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from raydd.core.errors import ArtefactError
from raydd.evaluation import record_files
from raydd.evaluation.record import SCHEMA, Confusion, Record, of_row
from raydd.storage import Artefact, Folder

_ORDER = (
    "probe",
    "variant",
    "stage",
    "method",
    "images_per_class",
    "network",
    "recipe",
    "distill_seed",
    "student_seed",
    "record_id",
)
_SET: Final = "synthetic"
"""The folder of a run's distilled set, beside that of its records."""
CONFUSION_CLASSES = 100
"""The most classes of which a confusion is kept."""


def write(
    folder: Folder,
    record: Record,
    parameters: Mapping[str, float | str] | None = None,
    confusion: Confusion | None = None,
) -> None:
    """Write a record as its own part file, replacing an earlier one of the same id.

    Args:
        folder: where the parts lie, `<out>/results`.
        record: the record.
        parameters: what a sweep set for this student, by dotted path; kept as columns `param.<dotted.path>`.
        confusion: of the student, for `read_confusion`; not kept of more than a hundred classes.
    """
    table = pa.Table.from_pylist([asdict(record) | {"metrics": list(record.metrics.items())}], SCHEMA)
    for path, value in (parameters or {}).items():
        column = pa.array([value], pa.string() if isinstance(value, str) else pa.float64())
        table = table.append_column(f"param.{path}", column)
    is_kept = confusion is not None and len(confusion) <= CONFUSION_CLASSES
    record_files.write_part(folder, record.record_id, table, confusion if is_kept else None)


def find(folder: Folder, record_id: str) -> Record | None:
    """Look up one record; None where that student has not been trained yet.

    Raises:
        ArtefactError: a file that may have it is damaged.
    """
    found = record_files.find(folder, record_id)
    return None if found is None else of_row(found.to_pylist()[0])


def read_confusion(folder: Folder, record_id: str) -> Confusion | None:
    """What a student took the test images for; None where nobody kept it, as with versions before there was any.

    Raises:
        ArtefactError: a file that may have it is damaged.
    """
    found = record_files.find(folder, record_id)
    return None if found is None else record_files.confusion_of(found)


def read(*folders: Folder) -> pa.Table:
    """Read the records of all students in all folders as one table, in an order that depends on the records alone.

    Columns that a file lacks are null there. Of records of one id, a finished one is kept, and of those the latest.

    Raises:
        ArtefactError: a file is damaged.
    """
    table = _read(folders)
    return table.filter(pc.is_null(table["probe"]))


def read_probes(*folders: Folder) -> pa.Table:
    """Read what probes found, as `read` reads students.

    Raises:
        ArtefactError: a file is damaged.
    """
    table = _read(folders)
    return table.filter(pc.is_valid(table["probe"]))


def verify(folder: Folder) -> int:
    """Read every record in a folder; returns how many there are.

    Raises:
        ArtefactError: naming the first file that is not as it was written.
    """
    return sum(table.num_rows for table in _tables(folder))


def names(folder: Folder) -> list[str]:
    """The ids of all records in a folder.

    Raises:
        ArtefactError: a file is damaged.
    """
    return [name for table in _tables(folder) for name in table["record_id"].to_pylist()]


def set_aside(folder: Folder, own: Set[str], to: Folder) -> int:
    """Move the records of students of other sets than these to another folder; returns how many.

    Args:
        folder: where they lie.
        own: content keys of sets.
        to: where they are moved.

    Raises:
        ArtefactError: a file is damaged.
    """
    keys = pa.array(sorted(own), pa.string())
    return record_files.move(folder, to, lambda table: pc.invert(pc.is_in(table["config_key"], keys)))


def require_own(folder: Folder, table: pa.Table) -> None:
    """See that records of a run's folder are of the set that lies beside them; of other folders nothing is known.

    Args:
        folder: the run's.
        table: what `read` or `read_probes` found in it.

    Raises:
        ArtefactError: naming one that is of students of another set, or of another run's.
    """
    artefact = Artefact.find(folder / _SET)
    if artefact is None:
        return
    own, last = artefact.manifest.key, pc.equal(table["stage"], pc.max(table["stage"]))
    others = table.filter(pc.and_(last, pc.not_equal(table["config_key"], own)))
    for row in others.slice(0, 1).select(["record_id", "config_key"]).to_pylist():
        raise ArtefactError(
            f"{folder.uri}/results: the record {row['record_id']} is of students of another set ({row['config_key']}) "
            f"than the one in {folder.uri}/{_SET} ({own}); move its file out of the results"
        )


def _tables(folder: Folder) -> Iterator[pa.Table]:
    """The records of each file."""
    return (record_files.read(folder, name) for name in folder.files() if record_files.is_file(name))


def _read(folders: Sequence[Folder]) -> pa.Table:
    """All records."""
    parts = [table for folder in folders for table in _tables(folder)]
    table = pa.concat_tables([SCHEMA.empty_table(), *_agreeing(parts)], promote_options="permissive")
    if pc.count_distinct(table["record_id"]).as_py() < len(table):
        table = _best_of_each(table)
    extra = sorted(set(table.column_names) - set(SCHEMA.names))
    return table.select([*SCHEMA.names, *extra]).sort_by([(name, "ascending") for name in _ORDER])


def _best_of_each(table: pa.Table) -> pa.Table:
    """One record of each id."""
    table = table.sort_by([("record_id", "ascending"), ("status", "descending"), ("time", "descending")])
    best: dict[str, int] = {}
    for row, name in enumerate(table["record_id"].to_pylist()):
        best.setdefault(name, row)
    return table.take(pa.array(best.values(), pa.int64()))


def _agreeing(parts: list[pa.Table]) -> Iterator[pa.Table]:
    """Give a column as text wherever its type differs from part to part (a parameter that was 0.5, then "auto")."""
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for column in part.schema:
            types.setdefault(column.name, set()).add(column.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    for part in parts:
        schema = pa.schema([pa.field(c.name, pa.string() if c.name in mixed else c.type) for c in part.schema])
        yield part.cast(schema)
