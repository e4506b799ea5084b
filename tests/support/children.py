"""Python programs in processes of their own, for tests that kill them or let them compete."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT


@contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a program; it is killed (SIGKILL) when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that the program prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Return when the program has printed this line; fail with its output if it prints another or ends."""
    printed = next_line(process)
    assert printed == line, printed + "\n" + output(process)


def output(process: subprocess.Popen[str]) -> str:
    """Wait for the end and return what is printed until then."""
    text, _ = process.communicate(timeout=60)
    return text
