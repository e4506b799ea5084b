"""A set of files that exists as a whole or not at all.

The files come first, each atomically; then `manifest.json`, which lists them with their sizes and SHA-256 sums. Without
it there is no artefact. Replacing an artefact never touches the files of the old one: the new ones have other names,
until the new manifest takes the place of the old, and only then do the old files go.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, with_config

from raydd.core.errors import ArtefactError, UserError
from raydd.storage.folder import MANIFEST, Folder, is_plain
from raydd.storage.local import sweep

JSON: TypeAlias = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]


def content_key(payload: Mapping[str, JSON]) -> str:
    """The address of whatever `payload` determines: 16 hexadecimal digits, independent of the order of its keys.

    Raises:
        ValueError: a number is not finite.
    """
    return _digest(payload)[:16]


def _digest(payload: Mapping[str, JSON]) -> str:
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _member(name: str) -> str:
    """The name itself, if a file of an artefact may have it."""
    if not is_plain(name) or name == MANIFEST:
        raise ValueError(f"{name!r} is not a name for a file of an artefact")
    return name


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artefact."""

    file: Annotated[str, AfterValidator(_member)]
    """Its name in the folder, where its logical name may be taken by an older artefact or another attempt."""
    size: Annotated[int, Field(ge=0, strict=True)]
    """In bytes."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artefact is, and which files it consists of."""

    kind: str
    """What can be read from it: `data`, `experts`, `synthetic`, ..."""
    key: str
    """The content key of everything that determined it."""
    files: dict[str, FileEntry]
    """By logical name."""

    @property
    def stored(self) -> set[str]:
        """The names of its files in the folder."""
        return {entry.file for entry in self.files.values()}

    def dump(self) -> bytes:
        """The manifest as JSON, with the digest of everything else in it."""
        content = asdict(self)
        return json.dumps({**content, "digest": _digest(content)}, indent=2).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """Read what `dump` wrote.

        Raises:
            ValueError: it was altered, or names a file outside its folder.
        """
        try:
            content = json.loads(data)
        except RecursionError as error:
            raise ValueError(str(error)) from error
        if not isinstance(content, dict) or content.pop("digest", None) != _digest(content):
            raise ValueError("its digest is not that of its content")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@dataclass(frozen=True)
