"""Folders, locks and artefacts on a local disk, with real files and real processes."""

import hashlib
import json
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydd.core.errors import ArtefactError, UserError
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.storage.lock import locked
from tests.support.children import ROOT, next_line, output, running, wait_for

TWO_DAYS = 2 * 24 * 3600


def hidden(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.name.startswith(".")]


# Addresses


def test_every_spelling_of_a_path_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = ["runs", "./runs/", "x/../runs", "~/runs", Path("runs"), tmp_path / "runs", f"file://{tmp_path}/runs"]
    assert {Folder.at(spelling) for spelling in spellings} == {Folder.at(tmp_path) / "runs"}
    assert Folder.at("runs").uri == str(tmp_path / "runs")
    assert Folder.at("runs").path == tmp_path / "runs"


def test_a_folder_travels_to_another_process(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "a/b"
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert folder.path == tmp_path / "a" / "b"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../b", "/etc", "a//b", ".hidden", "a\0b"])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        Folder.at(tmp_path) / name
    with pytest.raises(ValueError, match="plain name"):
        Folder.at(tmp_path).write(name, b"")


@pytest.mark.parametrize("uri", ["ftp://host/x", "nonsense://x"])
def test_an_unknown_scheme_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="a folder is a local path, s3://"):
        Folder.at(uri)


# Files


