"""Images in Parquet files, in the layout of the Hugging Face Hub.

A column `image` (or `img`, or the one that `data.image_column` names) holds encoded image files, as struct{bytes, path}
or as their bytes; a column `label` (or another that a dataset is known by, or the one that `data.label_column` names)
holds integers, whose names may stand in the schema's metadata under `huggingface`, or the names of classes.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from os.path import commonprefix
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydd.core.errors import DataError, UserError
from raydd.data.columns import LabelColumn, check_one_kind, has_labels, holds_labels, joined, labels_of, numbered
from raydd.data.listing import Item, Listing, folder_name, open_encoded, some
from raydd.data.place import Place
from raydd.data.splits import NamedSplits, divided, kind_of, named_files, named_splits
from raydd.storage import Folder
from raydd.storage.pointers import FETCH, LONGEST, is_pointer

_Part = TypeVar("_Part")
_ENDING: Final = ".parquet"
_FORM: Final = "{}" + _ENDING
_ABOVE: Final = ("data", "default")


def parquet(
    place: Place,
    class_names: tuple[str, ...] | None = None,
    label_columns: tuple[str, ...] = ("label",),
    *,
    is_published: bool = False,
) -> tuple[Listing, Listing]:
    """The splits in files that are called so, such as `root/train*.parquet` and `root/test*.parquet`.

    Where there is no test split whose images have labels, it is the validation split; without one the training images
    are divided. Rows are in file order, files in the order of their names. The dataset is named by its folder. Integer
    labels are named by the files' metadata, else by `class_names`, else by their numbers; labels that are text become
    classes in the alphabetical order of the training labels.

    Args:
        place: the folder, and the columns that the user names.
        class_names: of integer labels that the files do not name.
        label_columns: those that may hold the labels; the first that is there does.
        is_published: whether the test images are known to the literature, so that nothing else may stand for them.

    Raises:
        DataError: there is no training split, or no test split of a published dataset; or a file is damaged, lacks a
            column, or has labels that are neither integers nor text, classes under other names than the first file's,
            or test labels that no training image has.
    """
    columns = _Columns(place.image_columns(), place.label_columns(label_columns))
    splits = split_files(place.root)
    if not splits.train:
        raise DataError(
            f"train*.parquet in {place.root.uri}: there is no such file; data.root must hold train*.parquet, and "
            "test*.parquet where there are test images"
        )
    train = _Files(place.root, splits.train, columns)
    names = train.class_names or class_names
    labels = train.labels(names)
    listing = _listing(train, labels, names)
    for stems in splits.tests:
        test = _Files(place.root, stems, columns)
        if test.has_labels():
            tested = test.labels(listing.class_names)
            check_one_kind([labels, tested], place.root.uri)
            division = None if is_published else splits.division(stems, _FORM)
            return listing, replace(_listing(test, tested, listing.class_names), division=division)
    if is_published:
        raise DataError(
            f"test*.parquet in {place.root.uri}: there is no such file whose images have labels, and the test images "
            "of a published dataset are given; put it beside the training files"
        )
    return divided(listing, splits.division(form=_FORM))


def split_files(root: Folder) -> NamedSplits:
    """Which Parquet files below a folder are of which split, without their endings.

    They lie in the folder itself, or in `data` as in a repository of the Hub, or in `default` as the Hub converts one;
    and are called so, or lie in folders that are.
    """
    nothing = NamedSplits((), (), ())
    for above in ("", *(f"{name}/" for name in _ABOVE if name in root.folders())):
        folder = root / above.rstrip("/") if above else root
        inside = {name: _stems(folder / name) for name in folder.folders() if kind_of(name)}
        splits = named_files(_stems(folder))
        if splits == nothing:
            splits = _of_folders(named_splits(name for name, stems in inside.items() if stems), inside)
        if splits != nothing:
            return splits.below(above)
    return nothing


def _stems(folder: Folder) -> list[str]:
    return [name.removesuffix(_ENDING) for name in folder.files() if name.endswith(_ENDING)]


def _of_folders(folders: NamedSplits, inside: Mapping[str, Sequence[str]]) -> NamedSplits:
    """The files in the folders that are splits."""

    def files(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name}/{stem}" for name in names for stem in inside[name])

    return NamedSplits(files(folders.train), tuple(map(files, folders.tests)), files(folders.others))


@dataclass(frozen=True)
class _Columns:
    """Names of columns, the best first."""

    image: tuple[str, ...]
    label: tuple[str, ...]


class _Files:
    """The files of a split."""

    def __init__(self, folder: Folder, stems: Sequence[str], columns: _Columns) -> None:
        self.folder, self.where = folder, where_of(stems, folder)
        self.shards = [_Shard(folder, f"{stem}{_ENDING}", columns) for stem in stems]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those of the first file that names its classes."""
        return next((shard.class_names for shard in self.shards if shard.class_names), None)

    def has_labels(self) -> bool:
        """Whether any image has one: competitions keep those of the test split."""
        return any(has_labels(shard.column) for shard in self.shards)

    def labels(self, names: tuple[str, ...] | None) -> LabelColumn:
        """Of all files, with the numbers that these classes have."""
        return joined([shard.labels(names) for shard in self.shards], self.where)