class Artefact:
    """A finished artefact."""

    folder: Folder
    manifest: Manifest

    @classmethod
    def find(cls, folder: Folder, kind: str | None = None) -> "Artefact | None":
        """The artefact in `folder`, of any kind where none is named; None where there is no manifest.

        Raises:
            ArtefactError: the manifest is damaged, or is that of another kind of artefact.
        """
        if not folder.has(MANIFEST):
            return None
        try:
            manifest = Manifest.parse(folder.read(MANIFEST))
        except ValueError as error:
            raise ArtefactError(f"{folder.uri}/{MANIFEST}: damaged ({error}); delete the folder, run again") from error
        if kind is not None and manifest.kind != kind:
            raise ArtefactError(f"{folder.uri}: holds an artefact of kind {manifest.kind}, not {kind}; name another")
        return cls(folder, manifest)

    @classmethod
    def require(cls, folder: Folder, kind: str | None = None) -> "Artefact":
        """The artefact in `folder`; see `find`.

        Raises:
            ArtefactError: there is none.
        """
        artefact = cls.find(folder, kind)
        if artefact is None:
            raise ArtefactError(f"{folder.uri}: there is no finished {kind or 'artefact'} here (no manifest.json)")
        return artefact

    def names(self) -> list[str]:
        """The logical names of the files, sorted."""
        return sorted(self.manifest.files)

    def local(self, name: str) -> Path:
        """A local file with the content of `name`, to be opened soon.

        Raises:
            ArtefactError: the file is missing, or its size is not that of the manifest.
        """
        return self.folder.local(self._entry_of_right_size(name).file)

    def read(self, name: str) -> bytes:
        """The content of `name`.

        Raises:
            ArtefactError: the file is missing or altered.
        """
        entry = self._entry_of_right_size(name)
        data = self.folder.read(entry.file)
        self._require_sum(entry, hashlib.sha256(data).hexdigest())
        return data

    def verify(self) -> None:
        """Compare every file with its size and SHA-256, as stored, past the cache.

        Raises:
            ArtefactError: files are missing or altered; one line for each of them.
        """
        problems = []
        for name in self.names():
            try:
                entry = self._entry_of_right_size(name)
                self._require_sum(entry, self.folder.sha256(entry.file))
            except ArtefactError as error:
                problems.append(str(error))
        if problems:
            raise ArtefactError("\n".join(problems))

    def _entry_of_right_size(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtefactError(f"{self.folder.uri}: the {self.manifest.kind} artefact has no file {name}")
        if (size := self.folder.find_size(entry.file)) is None:
            raise self._damaged(entry, "the file is missing")
        if size != entry.size:
            raise self._damaged(entry, f"{size} bytes where {entry.size} were written")
        return entry

    def _require_sum(self, entry: FileEntry, sha256: str) -> None:
        if sha256 != entry.sha256:
            raise self._damaged(entry, "the content is not what was written (SHA-256 differs)")

    def _damaged(self, entry: FileEntry, problem: str) -> ArtefactError:
        where = (self.folder / entry.file).uri
        return ArtefactError(f"{where}: {problem}; delete the folder {self.folder.uri} and run again")


class ArtefactWriter:
    """Collects the files of an artefact in the making; see `new_artefact`."""

    def __init__(self, folder: Folder, taken: set[str]) -> None:
        """Start in `folder`, where the names `taken` belong to the artefact that is there already."""
        self.folder = folder
        self.files: dict[str, FileEntry] = {}
        """The finished files by logical name."""
        self.written: set[str] = set()
        """The names in the folder that this attempt wrote, or began to."""
        self._taken = taken
        self._attempt = secrets.token_hex(6)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local path to be filled; on leaving it becomes the artefact's file `name`."""
        file = self._stored_name(name)
        self.written.add(file)
        with self.folder.writing(file) as path:
            yield path
            with path.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            entry = FileEntry(file=file, size=path.stat().st_size, sha256=sha256)
        self.files[name] = entry

    def write(self, name: str, data: bytes) -> None:
        """Add the file `name` with this content."""
        with self.writing(name) as path:
            path.write_bytes(data)

    def adopt(self, name: str) -> None:
        """Add a file that lies in the folder already; if the attempt fails, it stays."""
        entry = FileEntry(file=_member(name), size=self.folder.size(name), sha256=self.folder.sha256(name))
        self.files[name] = entry

    def _stored_name(self, name: str) -> str:
        """The logical name, or one that no other attempt uses."""
        if self.folder.is_local and _member(name) not in self._taken:
            return name
        path = Path(_member(name))
        return f"{path.stem}.{self._attempt}{path.suffix}"


def verify_below(folder: Folder) -> list[str]:
    """Compare every finished artefact in and below a folder with its manifest; returns where they are.

    Raises:
        ArtefactError: files of one are missing or altered.
    """
    artefact = Artefact.find(folder)
    if artefact is not None:
        artefact.verify()
    below = [uri for name in folder.folders() for uri in verify_below(folder / name)]
    return below if artefact is None else [folder.uri, *below]


def stored_bytes(folder: Folder) -> int:
    """What the files of the artefact in `folder` take.

    Raises:
        ArtefactError: there is none.
    """
    return sum(entry.size for entry in Artefact.require(folder).manifest.files.values())


@contextmanager
def new_artefact(folder: Folder, kind: str, key: str) -> Iterator[ArtefactWriter]:
    """Make an artefact in `folder`, or replace the one of the same kind that is there.

    On leaving, the manifest is written; on an error the folder keeps its former artefact, if any, and loses what this
    attempt wrote. In an object store several processes may make the same artefact at once: the last manifest holds.
    Locally they need the folder's lock, as files have their logical names.

    Raises:
        ArtefactError: the folder holds an artefact of another kind, or a damaged manifest.
    """
    old = _stored(folder, kind)
    writer = ArtefactWriter(folder, old)
    try:
        yield writer
        new = Manifest(kind=kind, key=key, files=writer.files)
        folder.write(MANIFEST, new.dump())
    except BaseException:
        with suppress(UserError):
            _delete(folder, writer.written - _stored(folder, kind))
        raise
    _delete(folder, old - new.stored)
    if folder.is_local:
        sweep(folder.path)


def _stored(folder: Folder, kind: str) -> set[str]:
    """The names that the files of the artefact in `folder` have, if there is one."""
    artefact = Artefact.find(folder, kind)
    return artefact.manifest.stored if artefact else set()


def _delete(folder: Folder, names: set[str]) -> None:
    for name in names:
        folder.delete(name)
