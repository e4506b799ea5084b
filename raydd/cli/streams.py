"""What a command prints may be lost, as where a log file's disk is full: its work goes on, and its exit code tells."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class LossyStream:
    """A stream that takes text whether or not it can be written; readers that go away are an error all the same."""

    def __init__(self, stream: TextIO) -> None:
        """Nothing is lost yet."""
        self._stream = stream
        self.lost: OSError | None = None
        """Why the first of what could not be written was not."""

    def write(self, text: str) -> int:
        """Write if possible; returns the number of characters in any case."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.lost = self.lost or error
            return len(text)

    def flush(self) -> None:
        """Write what waits, if possible."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self.lost = self.lost or error

    def __getattr__(self, name: str) -> Any:
        """Everything else is as the stream has it."""
        return getattr(self._stream, name)


def prepare() -> tuple[LossyStream, LossyStream]:
    """Have a standard output and error, whatever the process was started with; returns both.

    A process that is started without them gives their numbers to the next files that it opens, into which everybody's
    output would go.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    out, errors = LossyStream(sys.stdout or nowhere), LossyStream(sys.stderr or nowhere)
    sys.stdout, sys.stderr = out, errors
    return out, errors


def finished(code: int, streams: tuple[LossyStream, LossyStream]) -> int:
    """Write what waits; returns the exit code, which is 1 where all went well but the output."""
    out, errors = streams
    for stream in streams:
        stream.flush()
    if out.lost is None:
        return code
    errors.write(f"error: not all output could be written: {out.lost.strerror}\n")
    with suppress(OSError):
        errors.flush()
    return code or 1
