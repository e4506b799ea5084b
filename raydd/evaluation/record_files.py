"""The Parquet files in which records lie: a part for each record, and bundles of many.

A student's record is a part of its own, written whole or not at all, whoever trains it. Once many are there they become
one bundle: it is written first and the parts are deleted after it, so that nothing is lost at any moment, and a record
that is in both for a while is read once. Every file says its own sha256, and has a name by what is in it.
"""

import base64
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydd.core.errors import ArtefactError
from raydd.evaluation.record import SCHEMA, Confusion, check
from raydd.storage import Folder, content_key
from raydd.storage.readable import legible

BUNDLED: Final = 100
"""Parts of which a bundle is made; fewer stay as they are."""
_PART, _BUNDLE, _SUFFIX = "part-", "bundle-", ".parquet"
_DIGEST, _BLANK = b"raydd.sha256", b"0" * 64
"""Where a file says its own sha256, and what stands there while that is computed."""
_CONFUSION = "raydd.confusion"
"""Where a part keeps a student's confusion, beside its columns; in a bundle it is a column."""
_OPEN: Final = 4
"""Bundles that a process keeps in memory, to look records up."""


def part_name(record_id: str) -> str:
    """The file of one record."""
    return f"{_PART}{record_id}{_SUFFIX}"


def is_part(name: str) -> bool:
    """Whether a file has one record."""
    return name.startswith(_PART) and name.endswith(_SUFFIX)


def is_bundle(name: str) -> bool:
    """Whether a file has many records."""
    return name.startswith(_BUNDLE) and name.endswith(_SUFFIX)


def is_file(name: str) -> bool:
    """Whether a file has records."""
    return is_part(name) or is_bundle(name)


def write_part(folder: Folder, record_id: str, table: pa.Table, confusion: Confusion | None) -> None:
    """Write a table of one row as that record's file."""
    kept = {} if confusion is None else {_CONFUSION.encode(): _packed(confusion)}
    folder.write(part_name(record_id), _sealed(table, kept))


def read(folder: Folder, name: str) -> pa.Table:
    """The records of a part or a bundle; columns of SCHEMA have its types, others are as they were written.

    Raises:
        ArtefactError: the file is damaged, or another's under its name.
    """
    return _with_confusions(folder, name).drop_columns([_CONFUSION])


def find(folder: Folder, record_id: str) -> pa.Table | None:
    """One record, with its confusion; None where there is none.

    Raises:
        ArtefactError: a file that may have it is damaged.
    """
    if folder.has(part := part_name(record_id)):
        return _with_confusions(folder, part)
    bundles = (_opened(folder, name, folder.size(name)) for name in folder.files() if is_bundle(name))
    found = [table.slice(rows[record_id], 1) for table, rows in bundles if record_id in rows]
    return max(found, key=_rank, default=None)


def _rank(row: pa.Table) -> tuple[bool, Any]:
    """Of records of one id, that which counts is a finished one, and of those the latest."""
    return row["status"][0].as_py() == "ok", row["time"][0].as_py()


def confusion_of(found: pa.Table) -> Confusion | None:
    """What a record's student took the test images for; None where nobody kept it."""
    packed = found[_CONFUSION][0].as_py()
    if packed is None:
        return None
    confusion: list[list[int]] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return confusion


def bundle(folder: Folder, fewest: int = BUNDLED) -> int:
    """Put all parts of a folder into bundles, one for each set of columns; returns how many there were.

    Nobody else may write records there meanwhile.

    Args:
        folder: where they lie.
        fewest: parts below which they stay.

    Raises:
        ArtefactError: a part is damaged.
    """
    parts = list(filter(is_part, folder.files()))
    if len(parts) < fewest:
        return 0
    alike: defaultdict[pa.Schema, list[pa.Table]] = defaultdict(list)
    for name in parts:
        table = _with_confusions(folder, name)
        alike[table.schema].append(table)
    for tables in alike.values():
        write_bundle(folder, pa.concat_tables(tables))
    for name in parts:
        folder.delete(name)
    return len(parts)


