"""Processes that the system limits: output that is full or missing, files that may not grow, too few of them."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.cli.streams import LossyStream
from raydd.core.failures import failure
from tests.support import ROOT
from tests.support.small import finished_run, raydd, small_run

_LOST = "error: not all output could be written: No space left on device\n"


def limited(*arguments: object, stdout: str = os.devnull, limit: tuple[int, int] | None = None) -> tuple[int, str]:
    """The exit code and standard error of a command with so large a limit of a resource."""

    def begin() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))
        if stdout == "closed":
            os.close(1)

    with Path(os.devnull if stdout == "closed" else stdout).open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "raydd", *map(str, arguments)],
            preexec_fn=begin,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("methods",)], ids=["help", "methods"])
def test_output_that_a_full_disk_loses_is_told_by_the_exit_code(arguments: tuple[str, ...]) -> None:
    assert limited(*arguments, stdout="/dev/full") == (1, _LOST)


def test_output_that_nobody_wants_is_no_mistake() -> None:
    assert limited("methods", stdout="closed") == (0, "")


@pytest.mark.parametrize(("stdout", "code"), [("/dev/full", 1), pytest.param("closed", 0, marks=pytest.mark.slow)])
def test_a_run_is_made_whoever_hears_of_it(stdout: str, code: int, tmp_path: Path) -> None:
    """And none of what it would print goes into a file that got the number of its output."""
    run = small_run(tmp_path)
    assert limited("run", run.file, "--no-ray", stdout=stdout) == (code, _LOST * code)
    wanted = finished_run(tmp_path / "wanted")
    assert run.artefacts().keys() == wanted.artefacts().keys()
    assert raydd("verify", run.out) == 0


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        pytest.param(
            (resource.RLIMIT_FSIZE, 3_000), "would be larger than is allowed; see ulimit -f", marks=pytest.mark.slow
        ),
        ((resource.RLIMIT_FSIZE, 20_000), "would be larger than is allowed; see ulimit -f"),
        ((resource.RLIMIT_NOFILE, 8), "too many files are open; raise the limit of ulimit -n"),
    ],
    ids=["small files", "larger files", "few files"],
)
def test_a_limit_of_the_system_ends_a_run_with_one_message(limit: tuple[int, int], words: str, tmp_path: Path) -> None:
    """Without the limit, the same command goes on."""
    run = small_run(tmp_path)
    code, told = limited("run", run.file, "--no-ray", "--quiet", limit=limit)
    assert code in (1, 2) and words in told and len(told.splitlines()) == 1, told
    assert run.does("run") == 0 and raydd("verify", run.out) == 0
    assert run.artefacts().keys() == finished_run(tmp_path / "wanted").artefacts().keys()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(5, "Input/output error"), "the disk of /x fails to read or write"),
        (OSError(30, "Read-only file system"), "the file system of /x is read-only"),
        (OSError(23, "Too many open files in system"), "too many files are open, on the whole machine"),
        (RuntimeError("IO error: Disk quota exceeded (os error 122)"), "the disk of /x is full"),
        (OSError(2, "No such file or directory"), None),
        (ValueError("7"), None),
    ],
)
def test_failures_of_the_system_in_words(error: Exception, words: str | None) -> None:
    told = failure(error, " of /x")
    assert told is None if words is None else told is not None and told.startswith(words)


def test_a_reader_that_goes_away_is_not_a_full_disk() -> None:
    """`raydd show ... | head` ends the command."""
    read, write = os.pipe()
    os.close(read)
    stream = LossyStream(os.fdopen(write, "w"))
    stream.write("x")
    with pytest.raises(BrokenPipeError):
        stream.flush()
    assert stream.lost is None
    os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    stream.close()
