"""Images in Parquet files, in the layout of the Hugging Face Hub.

A column `image` (or `img`, or the one that `data.image_column` names) holds encoded image files, as struct{bytes, path}
or as their bytes; a column `label` (or another that a dataset is known by, or the one that `data.label_column` names)
holds integers, whose names may stand in the schema's metadata under `huggingface`, or the names of classes.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.columns import check_one_kind, holds_labels, joined, labels_of, numbered
from raydd.data.listing import Item, Listing, folder_name, open_encoded
from raydd.data.place import Place
from raydd.storage import Folder

_Part = TypeVar("_Part")


def parquet(
    place: Place, class_names: tuple[str, ...] | None = None, label_columns: tuple[str, ...] = ("label",)
) -> tuple[Listing, Listing]:
    """The splits `root/train*.parquet` and `root/test*.parquet` (`root/val*.parquet` where there is no test).

    Rows are in file order, files in the order of their names. The dataset is named by its folder. Integer labels are
    named by the files' metadata, else by `class_names`, else by their numbers; labels that are text become classes in
    the alphabetical order of the training labels. Labels are in the first of `label_columns` that is there.

    Raises:
        DataError: a split is missing, or a file is damaged, lacks a column, or has labels that are neither integers
            nor text, or test labels that no training image has.
    """
    columns = _Columns(place.image_columns(), place.label_columns(label_columns))
    train, test = _Files(place.root, ("train",), columns), _Files(place.root, ("test", "val"), columns)
    check_one_kind([train.labels, test.labels], place.root.uri)
    listing = _listing(train, class_names)
    return listing, _listing(test, listing.class_names)


@dataclass(frozen=True)
class _Columns:
    """Names of columns, the best first."""

    image: tuple[str, ...]
    label: tuple[str, ...]


class _Files:
    """The files of a split: those that begin with the first prefix that any does."""

    def __init__(self, folder: Folder, prefixes: tuple[str, ...], columns: _Columns) -> None:
        names = [name for name in folder.files() if name.endswith(".parquet")]
        prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), prefixes[0])
        self.folder, self.where = folder, f"{prefix}*.parquet in {folder.uri}"
        self.shards = [_Shard(folder, name, columns) for name in names if name.startswith(prefix)]
        if not self.shards:
            raise DataError(
                f"{self.where}: there is no such file; data.root must hold train*.parquet and test*.parquet"
            )
        self.labels = joined([shard.labels for shard in self.shards], self.where)


def _listing(files: _Files, class_names: tuple[str, ...] | None) -> Listing:
    folder, shards = files.folder, files.shards
    labels, class_names = numbered(files.labels, shards[0].class_names or class_names, files.where)
    starts = list(accumulate((len(shard.labels) for shard in shards), initial=0))

    def items(rows: Tensor) -> Iterator[Item]:
        for shard, _, inside in _by_part(rows, shards, (len(shard.labels) for shard in shards)):
            yield from shard.items(inside)

    def place(row: int) -> tuple[Folder, str]:
        number = bisect_right(starts, row) - 1
        return folder, f"{shards[number].name}#{row - starts[number]}"

    return Listing(folder_name(folder), files.where, class_names, labels, items, place)


class _Shard:
    """One Parquet file: labels and class names at once, images on demand."""

    def __init__(self, folder: Folder, name: str, columns: _Columns) -> None:
        self._folder, self.name = folder, name
        self._where = (folder / name).uri
        with self._open() as file:
            schema = file.schema_arrow
            self._image_column = _first(columns.image, schema.names)
            self._label_column = _first(columns.label, schema.names)
            self._check(schema)
            self._is_struct = pa.types.is_struct(schema.field(self._image_column).type)
            self.labels = labels_of(file.read([self._label_column]).column(0), self._where)
        self.class_names = _class_names(schema, self._label_column)

    def items(self, rows: Tensor) -> Iterator[Item]:
        """The images of some rows (ascending); reads only the row groups that hold them, one at a time."""
        with self._open() as file:
            groups = range(file.num_row_groups)
            sizes = (file.metadata.row_group(group).num_rows for group in groups)
            for group, first, inside in _by_part(rows, groups, sizes):
                encoded = self._encoded(file, group)
                for row in inside.tolist():
                    yield Item(f"{self._where}, row {first + row}", partial(open_encoded, encoded[row].as_py()))

    def _encoded(self, file: Any, group: int) -> Any:
        """The images of a row group, in bytes."""
        if not self._is_struct:
            return file.read_row_group(group, [self._image_column]).column(0)
        return pc.struct_field(file.read_row_group(group, [f"{self._image_column}.bytes"]).column(0), "bytes")

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The open `ParquetFile`; what goes wrong in reading it names the file."""
        try:
            with pq.ParquetFile(self._folder.local(self.name)) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._where}: cannot be read as a Parquet file: {error}") from error

    def _check(self, schema: Any) -> None:
        if {self._image_column, self._label_column} - set(schema.names):
            needed = f"needs columns {self._image_column} and {self._label_column}"
            remedy = "name others in data.image_column and data.label_column"
            raise DataError(f"{self._where}: {needed}, has {', '.join(schema.names)}; {remedy}")
        image, label = schema.field(self._image_column).type, schema.field(self._label_column).type
        if not _is_encoded(image) and not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
            kinds = "struct{bytes, path} or binary"
            raise DataError(f"{self._where}: column {self._image_column} must be {kinds}, is {image}")
        if not holds_labels(label):
            raise DataError(f"{self._where}: column {self._label_column} must be integers from 0 or text, is {label}")


def _first(wanted: tuple[str, ...], present: list[str]) -> str:
    return next((name for name in wanted if name in present), wanted[0])


def _is_encoded(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: Any, label_column: str) -> tuple[str, ...] | None:
    """The names in the Hugging Face metadata, if they are there."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(label_column, {}).get("names")
    return tuple(names) if names else None


def _by_part(rows: Tensor, parts: Iterable[_Part], sizes: Iterable[int]) -> Iterator[tuple[_Part, int, Tensor]]:
    """For every part that holds some of the rows: it, the row it starts at, and its rows counted from there."""
    first = 0
    for part, size in zip(parts, sizes, strict=True):
        inside = rows[(rows >= first) & (rows < first + size)] - first
        if len(inside):
            yield part, first, inside
        first += size