def write_bundle(folder: Folder, table: pa.Table) -> None:
    """Write records, each of which has an id of its own, as one file, whose name follows from the ids."""
    table = table.sort_by("record_id")
    folder.write(_bundle_name(table), _sealed(table, {}))


def move(folder: Folder, to: Folder, is_moved: Callable[[pa.Table], pa.ChunkedArray]) -> int:
    """Move records to another folder; returns how many.

    Args:
        folder: where they lie.
        to: where they will lie.
        is_moved: says of a table which of its rows are meant, bool [rows].

    Raises:
        ArtefactError: a file is damaged.
    """
    moved = 0
    for name in filter(is_file, folder.files()):
        table = _with_confusions(folder, name)
        mask = is_moved(table)
        if not (count := pc.sum(mask).as_py() or 0):
            continue
        moved += count
        if count == len(table):
            to.write(name, folder.read(name))
        else:
            write_bundle(to, table.filter(mask))
            write_bundle(folder, table.filter(pc.invert(mask)))
        folder.delete(name)
    return moved


def _bundle_name(table: pa.Table) -> str:
    return f"{_BUNDLE}{content_key({'records': table['record_id'].to_pylist()})}{_SUFFIX}"


@lru_cache(maxsize=_OPEN)
def _opened(folder: Folder, name: str, size: int) -> tuple[pa.Table, Mapping[str, int]]:
    """A bundle, and where in it each record is; its name and size tell it from others."""
    table = _with_confusions(folder, name)
    return table, {record_id: row for row, record_id in enumerate(table["record_id"].to_pylist())}


def _with_confusions(folder: Folder, name: str) -> pa.Table:
    """Read a file, and see that it is as it was written, and nobody else's."""
    where, content = f"{folder.uri}/{name}", folder.read(name)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        kept = file.metadata.metadata or {}
        digest = kept.get(_DIGEST)
        if digest is None:
            raise OSError("it says no sha256 of itself")
        if _digest(content.replace(digest, _BLANK)) != digest:
            raise OSError("its sha256 is not the one in it")
        table = _typed(file.read().replace_schema_metadata(None))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtefactError(f"{where}: damaged record ({error}); delete it and evaluate again") from error
    if "record_id" not in table.column_names or (is_part(name) and table.num_rows != 1):
        raise ArtefactError(f"{where}: not one student's record; move it out of the results")
    own = part_name(str(table["record_id"][0].as_py())) if is_part(name) else _bundle_name(table)
    if is_bundle(name) and pc.count_distinct(table["record_id"]).as_py() != len(table):
        raise ArtefactError(f"{where}: has a record twice; delete it and evaluate again")
    if name != own:
        raise ArtefactError(f"{where}: is {own} under another name; delete it and evaluate again")
    with legible(where):
        check(table)
    if _CONFUSION in table.column_names:
        return table
    return table.append_column(_CONFUSION, pa.array([kept.get(_CONFUSION.encode())] * len(table), pa.binary()))


def _typed(table: pa.Table) -> pa.Table:
    """Columns of SCHEMA in its types."""
    for place, column in enumerate(table.schema.names):
        if column in SCHEMA.names:
            known = SCHEMA.field(column)
            table = table.set_column(place, known, table[column].cast(known.type))
    return table


def _sealed(table: pa.Table, kept: Mapping[bytes, bytes]) -> bytes:
    """A Parquet file that says its own sha256."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_DIGEST: _BLANK, **kept}), sink)
    blank = sink.getvalue().to_pybytes()
    sealed: bytes = blank.replace(_BLANK, _digest(blank))
    return sealed


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _packed(confusion: Sequence[Sequence[int]]) -> bytes:
    return base64.b64encode(zlib.compress(json.dumps(confusion, separators=(",", ":")).encode()))
