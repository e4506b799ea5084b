"""SIGINT and SIGTERM: what is being distilled is saved, all else ends at once, and the same command goes on."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydd.core.interruption import GRACE_SECONDS, Interrupted, Signals, heeded
from raydd.core.progress import NoProgress, Numbers, Progress, Work
from tests.cluster.test_runs import require_same
from tests.support import runs
from tests.support.runs import CONFIG, epochs, metrics, running
from tests.support.small import SmallRun, finished_run, raydd, small_run

pytestmark = pytest.mark.usefixtures("unignored")

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
MESSAGE = "interrupted; the same command goes on from here\n"
LONG: dict[str, Any] = {**CONFIG, "method": {**CONFIG["method"], "iterations": 300}}
"""With more iterations than are done until a signal arrives."""


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@SIGNALS
def test_the_first_signal_is_noted_and_the_second_ends_at_once(number: int) -> None:
    before = handlers()
    with pytest.raises(Interrupted) as ended, Signals().awaited("work") as asked:
        assert asked() is None
        send(number)
        assert asked() == number
        send(signal.SIGINT)
        raise AssertionError("went on")
    assert ended.value.number == number and ended.value.exit_code == 128 + number
    assert handlers() == before


def test_work_that_does_not_end_is_broken_off() -> None:
    with pytest.raises(Interrupted) as ended, Signals(grace_seconds=0.05).awaited("work"):
        send(signal.SIGTERM)
        time.sleep(runs.PATIENCE)
    assert ended.value.exit_code == 143


def test_a_signal_after_the_last_question_is_not_lost() -> None:
    with pytest.raises(Interrupted), Signals().awaited("work"):
        send(signal.SIGTERM)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heeded(), Signals().awaited("work") as asked:
        send(signal.SIGINT)
        assert asked() is None
    assert handlers()[0] == signal.SIG_IGN


@SIGNALS
def test_a_bare_keyboard_interrupt_is_told_by_its_signal(number: int) -> None:
    """Ray makes one of whatever a handler raises while it waits."""
    before = handlers()
    with pytest.raises(Interrupted) as ended, heeded():
        try:
            send(number)
        except Interrupted:
            raise KeyboardInterrupt from None
    assert ended.value.number == number and handlers() == before


class Sends(NoProgress):
    """Sends a signal to this process when a piece of work has come so far."""

    def __init__(self, number: int, task: str, done: int) -> None:
        self._number, self._when = number, (task, done)

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if (str(task), done) == self._when:
            send(self._number)


@pytest.mark.parametrize(
    ("number", "task", "done", "rows"),
    [
        (signal.SIGTERM, "expert 1", 2, 0),
        (signal.SIGINT, "distil", 4, 5),
        (signal.SIGTERM, "distil", 4, 5),
        (signal.SIGTERM, "distil", 9, 10),
        (signal.SIGTERM, "distil", 10, 10),
    ],
)
def test_a_command_that_gets_a_signal_saves_and_goes_on(
    number: int,
    task: str,
    done: int,
    rows: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The step under way is finished; seldom checkpoints do not matter."""
    (tmp_path / "undisturbed").mkdir()
    run, wanted = small_run(tmp_path, {"cluster.checkpoint_seconds": 1e6}), finished_run(tmp_path / "undisturbed")
    assert sends(run, monkeypatch, Sends(number, task, done)) == 128 + number
    assert capsys.readouterr().err == MESSAGE
    assert len(metrics(run.out)) == rows
    assert (run.out / "run.lock").read_text() == "" and not list(run.out.rglob(".*"))
    assert run.does("distill") == 0
    assert runs.made(run.out) == runs.made(wanted.out)


def sends(run: SmallRun, monkeypatch: pytest.MonkeyPatch, progress: Progress) -> int:
    """The exit code of `raydd run` with this progress."""

    @contextmanager
    def shown(console: Console, quiet: bool) -> Iterator[Progress]:
        yield progress

    with monkeypatch.context() as patched:
        patched.setattr("raydd.cli.steps.shown_progress", shown)
        return raydd("run", run.file, "--no-ray")


def rows(out: Path) -> list[Any]:
    """The metrics of the distilling as of the newest checkpoint."""
    return [json.loads(line) for line in metrics(out)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `LONG`, made in one process without Ray."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    runs.run(out, "--no-ray", config=LONG)
    return out


def interrupt(out: Path, number: int, condition: Callable[[], Any], *flags: str) -> Any:
    """Send a signal to a run when a condition holds, and return that; the run ends in time and in order."""
    with running(out, *flags, config=LONG) as command:
        found = command.until(condition)
        sent = time.time()
        command.process.send_signal(number)
        assert command.wait() == 128 + number, command.output()
        assert command.output().endswith(MESSAGE) and "Traceback" not in command.output()
    times = [path.stat().st_mtime for path in out.glob("work/checkpoints/*")]
    assert all(moment - sent < GRACE_SECONDS + 2 for moment in times)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--no-ray"], [], ["--cluster.num-workers", "2"]], ids=["no-ray", "one", "two"])
def test_a_run_that_gets_signals_in_the_middle_of_it_loses_no_step(
    flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Two workers agree with one to rounding, and so are not compared."""
    out = tmp_path / "run"
    interrupt(out, signal.SIGTERM, lambda: len(epochs(out)) > 2, *flags)
    assert not metrics(out)
    for number in (signal.SIGINT, signal.SIGTERM):
        before = rows(out)
        known = interrupt(out, number, lambda before=before: rows(out)[len(before) :], *flags)
        after = rows(out)
        assert after[: len(before)] == before and len(after) > len(before) + len(known)
    runs.run(out, *flags, config=LONG)
    assert rows(out)[: len(after)] == after and len(rows(out)) == 300
    if len(flags) < 2:
        require_same(out, undisturbed)
