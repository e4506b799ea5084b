"""Folders, locks and artefacts in an object store: a real S3 server on a loopback port, real processes."""

import json
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.storage import Artefact, Folder, new_artefact
from raydd.storage.cache import cache_folder
from raydd.storage.lock import heartbeat, locked
from tests.support.children import next_line, output, running, wait_for
from tests.support.faulty_s3 import faulty
from tests.support.s3_server import BUCKET, client, keys


@pytest.fixture
def folder(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Folder:
    """An empty folder in the bucket, with a cache of its own."""
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    return Folder.at(f"s3://{BUCKET}/{request.node.name}")


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Addresses and files


def test_both_ways_to_name_a_server_lead_to_the_same_objects(folder: Folder, endpoint: str) -> None:
    by_query = Folder.at(f"{folder.uri}/?endpoint_override={endpoint}&scheme=http")
    (by_query / "a/b").write("x", b"x")
    assert (folder / "a" / "b").read("x") == b"x"
    assert (by_query / "a/b").uri == f"{folder.uri}/a/b?endpoint_override={endpoint}&scheme=http"
    assert pickle.loads(pickle.dumps(by_query / "a")) == by_query / "a"
    assert not folder.is_local
    with pytest.raises(ValueError, match="has no local path"):
        folder.path  # noqa: B018


def test_files_are_written_listed_read_and_deleted(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.files() == folder.folders() == []
    folder.write("b.gz", b"one")
    folder.write("a.txt", b"")
    folder.write("b.gz", b"three")
    (folder / "sub").write("c", b"c")
    assert folder.exists()
    assert (folder.files(), folder.folders()) == (["a.txt", "b.gz"], ["sub"])
    assert (folder.read("b.gz"), folder.size("b.gz")) == (b"three", 5)
    assert (folder.has("b.gz"), folder.has("sub"), folder.has("none")) == (True, False, False)
    folder.delete("b.gz")
    folder.delete("b.gz")
    assert folder.files() == ["a.txt"]
    folder.delete_all()
    folder.delete_all()
    assert folder.files() == folder.folders() == []


@pytest.mark.parametrize("name", ["golden retriever", "50%", "a=b", "é?#&", "x+y"])
def test_any_plain_name_is_one_key(folder: Folder, name: str) -> None:
    (folder / name).write(name, b"x")
    assert (folder / name).files() == folder.folders() == [name]
    assert Folder.at((folder / name).uri) == folder / name
    assert (folder / name).local(name).read_bytes() == b"x"
    assert any(key.endswith(f"{name}/{name}") for key in keys(""))
    (folder / name).delete_all()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_uploads_nothing(folder: Folder, error: type[BaseException]) -> None:
    with pytest.raises(error), folder.writing("x") as path:
        path.write_bytes(b"half")
        raise error
    assert folder.files() == []
    assert [path.name for path in cache_folder().iterdir()] == []


REPLACE_FOREVER = """
import itertools, sys
from raydd.storage import Folder
for number in itertools.count(1):
    Folder.at(sys.argv[1]).write("x", bytes([number % 256]) * 12_000_000)
    if number == 1:
        print("writing", flush=True)
"""


def test_a_kill_during_an_upload_leaves_the_former_object(folder: Folder) -> None:
    with running(REPLACE_FOREVER, folder.uri) as writer:
        wait_for(writer, "writing")
        time.sleep(0.3)
    content = folder.read("x")
    assert len(content) == 12_000_000  # two parts of a multipart upload
    assert len(set(content)) == 1


# The cache


def test_a_remote_file_is_fetched_once_and_again_when_it_changes(folder: Folder) -> None:
    folder.write("x.bin", b"one")
    first = folder.local("x.bin")
    assert (first.read_bytes(), first.suffix) == (b"one", ".bin")
    inode = first.stat().st_ino
    assert folder.local("x.bin").stat().st_ino == inode
    folder.write("x.bin", b"three")
    assert folder.local("x.bin").read_bytes() == b"three"
    time.sleep(1.1)  # the store's clock counts whole seconds
    folder.write("x.bin", b"seven")
    assert folder.local("x.bin").read_bytes() == b"seven"
    (folder / "other").write("x.bin", b"other")
    assert (folder / "other").local("x.bin").read_bytes() == b"other"
    with pytest.raises(UserError, match="/none: there is no such file"):
        folder.local("none")


def test_a_copy_of_the_wrong_size_is_fetched_again(folder: Folder) -> None:
    folder.write("x", b"0123")
    folder.local("x").write_bytes(b"012")
    assert folder.local("x").read_bytes() == b"0123"


def test_the_cache_forgets_what_was_unused_for_longest(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_CACHE_BYTES", "2500")
    copies = {}
    for age, name in enumerate("abc"):
        folder.write(name, bytes(1000))
        copies[name] = folder.local(name)
        hours_ago = time.time() - 3600 * (10 - age)
        os.utime(copies[name], (hours_ago, hours_ago))
    assert [path.exists() for path in copies.values()] == [False, True, True]
    folder.local("b")  # now c is the one to go
    folder.write("d", bytes(1000))
    folder.local("d")
    assert [path.exists() for path in copies.values()] == [False, True, False]
    folder.write("e", bytes(1000))
    assert folder.local("e").exists()
    assert copies["b"].exists()  # over the limit, but handed out just now


def test_a_limit_that_is_no_number_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_CACHE_BYTES", "20 GB")
    folder.write("x", b"x")
    with pytest.raises(ConfigError, match="RAYDD_CACHE_BYTES: '20 GB' is not a whole number of bytes"):
        folder.local("x")


FETCH = """
import hashlib, sys
from raydd.storage import Folder
path = Folder.at(sys.argv[1]).local("x")
print(path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_processes_that_want_the_same_file_share_one_copy(folder: Folder) -> None:
    folder.write("x", bytes(range(256)) * 40_000)
    with running(FETCH, folder.uri) as one, running(FETCH, folder.uri) as two, running(FETCH, folder.uri) as three:
        printed = {output(process) for process in (one, two, three)}
    assert len(printed) == 1
    assert printed.pop().split()[1] == folder.sha256("x")


# What the store refuses


def test_a_missing_bucket_is_told(folder: Folder) -> None:
    missing = Folder.at("s3://raydd-no-such-bucket/run")
    with pytest.raises(UserError, match="there is no bucket raydd-no-such-bucket; make it"):
        missing.check_writable()
    with pytest.raises(UserError, match=r"run/x: .*NO_SUCH_BUCKET"):
        missing.write("x", b"x")
    with pytest.raises(UserError, match="names no bucket"):
        Folder.at("s3://")


@pytest.mark.parametrize(
    ("denied", "size"), [("PUT .*", 10), ("PUT .*partNumber=2", 12_000_000), ("POST .*uploadId=", 12_000_000)]
)
def test_what_is_refused_at_the_end_of_an_upload_is_told(folder: Folder, endpoint: str, denied: str, size: int) -> None:
    folder.write("x", b"former")
    with faulty(endpoint, 0, busy=0.0, dropped=0.0) as faults:
        faults.denied = denied
        with pytest.raises(UserError, match=r"/x\?.*ACCESS_DENIED"):
            Folder.at(faults.uri(folder.uri.removeprefix("s3://"))).write("x", bytes(size))
    assert folder.read("x") == b"former"


def test_a_file_system_stays_patient_on_its_way_to_another_process(folder: Folder, endpoint: str) -> None:
    content = bytes(1000)  # shorter ones are overwritten by the answer of a busy server, which pyarrow does not repeat
    folder.write("x", content)
    with faulty(endpoint, 0, busy=0.4, dropped=0.0) as faults:
        there, path = (Folder.at(faults.uri(folder.uri.removeprefix("s3://"))) / "x").location
        sent = pickle.loads(pickle.dumps(there))
        assert [sent.open_input_stream(path).read() for _ in range(10)] == [content] * 10
        assert faults.counts["busy"] >= 5


def test_checking_creates_nothing(folder: Folder) -> None:
    before = client().list_objects_v2(Bucket=BUCKET)["KeyCount"]
    folder.check_writable()
    assert client().list_objects_v2(Bucket=BUCKET)["KeyCount"] == before


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", marks=pytest.mark.slow),
        "gs://anonymous@bucket/x?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1",
    ],
    ids=["s3", "gs"],
)
def test_a_server_out_of_reach_is_told(uri: str, endpoint: str) -> None:
    with pytest.raises(UserError, match=r"bucket/x\?.*: .+"):
        Folder.at(uri).check_writable()


def test_a_wrong_option_is_told(endpoint: str) -> None:
    with pytest.raises(UserError, match="endpoint_overide"):
        Folder.at(f"s3://{BUCKET}/x?endpoint_overide={endpoint}")


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="take the password out of the URI") as refused:
        Folder.at("s3://user:secret@bucket/x")
    assert "secret" not in str(refused.value).replace("AWS_SECRET", "")


# The lock

HOLD = """
import sys, time
from raydd.core.errors import UserError
from raydd.storage import Folder
from raydd.storage.lock import heartbeat
try:
    with heartbeat(Folder.at(sys.argv[1]), float(sys.argv[2])):
        print("held", flush=True)
        time.sleep(60)
except UserError as error:
    print(error)
"""


def test_the_lock_names_its_holder_and_leaves_nothing(folder: Folder) -> None:
    with locked(folder):
        (claim,) = (folder / "run.lock").files()
        assert json.loads((folder / "run.lock").read(claim))["pid"] == os.getpid()
        with pytest.raises(UserError) as refused, locked(folder):
            pass
        who = f"process {os.getpid()} on {socket.gethostname()} since 20"
        assert str(refused.value).startswith(f"{folder.uri}/run.lock: held by {who}")
        assert (folder / "run.lock").files() == [claim]
    assert (folder / "run.lock").files() == []
    with locked(folder):
        pass


def test_a_holder_renews_its_claim_and_loses_it_three_beats_after_its_death(folder: Folder) -> None:
    claims = folder / "run.lock"
    with running(HOLD, claims.uri, 0.2) as holder:
        wait_for(holder, "held")
        (first,) = claims.listing()
        until(lambda: claims.listing()[0].mtime_ns > first.mtime_ns)
        assert claims.files() == [first.base_name]
    with pytest.raises(UserError, match=f"held by process {holder.pid} "), heartbeat(claims, 20):
        pass
    until(lambda: time.time() - claims.listing()[0].mtime_ns * 1e-9 > 2)
    with heartbeat(claims, 0.3):
        assert claims.files() != [first.base_name]
        assert len(claims.files()) == 1


def test_never_do_two_contenders_get_the_lock(folder: Folder) -> None:
    lock = (folder / "run.lock").uri, 20
    with running(HOLD, *lock) as one, running(HOLD, *lock) as two, running(HOLD, *lock) as three:
        lines = [next_line(process) for process in (one, two, three)]
    assert lines.count("held") <= 1
    assert lines.count("held") + sum("run.lock: held by " in line for line in lines) == 3


# Artefacts


def find(folder: Folder) -> Artefact:
    artefact = Artefact.find(folder, "data")
    assert artefact is not None
    return artefact


def test_an_artefact_exists_with_its_manifest(folder: Folder) -> None:
    folder.write("adopted.arrow", b"there before")
    with new_artefact(folder, "data", "key") as writer:
        writer.write("images-00000.parquet", b"bytes")
        writer.adopt("adopted.arrow")
        assert Artefact.find(folder, "data") is None
    artefact = find(folder)
    artefact.verify()
    assert artefact.read("images-00000.parquet") == b"bytes"
    assert artefact.local("images-00000.parquet").read_bytes() == b"bytes"
    stored = artefact.manifest.files["images-00000.parquet"].file
    assert stored.startswith("images-00000.")
    assert stored.endswith(".parquet")
    assert stored != "images-00000.parquet"
    assert folder.files() == sorted(["adopted.arrow", "manifest.json", stored])


def test_replacing_deletes_the_former_files_and_failing_the_new_ones(folder: Folder) -> None:
    for key in ("old", "new"):
        with new_artefact(folder, "data", key) as writer:
            writer.write("x", key.encode())
    with pytest.raises(RuntimeError), new_artefact(folder, "data", "failed") as writer:
        writer.write("x", b"failed")
        raise RuntimeError
    assert find(folder).read("x") == b"new"
    assert len(folder.files()) == 2


def test_attempts_at_the_same_time_do_not_mix(folder: Folder) -> None:
    with new_artefact(folder, "data", "slow") as slow:
        slow.write("x", b"slow")
        with new_artefact(folder, "data", "fast") as fast:
            fast.write("x", b"fast")
            fast.write("y", b"fast")
        slow.write("y", b"slow")
        find(folder).verify()
        assert find(folder).read("x") == b"fast"
    find(folder).verify()
    assert (find(folder).read("x"), find(folder).manifest.key) == (b"slow", "slow")


def test_damage_is_found_in_the_store_whatever_the_cache_holds(folder: Folder) -> None:
    with new_artefact(folder, "data", "key") as writer:
        for name in ("flipped", "short", "gone"):
            writer.write(name, b"0123")
    artefact = find(folder)
    stored = {name: artefact.manifest.files[name].file for name in artefact.names()}
    for name in artefact.names():
        artefact.local(name)
    folder.write(stored["flipped"], b"0122")
    folder.write(stored["short"], b"012")
    folder.delete(stored["gone"])
    with pytest.raises(ArtefactError) as found:
        artefact.verify()
    lines = str(found.value).splitlines()
    assert [line.split(";")[0] for line in lines] == [
        f"{folder.uri}/{stored['flipped']}: the content is not what was written (SHA-256 differs)",
        f"{folder.uri}/{stored['gone']}: the file is missing",
        f"{folder.uri}/{stored['short']}: 3 bytes where 4 were written",
    ]


def test_deleting_an_artefact_leaves_no_object(folder: Folder) -> None:
    with new_artefact(folder / "a/b", "data", "key") as writer:
        writer.write("x", b"x")
    folder.delete_all()
    assert keys(folder.uri.removeprefix(f"s3://{BUCKET}/")) == []