def test_files_are_written_listed_read_and_deleted(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "new"
    assert not folder.exists()
    assert folder.files() == folder.folders() == []
    folder.write("b.txt", b"one")
    folder.write("a.txt", b"")
    folder.write("b.txt", b"three")
    (folder / "sub").write("c", b"c")
    (folder.path / ".hidden").write_bytes(b"")
    assert folder.exists()
    assert (folder.files(), folder.folders()) == (["a.txt", "b.txt"], ["sub"])
    assert (folder.read("b.txt"), folder.size("b.txt"), folder.local("b.txt")) == (b"three", 5, folder.path / "b.txt")
    assert folder.sha256("b.txt") == hashlib.sha256(b"three").hexdigest()
    assert (folder.has("b.txt"), folder.has("sub"), folder.has("none")) == (True, False, False)
    folder.delete("b.txt")
    folder.delete("b.txt")
    assert folder.files() == ["a.txt"]
    folder.delete_all()
    folder.delete_all()
    assert list(tmp_path.iterdir()) == []


def test_deleting_a_folder_leaves_what_links_in_it_point_to(tmp_path: Path) -> None:
    shared = Folder.at(tmp_path) / "shared"
    shared.write("manifest.json", b"{}")
    run = Folder.at(tmp_path) / "run"
    run.write("x", b"")
    (run.path / "experts").symlink_to(shared.path)
    run.delete_all()
    assert shared.files() == ["manifest.json"]


def test_compressed_files_are_read_as_they_are(tmp_path: Path) -> None:
    Folder.at(tmp_path).write("labels.gz", b"not gzip at all")
    assert Folder.at(tmp_path).read("labels.gz") == b"not gzip at all"
    assert Folder.at(tmp_path).sha256("labels.gz") == hashlib.sha256(b"not gzip at all").hexdigest()


def test_a_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with folder.writing("image.png") as path:
        path.write_bytes(b"half")
        assert (path.parent, path.suffix) == (tmp_path, ".png")
        assert folder.files() == []
        path.write_bytes(b"whole")
    assert folder.read("image.png") == b"whole"
    assert hidden(tmp_path) == []
    assert stat.S_IMODE(folder.local("image.png").stat().st_mode) & 0o044  # as readable as any other new file


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    folder = Folder.at(tmp_path)
    folder.write("x", b"old")
    with pytest.raises(error), folder.writing("x") as path:
        path.write_bytes(b"half")
        raise error
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert folder.read("x") == b"old"


WRITE_HALF = """
import sys, time
from raydd.storage import Folder
with Folder.at(sys.argv[1]).writing("x") as path:
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""

WRITE_FOREVER = """
import itertools, sys
from raydd.storage import Folder
for number in itertools.count(1):
    Folder.at(sys.argv[1]).write("x", bytes([number % 256]) * int(sys.argv[2]))
    if number == 1:
        print("writing", flush=True)
"""


def test_a_killed_writer_leaves_no_visible_file(tmp_path: Path) -> None:
    with running(WRITE_HALF, tmp_path) as writer:
        wait_for(writer, "writing")
    assert len(hidden(tmp_path)) == 1  # the kill did come in the middle
    assert Folder.at(tmp_path).files() == []


def test_readers_never_see_a_part_of_a_file_that_is_replaced(tmp_path: Path) -> None:
    folder, size = Folder.at(tmp_path), 1_000_000
    with running(WRITE_FOREVER, tmp_path, size) as writer:
        wait_for(writer, "writing")
        contents, deadline = {folder.read("x")}, time.monotonic() + 10
        while len(contents) < 5 and time.monotonic() < deadline:
            contents.add(folder.read("x"))
    contents.add(folder.read("x"))
    assert len(contents) >= 5  # it was indeed replaced meanwhile
    assert all(len(content) == size and len(set(content)) == 1 for content in contents)


# What the system refuses


def test_a_path_below_a_file_is_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = Folder.at(tmp_path / "file" / "run")
    for attempt in (folder.check_writable, lambda: folder.write("x", b""), lambda: locked(folder).__enter__()):
        with pytest.raises(UserError, match="is a file, not a folder"):
            attempt()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_checking_creates_nothing(tmp_path: Path) -> None:
    (Folder.at(tmp_path) / "a/b/c").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_missing_and_misplaced_files_are_named(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    (tmp_path / "folder").mkdir()
    for attempt in (folder.read, folder.size, folder.local, folder.sha256):
        with pytest.raises(UserError, match=f"{tmp_path}/none: "):
            attempt("none")
    with pytest.raises(UserError, match=f"{tmp_path}/folder: this is a folder"):
        folder.write("folder", b"")
    folder.write("file", b"")
    with pytest.raises(UserError, match=f"{tmp_path}/file: a part of this path is a file"):
        (folder / "file").files()
    assert hidden(tmp_path) == []


WRITE_AS_NOBODY = """
import os, sys
from raydd.core.errors import UserError
from raydd.storage import Folder
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for uri in sys.argv[1:]:
    for attempt in (Folder.at(uri).check_writable, lambda: Folder.at(uri).write("x", b"")):
        try:
            attempt()
        except UserError as error:
            print(error)
"""


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that everybody may enter and nobody write in."""
    path = Path(tempfile.mkdtemp())
    (path / "cellar").mkdir(mode=0)
    path.chmod(0o555)
    yield path
    path.chmod(0o700)
    shutil.rmtree(path)


def test_missing_permission_is_told(closed: Path) -> None:
    with running(WRITE_AS_NOBODY, closed / "run", closed / "cellar" / "run") as process:
        lines = output(process).splitlines()
    assert lines == [
        f"{closed}/run: no permission to write in {closed}; choose another folder",
        f"{closed}/run/x: permission denied; choose a folder you may use",
        f"{closed}/cellar/run: permission denied; choose a folder you may use",
        f"{closed}/cellar/run/x: permission denied; choose a folder you may use",
    ]


ON_A_SMALL_DISK = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 99; exec "$2" -c "$3" "$1"'

FILL_THE_DISK = """
import sys
import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file
from raydd.core.errors import UserError
from raydd.storage import Folder, new_artefact

def write_pyarrow(path):
    with pa.OSFile(str(path), "wb") as sink:
        sink.write(bytes(200_000))

folder = Folder.at(sys.argv[1])
folder.write("small", b"fits")
for write in (
    lambda path: path.write_bytes(bytes(200_000)),
    lambda path: save_file({"x": np.zeros(50_000)}, path),
    write_pyarrow,
):
    try:
        with new_artefact(folder, "data", "key") as writer:
            writer.write("first", bytes(1000))
            with writer.writing("big") as path:
                write(path)
    except UserError as error:
        print(error)
print([path.name for path in folder.path.iterdir()])
"""


def test_a_full_disk_is_told_whoever_fills_it_and_nothing_stays(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, hence no small disk")
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path), sys.executable, FILL_THE_DISK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    if "unshare: " in run.stderr or run.returncode == 99:
        pytest.skip("this machine does not let us mount a small disk: " + run.stderr)
    told = f"{tmp_path}/big: the disk of {tmp_path} is full; free some space or choose another folder, then run again"
    assert run.stdout.splitlines() == [told] * 3 + ["['small']"], run.stderr


# The lock

HOLD = """
import sys, time
from raydd.core.errors import UserError
from raydd.storage import Folder
from raydd.storage.lock import locked
try:
    with locked(Folder.at(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except UserError as error:
    print(error)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "run"
    with running(HOLD, folder.uri) as holder:
        wait_for(holder, "held")
        with pytest.raises(UserError) as refused, locked(folder):
            pass
        who = f"process {holder.pid} on {socket.gethostname()} since 20"
        assert str(refused.value).startswith(f"{folder.uri}/run.lock: held by {who}")
        with locked(folder, "other.lock"):
            pass
    with locked(folder):
        assert json.loads(folder.read("run.lock"))["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} "), locked(folder):
            pass
    assert folder.read("run.lock") == b""
    with locked(folder):
        pass


def test_of_many_contenders_one_gets_the_lock(tmp_path: Path) -> None:
    with running(HOLD, tmp_path) as one, running(HOLD, tmp_path) as two, running(HOLD, tmp_path) as three:
        lines = sorted(next_line(process) for process in (one, two, three))
    assert ["run.lock: held by " in line for line in lines] == [True, True, False]
    assert lines[2] == "held"


# Artefacts


def make(folder: Folder, key: str = "key", **files: bytes) -> Artefact:
    with new_artefact(folder, "data", key) as writer:
        for name, content in files.items():
            writer.write(name, content)
    artefact = Artefact.find(folder, "data")
    assert artefact is not None
    return artefact


def test_an_artefact_is_what_was_written(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path) / "set"
    assert Artefact.find(folder, "data") is None
    folder.write("adopted.arrow", b"there before")
    with new_artefact(folder, "data", "key") as writer:
        with writer.writing("b.parquet") as path:
            path.write_bytes(b"bytes")
        writer.adopt("adopted.arrow")
        assert Artefact.find(folder, "data") is None
    artefact = Artefact.find(folder, "data")
    assert artefact is not None
    assert (artefact.manifest.kind, artefact.manifest.key) == ("data", "key")
    assert artefact.names() == ["adopted.arrow", "b.parquet"]
    assert artefact.local("b.parquet") == folder.path / "b.parquet"
    assert artefact.read("adopted.arrow") == b"there before"
    entry = artefact.manifest.files["b.parquet"]
    assert (entry.file, entry.size, entry.sha256) == ("b.parquet", 5, hashlib.sha256(b"bytes").hexdigest())
    artefact.verify()
    with pytest.raises(ArtefactError, match="has no file c"):
        artefact.read("c")


def test_a_failed_attempt_leaves_no_artefact_and_no_file_of_its_own(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write("before", b"x")
    with pytest.raises(KeyboardInterrupt), new_artefact(folder, "data", "key") as writer:
        writer.write("first", b"x")
        writer.adopt("before")
        with writer.writing("second") as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["before"]


def test_the_kind_is_checked(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    make(folder, x=b"x")
    with pytest.raises(ArtefactError, match="of kind data, not teacher"):
        Artefact.find(folder, "teacher")
    with pytest.raises(ArtefactError, match="of kind data, not teacher"), new_artefact(folder, "teacher", "key"):
        pass
    make(folder, x=b"x").verify()


def test_every_altered_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    make(folder, x=b"x")
    good = folder.read("manifest.json")
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        (tmp_path / "manifest.json").write_bytes(bad)
        with pytest.raises(ArtefactError, match=r"manifest\.json: damaged"):
            Artefact.find(folder, "data")
    for bad in (b"", b"null", b"[]", b"\xff", good[:-1]):
        folder.write("manifest.json", bad)
        with pytest.raises(ArtefactError, match=r"manifest\.json: damaged"):
            Artefact.find(folder, "data")


def forge(**entry: object) -> bytes:
    """A manifest with a right digest, restated from the format."""
    good = {"file": "x", "size": 1, "sha256": "0" * 64}
    content = {"files": {"x": {**good, **entry}}, "key": "key", "kind": "data"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**content, "digest": hashlib.sha256(canonical).hexdigest()}).encode()


def test_the_manifest_format_is_as_documented(tmp_path: Path) -> None:
    Folder.at(tmp_path).write("manifest.json", forge())
    artefact = Artefact.find(Folder.at(tmp_path), "data")
    assert artefact is not None
    assert artefact.names() == ["x"]


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/b", "..", "", ".hidden", "manifest.json", "a\\b"])
def test_a_manifest_reaches_no_file_outside(tmp_path: Path, file: str) -> None:
    (tmp_path / "secret").write_text("x")
    folder = Folder.at(tmp_path) / "set"
    folder.write("manifest.json", forge(file=file))
    with pytest.raises(ArtefactError, match=r"files\.x\.file"):
        Artefact.find(folder, "data")


@pytest.mark.parametrize("entry", [{"size": -1}, {"size": "1"}, {"sha256": "0"}, {"mode": 7}])
def test_a_manifest_of_another_shape_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    Folder.at(tmp_path).write("manifest.json", forge(**entry))
    with pytest.raises(ArtefactError, match=r"files\.x\."):
        Artefact.find(Folder.at(tmp_path), "data")


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    artefact = make(Folder.at(tmp_path), good=b"good", flipped=b"0123", short=b"0123", gone=b"x")
    (tmp_path / "flipped").write_bytes(b"0122")
    (tmp_path / "short").write_bytes(b"012")
    (tmp_path / "gone").unlink()
    with pytest.raises(ArtefactError) as found:
        artefact.verify()
    lines = str(found.value).splitlines()
    assert [line.split(";")[0] for line in lines] == [
        f"{tmp_path}/flipped: the content is not what was written (SHA-256 differs)",
        f"{tmp_path}/gone: the file is missing",
        f"{tmp_path}/short: 3 bytes where 4 were written",
    ]
    assert artefact.read("good") == b"good"
    assert artefact.local("flipped").exists()  # the size is all that opening checks
    for access, name in [(artefact.read, "flipped"), (artefact.local, "short"), (artefact.local, "gone")]:
        with pytest.raises(ArtefactError, match=f"{tmp_path}/{name}: "):
            access(name)


def test_an_artefact_is_whole_while_it_is_replaced(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write("shared.arrow", b"adopted by both")
    with new_artefact(folder, "data", "old") as writer:
        writer.write("a.bin", b"old")
        writer.write("only old", b"old")
        writer.adopt("shared.arrow")
    with new_artefact(folder, "data", "new") as writer:
        writer.write("a.bin", b"new")
        writer.adopt("shared.arrow")
        old = Artefact.find(folder, "data")
        assert old is not None
        old.verify()
        assert (old.manifest.key, old.read("a.bin")) == ("old", b"old")
    new = Artefact.find(folder, "data")
    assert new is not None
    new.verify()
    assert (new.manifest.key, new.read("a.bin"), new.local("a.bin").suffix) == ("new", b"new", ".bin")
    assert len(folder.files()) == 3
    make(folder, "third", **{"a.bin": b"third"})
    assert folder.files() == ["a.bin", "manifest.json"]


def test_a_failed_replacement_keeps_the_former_artefact(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    make(folder, "old", x=b"old")
    with pytest.raises(RuntimeError), new_artefact(folder, "data", "new") as writer:
        writer.write("x", b"new")
        raise RuntimeError
    artefact = Artefact.find(folder, "data")
    assert artefact is not None
    assert artefact.read("x") == b"old"
    assert folder.files() == ["manifest.json", "x"]


REPLACE_FOREVER = """
import itertools, sys
from raydd.storage import Folder, new_artefact
for number in itertools.count(1):
    with new_artefact(Folder.at(sys.argv[1]), "data", str(number)) as writer:
        for name in "abc":
            writer.write(name, str(number).encode() * 1000)
    if number == 1:
        print("writing", flush=True)
"""


@pytest.mark.parametrize("seconds", [0.05, 0.11, 0.17])
def test_a_kill_at_any_time_leaves_a_whole_artefact(tmp_path: Path, seconds: float) -> None:
    folder = Folder.at(tmp_path)
    with running(REPLACE_FOREVER, tmp_path) as writer:
        wait_for(writer, "writing")
        time.sleep(seconds)
    artefact = Artefact.find(folder, "data")
    assert artefact is not None
    artefact.verify()
    assert {artefact.read(name) for name in "abc"} == {artefact.manifest.key.encode() * 1000}
    make(folder, x=b"x").verify()


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with running(WRITE_HALF, tmp_path) as writer:
        wait_for(writer, "writing")
    make(folder, x=b"x")
    (left,) = hidden(tmp_path)
    os.utime(tmp_path / left, (time.time() - TWO_DAYS,) * 2)
    (tmp_path / ".own").write_bytes(b"the user's")
    os.utime(tmp_path / ".own", (time.time() - TWO_DAYS,) * 2)
    make(folder, x=b"x")
    assert hidden(tmp_path) == [".own"]


# Content keys


def test_a_content_key_is_the_hash_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[true,null,"\\u00e9",0.5]}').hexdigest()[:16]
    assert content_key({"b": [True, None, "é", 0.5], "a": 1}) == expected
    assert content_key({"b": (True, None, "é", 0.5), "a": 1}) == expected


def test_content_keys_tell_payloads_apart() -> None:
    payloads = [{"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"a": [1]}, {"b": 1}, {"a": {"a": 1}}, {}]
    assert len({content_key(payload) for payload in payloads}) == len(payloads)
    with pytest.raises(ValueError, match="[Nn]a[Nn]|JSON"):
        content_key({"a": float("nan")})


@pytest.mark.parametrize(
    ("place", "above"),
    [
        ("/a/b/c", ["/a/b", "/a", "/"]),
        ("s3://bucket/a/b?region=x", ["s3://bucket/a?region=x", "s3://bucket?region=x"]),
    ],
)
def test_the_folders_above_one(place: str, above: list[str]) -> None:
    assert [folder.uri for folder in Folder.at(place).above()] == above
