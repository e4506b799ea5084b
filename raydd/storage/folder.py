"""A folder on a local disk or in an object store, behind one interface."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from os.path import normpath
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pyarrow import memory_map
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, S3FileSystem

from raydd.core.errors import UserError
from raydd.storage import cache
from raydd.storage.local import explained, first_line, publish, temporary, temporary_name
from raydd.storage.retries import PatientS3, patiently

MANIFEST = "manifest.json"
"""The file that makes an artefact exist; of everything in a folder it is written last and deleted first."""


@dataclass(frozen=True)
class Folder:
    """A folder that may or may not exist. It is its address: it compares, hashes and pickles by that alone.

    Names are plain: without slashes, and without a leading dot, which marks what is not finished. All methods raise
    UserError, naming the file, where the disk or the store refuses.
    """

    uri: str
    """An absolute local path, or the URI of an object store with its query string, if any; see `at`."""

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """The folder at a path (relative to the working directory, `~` allowed) or at a pyarrow URI.

        `s3://bucket/runs?endpoint_override=HOST:PORT&scheme=http` keeps its query in every folder below it.

        Raises:
            UserError: pyarrow has no file system of this scheme, the URI holds a password, or it is no address.
        """
        _require_address(str(uri))
        parts = urlsplit(str(uri)) if "://" in str(uri) else None
        if parts is None or parts.scheme == "file":
            path = Path(uri) if parts is None else Path(unquote(parts.path))
            return cls(normpath(path.expanduser().absolute()))
        if parts.password:
            raise UserError(
                f"{parts.scheme}://...@{parts.hostname}: take the password out of the URI, which ends up in logs and "
                "results; credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        _connect(_store(parts.geturl()))
        names = [quote(unquote(name)) for name in parts.path.split("/") if name]
        return cls(parts._replace(path="/".join(["", *names])).geturl())

    @classmethod
    def of_file(cls, uri: str | Path) -> tuple["Folder", str]:
        """The folder that a file lies in, by its path or URI (see `at`), and its name there.

        Raises:
            UserError: as `at`, or there is no name.
        """
        _require_address(str(uri))
        if "://" not in str(uri):
            path = Path(uri).expanduser()
            return cls.at(path.parent), path.name
        parts = urlsplit(str(uri))
        above, _, name = parts.path.rpartition("/")
        if not name:
            raise UserError(f"{uri}: names a folder, not a file")
        return cls.at(parts._replace(path=above).geturl()), unquote(name)

    def __truediv__(self, name: str) -> "Folder":
        """The folder `name` below this one; `a/b` goes two levels down."""
        names = [_plain(part) for part in name.split("/")]
        if self.is_local:
            return Folder(str(self.path.joinpath(*names)))
        parts = urlsplit(self.uri)
        return Folder(parts._replace(path="/".join([parts.path, *map(quote, names)])).geturl())

    def above(self) -> Iterator["Folder"]:
        """The folders that this one lies in, the innermost first; in an object store up to the bucket."""
        if self.is_local:
            yield from (Folder(str(path)) for path in self.path.parents)
            return
        parts = urlsplit(self.uri)
        names = parts.path.split("/")
        for count in range(len(names) - 1, 0, -1):
            yield Folder(parts._replace(path="/".join(names[:count])).geturl())

    @property
    def is_local(self) -> bool:
        """Whether this is a folder on a local disk."""
        return "://" not in self.uri

    @property
    def path(self) -> Path:
        """The local path; ValueError for a folder of an object store, whose files `local` makes available."""
        if not self.is_local:
            raise ValueError(f"{self.uri} has no local path")
        return Path(self.uri)

    def exists(self) -> bool:
        """Whether the folder is there; in an object store, whether anything lies in it."""
        return bool(self._info().type == FileType.Directory)

    def listing(self) -> list[Any]:
        """Pyarrow's FileInfo of everything directly inside, by name; empty where there is no folder."""
        filesystem, path = self.location
        selector = FileSelector(path, allow_not_found=True)
        infos = patiently(self.uri, lambda: filesystem.get_file_info(selector))
        plain = (info for info in infos if (name := _name(info)) is not None and is_plain(name))
        return sorted(plain, key=lambda info: info.base_name)

    def files(self) -> list[str]:
        """The names of the files directly inside, sorted; empty where there is no folder."""
        return [info.base_name for info in self.listing() if info.type == FileType.File]

    def folders(self) -> list[str]:
        """The names of the folders directly inside, sorted, but for links back to one that this lies in.

        Empty where there is no folder.
        """
        found = [info.base_name for info in self.listing() if info.type == FileType.Directory]
        return [name for name in found if not (self.is_local and leads_back(self.path / name))]

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool((self / name)._info().type == FileType.File)

    def find_size(self, name: str) -> int | None:
        """A file's size in bytes; None where there is no such file."""
        info = (self / name)._info()
        return int(info.size) if info.type == FileType.File else None

    def size(self, name: str) -> int:
        """A file's size in bytes."""
        return int(self._file(name).size)

    def read(self, name: str) -> bytes:
        """A file's content, past the cache."""
        filesystem, path = (self / name).location

        def content() -> bytes:
            with filesystem.open_input_file(path) as file:
                return bytes(file.read())

        return patiently((self / name).uri, content)

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file as it is stored, past the cache, as 64 hexadecimal digits."""
        filesystem, path = (self / name).location

        def digest() -> str:
            with filesystem.open_input_stream(path, compression=None, buffer_size=cache.CHUNK_BYTES) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        return patiently((self / name).uri, digest)

    def local(self, name: str) -> Path:
        """A local file with the content of `name`: itself, or a copy that is to be opened soon (`cache.fetch`)."""
        info = self._file(name)
        return self.path / name if self.is_local else cache.fetch(self.location[0], info, (self / name).uri)

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file, atomically."""
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local path to be filled; it becomes the file `name` on leaving, and nothing on an error.

        The path is hidden and ends like `name`. On a local disk it lies beside the file it will be; for an object
        store it lies in the cache's folder and is uploaded whole.
        """
        target = self / name
        with temporary(self.path if self.is_local else cache.cache_folder(), name, target.uri) as path:
            yield path
            if self.is_local:
                with explained(target.uri):
                    publish(path, target.path)
            else:
                target._upload(path)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        filesystem, path = (self / name).location

        def delete() -> None:
            with suppress(FileNotFoundError):
                filesystem.delete_file(path)

        patiently((self / name).uri, delete)

    def delete_all(self) -> None:
        """Delete the folder, if it is there, and everything in it; an artefact inside never exists in part."""
        if not self.exists():
            return
        if self.is_local:
            with explained(self.uri):
                condemned = self.path.with_name(temporary_name(self.path.name))
                self.path.rename(condemned)
                shutil.rmtree(condemned)
            return
        filesystem, path = self.location

        def delete() -> None:
            infos = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
            with suppress(FileNotFoundError):
                for info in infos:
                    if info.base_name == MANIFEST:
                        filesystem.delete_file(info.path)
                filesystem.delete_dir(path)

        patiently(self.uri, delete)

    def check_writable(self) -> None:
        """Raise UserError where files could never be written; creates nothing.

        Checked are the permissions of the nearest folder that exists, or that the bucket does.
        """
        with explained(self.uri):
            if self.is_local:
                parent = next(path for path in (self.path, *self.path.parents) if path.exists())
                if not parent.is_dir():
                    raise UserError(f"{self.uri}: {parent} is a file, not a folder; choose another folder")
                if not os.access(parent, os.W_OK | os.X_OK):
                    raise UserError(f"{self.uri}: no permission to write in {parent}; choose another folder")
                return
            filesystem, bucket = _connect(_store(self.uri))
            if filesystem.get_file_info(bucket).type == FileType.NotFound:
                raise UserError(f"{self.uri}: there is no bucket {bucket}; make it, or correct the name")

    @property
    def location(self) -> tuple[Any, str]:
        """The pyarrow file system, which pickles, and the path in it; of a file, too, when this is `folder / file`."""
        if self.is_local:
            return _LOCAL, self.uri
        filesystem, bucket = _connect(_store(self.uri))
        return filesystem, (bucket + unquote(urlsplit(self.uri).path)).rstrip("/")

    def _info(self) -> Any:
        filesystem, path = self.location
        return patiently(self.uri, lambda: filesystem.get_file_info(path))

    def _file(self, name: str) -> Any:
        """The FileInfo of a file that has to be there."""
        info = (self / name)._info()
        if info.type != FileType.File:
            raise UserError(f"{(self / name).uri}: there is no such file")
        return info

    def _upload(self, path: Path) -> None:
        """Store a local file as one object at this address.

        In a thread of its own, as a stream publishes what it has when an exception closes it: signals are for the main
        thread. pyarrow's `copy_files` would not do, for it closes silently: what failed at the end was lost.
        """
        filesystem, key = self.location

        def upload() -> None:
            with memory_map(str(path)) as source:
                content = source.read_buffer()
                sink = filesystem.open_output_stream(key, compression=None)
                for start in range(0, content.size, cache.CHUNK_BYTES):
                    sink.write(content.slice(start, min(cache.CHUNK_BYTES, content.size - start)))
                sink.close()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(patiently, self.uri, upload).result()


def _require_address(uri: str) -> None:
    """Raise a UserError for what no file system takes: half a URI, the home of nobody, characters that are none."""
    try:
        uri.encode()
        if "\0" in uri:
            raise ValueError("it has a null character")
        if "://" in uri:
            urlsplit(uri)
        else:
            Path(uri).expanduser()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{ascii(uri)}: names no file or folder: {error}") from error


def _name(info: Any) -> str | None:
    """Of a FileInfo; None where it is not UTF-8, and so cannot be asked for."""
    try:
        return str(info.base_name)
    except UnicodeDecodeError:
        return None


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder and is not hidden."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def leads_back(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in, so that whoever follows it comes round for ever."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError(f"{name!r} is not a plain name (no slash, no leading dot)")
    return name


_LOCAL = LocalFileSystem()


def _store(uri: str) -> str:
    """A URI without the path in the bucket."""
    scheme, netloc, _, query, _ = urlsplit(uri)
    return urlunsplit((scheme, netloc, "", query, ""))


@lru_cache
def _connect(store: str) -> tuple[Any, str]:
    """The pyarrow file system of a store, with its connections, and the bucket's name."""
    try:
        filesystem, bucket = FileSystem.from_uri(_with_patience(store))
        if isinstance(filesystem, S3FileSystem):
            filesystem = PatientS3.like(filesystem)
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{store}: {first_line(error)}; a folder is a local path, s3://... or gs://...") from error
    if not bucket:
        raise UserError(f"{store}: this names no bucket; write {store}BUCKET/FOLDER")
    return filesystem, bucket


def _with_patience(store: str) -> str:
    """Give up on Google's store after a minute, where its own default is a quarter of an hour without a word."""
    parts = urlsplit(store)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return store
    return parts._replace(query="&".join(filter(None, [parts.query, "retry_limit_seconds=60"]))).geturl()
