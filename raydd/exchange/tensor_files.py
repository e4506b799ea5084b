"""Tensors from other people's files. No code in them is ever run."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.storage.foreign_files import (
    Allowed,
    first_line,
    guarded_file,
    pickled,
    require_file,
    require_room,
    require_stored,
)

_SCALAR: Final[Callable[..., Any]] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_NUMBERS: Final[list[Allowed]] = [
    np.dtype,
    type(np.dtype("float64")),
    type(np.dtype("float32")),
    type(np.dtype("int64")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What NumPy's numbers are pickled as: lists of accuracies are made of them."""


def only(source: Path, *patterns: str) -> Path:
    """The file that is named, or the only one of these names in the folder that is.

    Raises:
        DataError: there is none, or there are several.
    """
    if not source.is_dir():
        require_file(source)
        return source
    found = sorted(file for pattern in patterns for file in source.glob(pattern))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{source}: needs one {' or '.join(patterns)} (found: {names}); name the file")
    return found[0]


def load_pt(path: Path) -> Any:
    """The content of a file that torch.save wrote: tensors, numbers, and lists and dictionaries of them.

    Raises:
        DataError: there is no such file, it is not torch's, or holds other objects.
    """
    with guarded_file(path, "a file that torch.save wrote"):
        require_unpacked(path)
        return pickled(path, str(path), _NUMBERS)


def require_unpacked(path: Path) -> None:
    """Raise a DataError where the parts of a zip file, as torch and NumPy write them, declare what cannot be there."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_room(sum(part.file_size for part in archive.infolist()), path.stat().st_size, str(path))


def tensor(value: object, where: str) -> Tensor:
    """The value, if it is a tensor, without its history; a DataError that names the place if not."""
    if not isinstance(value, Tensor):
        raise DataError(f"{where}: is {type(value).__name__}, not a tensor")
    require_stored(value, where)
    return value.detach()


def number(value: object, where: str) -> float:
    """A step size: a number, or a tensor that holds one.

    Raises:
        DataError: it is neither, or not positive; names the place.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise DataError(f"{where}: must be a positive number, is {str(value)[:60]}")
    return float(value)


def array(value: Any, where: str) -> Tensor:
    """A tensor of a NumPy array of numbers; a DataError that names the place if it is none."""
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except TypeError as error:
        raise DataError(f"{where}: holds no numbers ({first_line(error)})") from error


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
