"""Where a local Ray keeps its sockets: what the environment says, if it will do, and a short folder otherwise."""

import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest

from raydd.cluster import session_folder as module
from raydd.cluster.session_folder import OWN, host_name, session_folder
from raydd.core.errors import ResourceError
from tests.support.runs import run as run_to_its_end
from tests.support.small import CONFIG


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_what_will_do_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_folder() == f"/tmp/{OWN}/{host_name()}"
    short = Path(mkdtemp(dir="/var/tmp", prefix="m"))
    monkeypatch.setenv(name, str(short))
    assert session_folder() == f"{short}/{OWN}/{host_name()}"
    assert stat.S_IMODE((short / OWN).stat().st_mode) == 0o700
    shutil.rmtree(short)


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/tmp/" + "long" * 20, "is longer than "),
        ("here", "is not an absolute path"),
        ("/proc/x", "written to"),
    ],
)
def test_what_will_not_do_is_replaced_with_a_warning(
    folder: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    with caplog.at_level(logging.WARNING):
        assert session_folder() == f"/tmp/{OWN}/{host_name()}"
    assert f"RAY_TMPDIR={folder}" in caplog.text and why in caplog.text


def test_sessions_of_processes_that_are_gone_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(mkdtemp(dir="/var/tmp", prefix="m"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"session_2026-12-01_10-45-44_004021_{pid}" for pid in (ended.pid, os.getpid())]
    for name in (*names, "other"):
        (short / OWN / host_name() / name / "sockets").mkdir(parents=True)
    session_folder()
    assert {path.name for path in (short / OWN / host_name()).iterdir()} == {names[1], "other"}
    shutil.rmtree(short)


def test_a_folder_of_another_user_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = Path(mkdtemp(dir="/var/tmp", prefix="m"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    (short / "elsewhere").mkdir()
    (short / OWN).symlink_to(short / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert session_folder() == f"/tmp/{OWN}/{host_name()}"
    assert f"has a {OWN} of another user in it" in caplog.text
    shutil.rmtree(short)


def test_where_nothing_will_do_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OTHERS", ("/tmp/" + "long" * 20,))
    monkeypatch.setenv("TMPDIR", "/tmp/" + "longer" * 20)
    with pytest.raises(ResourceError, match=r"^TMPDIR=/tmp/longer.* set RAY_TMPDIR to a short folder"):
        session_folder()


@pytest.mark.slow
def test_a_run_in_a_long_temporary_folder(tmp_path: Path) -> None:
    long = tmp_path / ("a long name " * 8)
    long.mkdir()
    printed = run_to_its_end(tmp_path / "run", config=CONFIG, TMPDIR=str(long))
    assert f"Ray's files of this run are in /tmp/{OWN}" in printed and "Traceback" not in printed
    assert (tmp_path / "run" / "report.html").exists()
