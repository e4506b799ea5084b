"""Tensors from other people's files. No code in them is ever run."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from raydd.core.errors import DataError

_SCALAR: Final[Callable[..., Any]] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_NUMBERS: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
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
    if source.is_file():
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
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except UnpicklingError as error:
        raise DataError(
            f"{path}: holds pickled objects beside tensors, which raydd does not run ({_what(error)}); load it where "
            "you trust it, and save the tensors alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: is not a file that torch.save wrote, or is damaged ({_what(error)})") from error


def tensor(value: object, where: str) -> Tensor:
    """The value, if it is a tensor, without its history; a DataError that names the place if not."""
    if not isinstance(value, Tensor):
        raise DataError(f"{where}: is {type(value).__name__}, not a tensor")
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
        raise DataError(f"{where}: holds no numbers ({_what(error)})") from error


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what(error: Exception) -> str:
    """The part of torch's message that says which object it was, or its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "global" in line]
    return (named or lines or [type(error).__name__])[0][:160]
