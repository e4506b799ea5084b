"""`raydd submit`: what it refuses, how it shows a job's log, and real jobs of a real cluster that asks for a token."""

import io
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from raydd.cli.progress import LineProgress
from raydd.cli.submit import LogView
from raydd.cluster.submit import Lines
from raydd.core.progress import RUN, SECONDS_LEFT, Numbers, Work
from raydd.pipeline.verifying import verify
from raydd.storage import Folder
from tests.cli.test_main import require_message
from tests.support import runs
from tests.support.runs import ROOT, Command, free_port, started
from tests.support.small import raydd

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
OUT = ("--out", "/shared/run")

MISTAKES = {
    "relative out": ([], "out: runs/quickstart would be in the job's own folder", "--out s3://bucket/quickstart"),
    "relative data": ([*OUT, "--data.root", "pictures"], "data.root: pictures is not there for a job", "absolute path"),
    "relative store": ([*OUT, "--experts.store", "experts"], "experts.store: experts is not there for a job"),
    "no Ray": ([*OUT, "--no-ray"], "--no-ray: a job works on its cluster"),
    "unknown field": ([*OUT, "--method.imagelr", "1"], "--method.imagelr"),
    "not a dashboard": ([*OUT, "--address", "ray://head:10001"], "--address: must be the address", "ray://head:10001"),
    "no port": ([*OUT, "--address", "head"], "--address: must be the address", "http://127.0.0.1:8265"),
    "nobody there": ([*OUT, "--address", "http://127.0.0.1:1"], "http://127.0.0.1:1: the dashboard of no Ray cluster"),
    "no folder": ([*OUT, "--working-dir", "/no/such"], "--working-dir: there is no folder /no/such"),
    "config elsewhere": ([*OUT, "--working-dir", str(ROOT / "tests")], "--working-dir:", "quickstart.yaml is not in"),
    "unknown variable": ([*OUT, "--env", "NO_SUCH_NAME"], "--env NO_SUCH_NAME: there is no such variable here"),
    "no name": ([*OUT, "--env", "=value"], "--env =value: there is no such variable here"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    flags, *words = MISTAKES[mistake]
    assert raydd("submit", QUICKSTART, *flags) == 2
    require_message(capsys.readouterr().err, *words)


LOGS = st.text(st.sampled_from("ab\n"), max_size=30)


@given(LOGS, st.data())
def test_every_line_is_told_once_however_often_the_connection_is_lost(log: str, data: st.DataObject) -> None:
    told: list[str] = []
    lines = Lines(told.append)
    ends = data.draw(st.lists(st.integers(0, len(log)), max_size=4))
    for end in (*ends, len(log)):
        lines.begin()
        cuts = sorted(data.draw(st.lists(st.integers(0, end), max_size=4)))
        for first, last in zip((0, *cuts), (*cuts, end), strict=True):
            lines.add(log[first:last])
    lines.end()
    assert told == log.splitlines()


class Notes:
    """Progress that is only written down."""

    def __init__(self) -> None:
        self.updates: list[tuple[Work, float, float, str]] = []

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.updates.append((task, done, total, note))


NAMES = st.from_regex(r"[a-z]+( [0-9a-z:/]+)?", fullmatch=True)
COUNTS = st.one_of(st.integers(0, 10**7), st.floats(0, 1e4).map(lambda number: float(f"{number:g}")))


@example("a", 2.22507e-311, 1.0, "")
@given(NAMES, COUNTS, COUNTS, st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=20))
def test_lines_of_progress_become_bars_again(title: str, done: float, total: float, note: str) -> None:
    """What a job prints without a terminal is understood: the line of its beginning and one after some time."""
    log, bars = Console(file=io.StringIO(), markup=False), Notes()
    lines, task = LineProgress(log), Work.titled(title)
    lines.update(task, 0.0, total + 1, "first")
    (kind,) = lines._kinds.values()
    kind.began -= 7.0
    lines._last = -1e9
    lines.update(task, done, total, note)
    assert isinstance(log.file, io.StringIO)
    (line,) = log.file.getvalue().splitlines()
    LogView(Console(file=io.StringIO()), bars).show(line)
    assert bars.updates == [(task, float(f"{done:g}"), float(f"{total:g}"), note)]


def test_the_time_left_of_the_whole_run_becomes_its_bar() -> None:
    log, bars = Console(file=io.StringIO(), markup=False), Notes()
    lines = LineProgress(log)
    lines._last = -1e9
    lines.update(RUN, 10, 100, "", {SECONDS_LEFT: 250.0})
    lines.update(Work("distill"), 3, 9, "loss 0.5")
    assert isinstance(log.file, io.StringIO)
    LogView(Console(file=io.StringIO()), bars).show(log.file.getvalue().strip())
    (task, *_, note), (whole, done, total, _) = bars.updates
    assert task == Work("distill") and note == "loss 0.5"
    assert whole == RUN and 0 <= done < 5 and total == 100


def test_other_lines_are_shown_as_they_are() -> None:
    shown, bars = io.StringIO(), Notes()
    view = LogView(Console(file=shown, width=20), bars)
    lines = ["[bold]report[/]: /shared/run/report.html and more", "│ synthetic │ 89.8 │", "intact: 3 of 4 :smile:"]
    lines += ["step 2 of 7: labels", ""]
    for line in lines:
        view.show(line)
    assert shown.getvalue().splitlines() == lines and not bars.updates


@contextmanager
def head(**authentication: str) -> Iterator[str]:
    """Where the dashboard of a cluster is that is started on this machine."""
    folder, port = Path(tempfile.mkdtemp(prefix="raydd")), free_port()
    ports = ("port", "ray-client-server-port", "metrics-export-port", "dashboard-agent-listen-port")
    arguments = ["--head", "--block", "--num-cpus=2", "--object-store-memory=150000000"]
    arguments += [f"--temp-dir={folder}", f"--dashboard-port={port}", *(f"--{name}={free_port()}" for name in ports)]
    environment = {**authentication, "PATH": f"{BIN}:{os.environ['PATH']}"}
    try:
        with started([str(BIN / "ray"), "start", *arguments], folder / "log", **environment) as command:
            command.until(lambda: "--block" in command.output())
            yield f"http://127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The dashboard of a cluster that asks for `TOKEN`."""
    with head(**TOKEN) as address:
        yield address


class Tunnel:
    """Passes connections on to a dashboard, until they are cut."""

    def __init__(self, address: str) -> None:
        self._target = ("127.0.0.1", int(address.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End every connection that there is; returns how many ends those had."""
        ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(ends)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                pair = (self._listener.accept()[0], socket.create_connection(self._target))
                self._open += pair
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with near, far, suppress(OSError):
            while True:
                for end in select.select([near, far], [], [])[0]:
                    if not (data := end.recv(65536)):
                        return
                    other[end].sendall(data)


def submit(config: Path, address: str, *flags: object) -> list[str]:
    return [sys.executable, "-m", "raydd", "submit", str(config), "--address", address, *map(str, flags)]


def ended(command: Command, code: int) -> str:
    """What a command printed; fails unless it ends with this exit code."""
    assert command.wait() == code, command.output()
    return command.output()


@pytest.mark.slow
def test_the_quickstart_succeeds_as_a_job_and_its_progress_is_seen(cluster: str, tmp_path: Path) -> None:
    """Although the connection is lost on the way, and the environment names other clusters."""
    out, tunnel = tmp_path / "run", Tunnel(cluster)
    others = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
    arguments = submit(QUICKSTART, tunnel.address, "--out", out)
    with started(arguments, tmp_path / "log", **TOKEN, **others) as command:
        command.until(lambda: "expert 0: 12/12" in command.output())
        assert tunnel.cut() > 0
        printed = ended(command, 0)
    tunnel.close()
    assert f"report: {out}/report.html" in printed and "distil: 200/200" in printed, printed
    for line in ("expert 0: 12/12", "expert 3: 12/12", "python -m raydd run quickstart.yaml --out"):
        assert printed.count(line) == 1, printed
    assert "warning" not in printed and "INFO" not in printed.replace("INFO job_manager", "")
    verify(Folder.at(out))


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_its_exit_code_is_passed_on(cluster: str, tmp_path: Path) -> None:
    """Its config is in a folder of the working directory, and its data are where `--env` says."""
    config = tmp_path / "travels" / "configs" / "missing data.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump({**runs.CONFIG, "data": {"source": "imagenet", "image_size": 32}}))
    data, out = tmp_path / "elsewhere", tmp_path / "run"
    flags = ("--working-dir", tmp_path / "travels", "--env", f"RAYDD_DATA={data}", "--out", out)
    with started(submit(config, cluster, *flags), tmp_path / "log", **TOKEN) as command:
        printed = ended(command, 2)
    assert "'configs/missing data.yaml'" in printed and str(data) in printed.partition("error: ")[2]
    assert "failed: its command ended with exit code 2" in printed and "Traceback" not in printed
    assert not out.exists()


@pytest.mark.slow
def test_whoever_stops_following_leaves_the_job_at_work(cluster: str, tmp_path: Path) -> None:
    """It is stopped by the command that is told then, and has time to save what it has."""
    config, out = tmp_path / "long.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump({**runs.CONFIG, "method": {**runs.CONFIG["method"], "iterations": 100_000}}))
    with started(submit(config, cluster, "--out", out), tmp_path / "log", **TOKEN) as command:
        command.until(lambda: "expert 0: 6/6" in command.output())
        command.process.send_signal(signal.SIGINT)
        printed = ended(command, 130)
    follow, stop = (shlex.split(re.search(rf"{verb}: ray (.*)", printed)[1]) for verb in ("follow", "stop"))
    with started([str(BIN / "ray"), *follow], tmp_path / "follow", **TOKEN) as following:
        following.until(lambda: runs.metrics(out))
        subprocess.run([BIN / "ray", *stop], env={**os.environ, **TOKEN}, check=True, capture_output=True)
        log = (following.wait(), following.output())[1]
    assert "the same command goes on from here" in log


@pytest.mark.slow
def test_nobody_gets_in_without_the_token(cluster: str, tmp_path: Path) -> None:
    environments = {
        "no token": {"RAY_AUTH_MODE": "disabled"},
        "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32},
        "a token of nothing": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)},
    }
    for name, environment in environments.items():
        arguments = submit(QUICKSTART, cluster, "--out", tmp_path / "run")
        with started(arguments, tmp_path / name, **environment) as command:
            require_message(ended(command, 2), "does not let us in", "RAY_AUTH_MODE=token")


@pytest.mark.slow
def test_a_cluster_that_lets_everybody_in_is_warned_of(tmp_path: Path) -> None:
    with head(RAY_AUTH_MODE="disabled") as address:
        arguments = submit(QUICKSTART, address, "--out", tmp_path / "run", "--no-wait")
        with started(arguments, tmp_path / "log", RAY_AUTH_MODE="disabled") as command:
            printed = ended(command, 0)
    assert f"warning: {address} asks for no token" in printed and f"ray job stop --address {address} raydd" in printed
