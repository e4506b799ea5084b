"""Writes on the local disk that happen as a whole or not at all, and words for what a file system refuses."""

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raydd.core.errors import UserError
from raydd.core.failures import failure

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}-.")
_ABANDONED_SECONDS = 24 * 3600
_REASONS = {
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a part of this path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
    errno.EACCES: "permission denied; choose a folder you may use",
}


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what the system refuses inside the block into a UserError about `place`."""
    try:
        yield
    except OSError as error:
        reason = failure(error) or _REASONS.get(error.errno or 0) or first_line(error)
        raise UserError(f"{place}: {reason}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text; some libraries append pages to it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def temporary_name(name: str) -> str:
    """A fresh hidden name with the suffix of `name`, by which some writers choose their format."""
    return f".{secrets.token_hex(6)}-{name}"


@contextmanager
def temporary(folder: Path, name: str, place: str) -> Iterator[Path]:
    """Yield a fresh hidden path in `folder` (made if need be), and remove on leaving what still lies there.

    Raises:
        UserError: the folder cannot be made, or the disk is full or fails; names `place`. Other errors of the block
            pass as they are.
    """
    with explained(place):
        make_folder(folder)
    path = folder / temporary_name(name)
    try:
        yield path
    except Exception as error:
        if said := failure(error, f" of {folder}"):
            raise UserError(f"{place}: {said}") from error
        raise
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the flock on a local file (made if need be) and hold it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(path: Path, target: Path) -> None:
    """Give a finished file its name, for good: it survives a power cut, and readers see the old file or the new one."""
    _sync(path)
    path.replace(target)
    _sync(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each of them on the disk before the next."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove what is left of temporary files, or of folders to be deleted, whose process died more than a day ago."""
    for path in folder.iterdir():
        if _TEMPORARY.match(path.name):
            with suppress(OSError):  # gone meanwhile, or another user's
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