def _listing(files: _Files, labels: LabelColumn, class_names: tuple[str, ...] | None) -> Listing:
    folder, shards = files.folder, files.shards
    numbers, class_names = numbered(labels, class_names, files.where)
    starts = list(accumulate((len(shard) for shard in shards), initial=0))

    def items(rows: Tensor) -> Iterator[Item]:
        for shard, _, inside in _by_part(rows, shards, map(len, shards)):
            yield from shard.items(inside)

    def place(row: int) -> tuple[Folder, str]:
        number = bisect_right(starts, row) - 1
        return folder, f"{shards[number].name}#{row - starts[number]}"

    return Listing(folder_name(folder), files.where, class_names, numbers, items, place)


class _Shard:
    """One Parquet file: labels and class names at once, images on demand."""

    def __init__(self, folder: Folder, name: str, columns: _Columns) -> None:
        self._folder, self.name = folder, name
        self._where = (folder / name).uri
        with self._open() as file:
            schema = file.schema_arrow
            self._image_column = _first(columns.image, schema.names)
            label_column = _first(columns.label, schema.names)
            self._check(schema, label_column)
            self._is_struct = pa.types.is_struct(schema.field(self._image_column).type)
            self.column = file.read([label_column]).column(0)
        self.class_names = class_names_in(schema, label_column, self._where)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.column)

    def labels(self, names: tuple[str, ...] | None) -> LabelColumn:
        """The labels, with the numbers that these classes have where this file gives them others.

        Raises:
            DataError: a row has no label, or one of a class that is not among these.
        """
        found = labels_of(self.column, self._where)
        if not isinstance(found, Tensor) or names is None or self.class_names in (None, names):
            return found
        own = self.class_names or ()
        used = sorted(set(found.tolist()))
        if odd := [own[label] for label in used if 0 <= label < len(own) and own[label] not in names]:
            raise DataError(
                f"{self._where}: has images of {some(odd)}, and the dataset's first file knows no such class; give all "
                "files the same class names"
            )
        inside = (found >= 0) & (found < len(own))
        numbers = torch.tensor([names.index(name) if name in names else -1 for name in own])
        return torch.where(inside, numbers[found.clamp(0, len(own) - 1)], found)

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
            if is_pointer(self._start()):
                raise DataError(f"{self._where}: is {FETCH}") from error
            raise DataError(f"{self._where}: cannot be read as a Parquet file: {error}") from error

    def _start(self) -> bytes:
        with suppress(UserError, OSError), self._folder.local(self.name).open("rb") as file:
            return file.read(LONGEST)
        return b""

    def _check(self, schema: Any, label_column: str) -> None:
        wanted = (self._image_column, label_column)
        if set(wanted) - set(schema.names):
            needed = f"needs columns {self._image_column} and {label_column}"
            remedy = "name others in data.image_column and data.label_column"
            raise DataError(f"{self._where}: {needed}, has {', '.join(schema.names)}; {remedy}")
        if twice := [name for name in wanted if schema.names.count(name) > 1]:
            raise DataError(f"{self._where}: has {schema.names.count(twice[0])} columns called {twice[0]}; rename them")
        image, label = (schema.field(name).type for name in wanted)
        if not _is_encoded(image) and not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
            kinds = "struct{bytes, path} or binary"
            raise DataError(f"{self._where}: column {self._image_column} must be {kinds}, is {image}")
        if not holds_labels(label):
            raise DataError(f"{self._where}: column {label_column} must be integers from 0 or text, is {label}")


def where_of(stems: Sequence[str], folder: Folder) -> str:
    """What messages call the files of a split."""
    files = f"{stems[0]}{_ENDING}" if len(stems) == 1 else f"{commonprefix(list(stems))}*{_ENDING}"
    return f"{files} in {folder.uri}"


def _first(wanted: tuple[str, ...], present: list[str]) -> str:
    return next((name for name in wanted if name in present), wanted[0])


def _is_encoded(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def class_names_in(schema: Any, label_column: str, where: str) -> tuple[str, ...] | None:
    """The names in the Hugging Face metadata, if they are there; metadata in another form say nothing.

    Raises:
        DataError: two classes have one name.
    """
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = found["info"]["features"][label_column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: its metadata call two classes {twice}; give each a name of its own")
    return tuple(names)


def _by_part(rows: Tensor, parts: Iterable[_Part], sizes: Iterable[int]) -> Iterator[tuple[_Part, int, Tensor]]:
    """For every part that holds some of the rows: it, the row it starts at, and its rows counted from there."""
    first = 0
    for part, size in zip(parts, sizes, strict=True):
        inside = rows[(rows >= first) & (rows < first + size)] - first
        if len(inside):
            yield part, first, inside
        first += size
