"""Local copies of remote files, up to a limit; the ones unused for longest go first.

`RAYDD_CACHE` names the folder (by default `raydd` in the user's cache folder), `RAYDD_CACHE_BYTES` the limit. A copy is
filed under a hash of address, size and time of change, so a remote file that changes is fetched anew. Any number of
processes share the folder: copies appear by renaming, and one process fetches while the others wait for the same file.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem, copy_files

from raydd.core.errors import ConfigError
from raydd.storage.local import exclusive, explained, make_folder, publish, sweep, temporary
from raydd.storage.retries import patiently

CHUNK_BYTES = 16 * 2**20
"""What one request to an object store carries."""

_DEFAULT_LIMIT_BYTES = 20 * 10**9
_IN_USE_SECONDS = 60


def cache_folder() -> Path:
    """Where local copies lie, and where files wait for their upload."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RAYDD_CACHE") or Path(base) / "raydd").absolute() / "remote"


def fetch(filesystem: Any, info: Any, uri: str) -> Path:
    """The local copy of a remote file, fetched if need be.

    A copy handed out stays for a minute at least, so there is time to open it; what is open survives its removal.

    Args:
        filesystem: the pyarrow filesystem that holds the file.
        info: the file's pyarrow FileInfo.
        uri: its whole address, since two stores may hold equal paths.

    Raises:
        UserError: the store or the cache's disk refuses; names the file.
    """
    folder = cache_folder()
    digest = hashlib.sha256(f"{uri}\n{info.size}\n{info.mtime_ns}".encode()).hexdigest()[:32]
    copy = folder / f"{digest}-{info.base_name}"
    with explained(str(folder)):
        make_folder(folder)
        with exclusive(folder / f".lock-{digest[:2]}"):
            if _used(copy, info.size):
                return copy
            with temporary(folder, copy.name, uri) as path:
                patiently(uri, lambda: _download(filesystem, info.path, path))
                with explained(uri):
                    publish(path, copy)
        with exclusive(folder / ".lock-evict"):
            _evict(folder, _limit_bytes())
    return copy


def _download(filesystem: Any, source: str, path: Path) -> None:
    there, here = filesystem, LocalFileSystem()
    copy_files(source, str(path), source_filesystem=there, destination_filesystem=here, chunk_size=CHUNK_BYTES)


def _used(copy: Path, size: int) -> bool:
    """Mark a copy as just used; False where there is none of that size."""
    try:
        os.utime(copy)
        return copy.stat().st_size == size
    except FileNotFoundError:
        return False


def _evict(folder: Path, limit_bytes: int) -> None:
    """Remove copies, the one unused for longest first, until all of them fit; those just handed out stay."""
    sweep(folder)
    found = [(path, path.stat()) for path in folder.iterdir() if not path.name.startswith(".")]
    excess = sum(stat.st_size for _, stat in found) - limit_bytes
    for path, stat in sorted(found, key=lambda entry: entry[1].st_mtime):
        if excess <= 0 or time.time() - stat.st_mtime < _IN_USE_SECONDS:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size


def _limit_bytes() -> int:
    text = os.environ.get("RAYDD_CACHE_BYTES") or str(_DEFAULT_LIMIT_BYTES)
    if not text.isdecimal():
        raise ConfigError("RAYDD_CACHE_BYTES", f"{text!r} is not a whole number of bytes")
    return int(text)
