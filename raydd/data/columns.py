"""Labels as columns of a table hold them: integers, or the names of classes."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.listing import some

LabelColumn = Tensor | tuple[str, ...]
"""Of N images: int64 [N], or N names."""


def holds_labels(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold labels."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind)) or _is_text(kind)


def has_labels(column: pa.ChunkedArray) -> bool:
    """Whether any row has one; null and, of integers, -1 are none."""
    if len(column) == column.null_count:
        return False
    return not pa.types.is_integer(column.type) or pc.any(pc.not_equal(column, -1)).as_py() is True


def labels_of(column: pa.ChunkedArray, where: str) -> LabelColumn:
    """The labels in a column of integers or of text; a DataError, which begins with `where`, if one is null."""
    if column.null_count:
        raise DataError(f"{where}: {column.null_count} rows have no label (null); label or remove them")
    if _is_text(column.type):
        return tuple(pc.cast(column, pa.string()).to_pylist())
    try:
        return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: labels are no numbers of classes: {error}") from error


def check_one_kind(parts: Sequence[LabelColumn], where: str) -> None:
    """Raise a DataError unless the labels of all files are integers, or of all text."""
    if len({isinstance(part, Tensor) for part in parts}) > 1:
        raise DataError(f"{where}: labels are integers in some files and text in others; write them in one way")


def joined(parts: Sequence[LabelColumn], where: str) -> LabelColumn:
    """The labels of several files one after another; a DataError unless all are of one kind."""
    check_one_kind(parts, where)
    numbers = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(numbers) if numbers else tuple(name for part in parts for name in part)


def numbered(labels: LabelColumn, class_names: tuple[str, ...] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """The labels as int64 [N], and the classes' names.

    Names become classes in the order of the alphabet, unless there are classes already. Integers are named by their
    numbers where there are no names.

    Raises:
        DataError: a name is none of the classes.
    """
    if isinstance(labels, Tensor):
        return labels, class_names or tuple(map(str, range(len(set(labels.tolist())))))
    class_names = class_names or tuple(sorted(set(labels)))
    numbers = {name: label for label, name in enumerate(class_names)}
    if unknown := sorted(set(labels) - set(numbers)):
        raise DataError(f"{where}: labels that are none of the {len(class_names)} classes: {some(unknown)}")
    return torch.tensor([numbers[name] for name in labels], dtype=torch.int64), class_names


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
