"""Commands on what was spoilt: they end in time, with an exit code, and with one message where something is wrong."""

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType

from hypothesis import HealthCheck, Phase, settings

from tests.support.small import raydd

PATIENCE = 120
"""Seconds for one command, which takes one at most; the machine may be busy with other things."""
FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""The same examples every time, and none made smaller: each may take a second."""


class Hangs(BaseException):
    """No handler takes it for an error of the program's own."""


@contextmanager
def ends_within(seconds: int) -> Iterator[None]:
    """Break the block off with `Hangs` where it does not end in time; for the main thread."""

    def give_up(*_: int | FrameType | None) -> None:
        raise Hangs(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(*arguments: object) -> tuple[int, str]:
    """The exit code of a command, 0 or 2, and what it printed: its output, or the one message."""
    out, err = io.BytesIO(), io.BytesIO()
    streams = io.TextIOWrapper(out, "utf-8"), io.TextIOWrapper(err, "utf-8", errors="backslashreplace")
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), ends_within(PATIENCE):
        code = raydd(*arguments)
    for stream in streams:
        stream.flush()
    printed, message = out.getvalue().decode(), err.getvalue().decode()
    if code == 0:
        assert not message
        return 0, printed
    lines = message.splitlines()
    assert code == 2, (code, message)
    assert [line for line in lines if line.startswith("error: ")] == lines[:1] and len(lines) < 15, message
    assert "Traceback" not in message
    return 2, message
