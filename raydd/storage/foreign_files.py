"""Reading other people's files: whatever is wrong with one becomes a single message that names it.

Libraries raise almost anything at a damaged file, and some believe the sizes that it declares.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from raydd.core.errors import DataError, UserError
from raydd.core.process import memory_bytes
from raydd.storage.pointers import FETCH, LONGEST, is_pointer

_STYLED: Final = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_LINE: Final = 160
Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class, or a function and the name that it is pickled under."""
MOST_PACKED: Final = 200
"""Bytes that one byte of a file may stand for: numbers of images and labels do not pack better."""


@contextmanager
def guarded(where: str, what: str, start: bytes, error: type[UserError] = DataError) -> Iterator[None]:
    """Raise what a reader raises inside the block as one error, but for errors of ours.

    Args:
        where: what messages call the file.
        what: the file should be.
        start: its first bytes.
        error: what is raised.
    """
    try:
        yield
    except UserError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as raised:  # whatever many readers come to; a panic of Rust's is no Exception
        if is_pointer(start):
            raise error(f"{where}: is {FETCH}") from raised
        raise error(f"{where}: is not {what}, or is damaged ({first_line(raised)})") from raised


@contextmanager
def guarded_file(path: Path, what: str) -> Iterator[None]:
    """`guarded` reading of a file on this disk, which is looked at first.

    Raises:
        DataError: there is no such file, or it is a pipe, a device or a folder.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST)
    except OSError as raised:
        raise DataError(f"{path}: cannot be read ({raised.strerror})") from raised
    with guarded(str(path), what, start):
        yield


def require_file(path: Path) -> None:
    """Raise a DataError unless there is a plain file, which opening does not wait for."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    if not path.is_file():
        raise DataError(f"{path}: is no file but a folder, a pipe, a socket or a device")


def require_room(declared_bytes: int, stored_bytes: int, where: str) -> None:
    """Raise a DataError where a file declares more than it can hold, or than there is memory for.

    Args:
        declared_bytes: what its content takes unpacked.
        stored_bytes: what it takes in the file.
        where: what messages call it.
    """
    if declared_bytes > MOST_PACKED * max(stored_bytes, LONGEST):
        raise DataError(
            f"{where}: declares {declared_bytes:,} bytes in a file of {stored_bytes:,}, which no images or labels are"
        )
    if declared_bytes > (limit := memory_bytes(torch.device("cpu"))):
        raise DataError(f"{where}: takes {declared_bytes:,} bytes of memory, of which this machine has {limit:,}")


def require_stored(tensor: Tensor, where: str, error: type[UserError] = DataError) -> None:
    """Raise an error unless a tensor's values are all stored: one may declare any number of them over a single one."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise error(f"{where}: is a {tensor.layout} tensor; save plain ones, as by tensor.to_dense()")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise error(f"{where}: declares {list(tensor.shape)} values, and stores fewer; save tensor.contiguous()")


def pickled(file: Path | BinaryIO, where: str, allowed: list[Allowed], error: type[UserError] = DataError) -> Any:
    """The content of a file that torch.save wrote, for use inside `guarded`; no code in it is run.

    Args:
        file: on this disk, or open.
        where: what messages call it.
        allowed: classes beside tensors, numbers and their lists and dictionaries.
        error: what is raised.

    Raises:
        UserError: it holds other objects.
    """
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as raised:
        lines = [plain(line) for line in str(raised).splitlines()]
        named = next((line for line in lines if "GLOBAL" in line or "global" in line), None)
        if named is None:
            raise
        raise error(
            f"{where}: holds pickled objects beside tensors, which raydd does not run ({named}); load it where you "
            "trust it, and save the tensors alone"
        ) from raised


def first_line(raised: BaseException) -> str:
    """What an error says, in short."""
    lines = [line for text in str(raised).splitlines() if (line := plain(text))]
    return (lines or [type(raised).__name__])[0]


def plain(line: str) -> str:
    """A line of a library's message, without what would steer a terminal."""
    return "".join(letter for letter in _STYLED.sub("", line).strip() if letter.isprintable())[:_LONGEST_LINE]
