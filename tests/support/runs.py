"""Runs of the real command as processes of their own: started, watched through their files, and disturbed.

Only descendants of a process that was started here are ever looked for or killed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from ray._raylet import GcsClient
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from raydd.evaluation import records
from raydd.storage import Folder
from tests.support import ROOT

PATIENCE = 400.0
"""Seconds; the machine may be busy with other things."""

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"source": "digits"},
    "network": {"width": 4, "depth": 2},
    "experts": {
        "count": 2,
        "training": {"epochs": 6, "lr": 0.1, "batch_size": 32, "augmentation": "crop"},
    },
    "method": {
        "name": "datm",
        "images_per_class": 1,
        "iterations": 20,
        "synthetic_steps": 8,
        "expert_epochs": 1,
        "initial_max_start_epoch": 2,
        "max_start_epoch": 4,
        "expansion_iterations": 10,
        "image_lr": 10.0,
        "synthetic_lr_init": 0.05,
        "augmentation": "color_crop_cutout_scale_rotate",
    },
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "recipe": {"epochs": 5, "lr": None, "momentum": 0.9, "batch_size": 16, "augmentation": "none"},
        "full_epochs": 1,
    },
    "cluster": {"checkpoint_seconds": 0},
}
"""The whole road in seconds, and yet each part long enough to be disturbed."""


@dataclass(frozen=True)
class Process:
    """A process and the moment at which it began, which together no other process ever has."""

    pid: int
    began: str
    parent: int
    title: str

    def is_alive(self) -> bool:
        return (now := _process(self.pid)) is not None and now.began == self.began

    def kill(self) -> None:
        """SIGKILL, unless the number has passed to another process."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


class Command:
    """A program that runs in a process of its own; what it prints is kept in a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        defaults = {"PYTHONPATH": str(ROOT), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                arguments, env={**os.environ, **defaults, **environment}, stdout=file, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        """What has been printed so far."""
        return self._log.read_text()

    def wait(self) -> int:
        """The exit code; fails where the program does not end."""
        return self.process.wait(PATIENCE)

    def family(self) -> list[Process]:
        """The process and all its descendants."""
        return family(self.process.pid)

    def find(self, title: str) -> Process | None:
        """The first descendant whose title begins like this."""
        return find(self.process.pid, title)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition and return what it returned; fail with what was printed if the program ends first."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.output()}"
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)
        return found


@contextmanager
def started(arguments: list[str], log: Path, **environment: str) -> Iterator[Command]:
    """Start a program. When the block is left, it and all of its descendants are gone."""
    command = Command(arguments, log, environment)
    try:
        yield command
    finally:
        family = command.family()
        for member in family:
            member.kill()
        command.process.wait()
        wait_until_gone(family)


def raydd_run(out: Path, *flags: str, config: dict[str, Any] = CONFIG) -> list[str]:
    """The command line of `raydd run` into the folder `out`."""
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "raydd", "run", str(file), "--out", str(out), *flags]


@contextmanager
def running(out: Path, *flags: str, config: dict[str, Any] = CONFIG, **environment: str) -> Iterator[Command]:
    """`raydd run` under way."""
    with started(raydd_run(out, *flags, config=config), out.with_suffix(".log"), **environment) as command:
        yield command


def run(out: Path, *flags: str, config: dict[str, Any] = CONFIG, code: int = 0, **environment: str) -> str:
    """`raydd run` to its end, which has to be this exit code; returns what it printed, on success no traceback."""
    with running(out, *flags, config=config, **environment) as command:
        assert command.wait() == code, command.output()
        printed = command.output()
        assert code or "Traceback" not in printed, printed
        return printed


def family(pid: int) -> list[Process]:
    """A process and all its descendants."""
    members: list[Process] = [root] if (root := _process(pid)) else []
    everybody = list(filter(None, (_process(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit())))
    for member in members:
        members += [process for process in everybody if process.parent == member.pid]
    return members


def find(pid: int, title: str) -> Process | None:
    """The first descendant of a process whose title begins like this."""
    return next((process for process in family(pid) if process.title.startswith(title)), None)


def wait_until_gone(processes: list[Process]) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive := [process for process in processes if process.is_alive()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def epochs(out: Path, expert: int = 0) -> list[Path]:
    """The epochs that are kept of an expert in training."""
    return sorted(out.glob(f"work/experts/*/expert-{expert:05d}/epoch-*"))


def metrics(out: Path) -> list[str]:
    """The lines of the distilling's metrics as of the newest checkpoint."""
    file = out / "metrics" / "distill-000.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def made(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of the experts, the stages and the synthetic set."""
    files = (path for part in ("experts", "stages", "synthetic") for path in (out / part).rglob("[!.]*"))
    return {str(path.relative_to(out)): sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def students(out: Path) -> pa.Table:
    """The records, without what differs from one run to the next: time, memory and the like."""
    table = records.read(Folder.at(out) / "results")
    return table.drop_columns(["seconds", "time", "peak_memory_bytes", "device", "commit"])


def times(out: Path) -> dict[str, int]:
    """When every file was written that is not the report, in nanoseconds."""
    rewritten = ("config.yaml", "run.lock", "report.html", "preview.png", "metrics/events.jsonl")
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.stat().st_mtime_ns for name, path in files.items() if name not in rewritten}


@contextmanager
def autoscaling_cluster(nodes: int, update_seconds: int) -> Iterator[str]:
    """The address of a cluster with one CPU, which its autoscaler extends by at most `nodes` pretended nodes of two.

    Ray's own AutoscalingCluster is of no use here: it stops whatever Ray runs on this machine, and its template of a
    configuration is not in the wheel.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="raydd")), free_port()
    provider = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
    config = {
        **dict.fromkeys(("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files"), []),
        "cluster_name": "pretended",
        "max_workers": nodes,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "more": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": nodes},
        },
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    arguments = ["--head", "--block", "--num-cpus=1", "--include-dashboard=false", "--object-store-memory=100000000"]
    places = [f"--port={port}", f"--ray-client-server-port={free_port()}", f"--temp-dir={folder}"]
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": str(update_seconds),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    ray_start = [str(Path(sys.executable).with_name("ray")), "start", *arguments, *places]
    ray_start.append(f"--autoscaling-config={folder / 'cluster.json'}")
    try:
        with started(ray_start, folder / "log", **environment) as command:
            command.until(lambda: "--block" in command.output())
            command.until(lambda: autoscaler(f"127.0.0.1:{port}").autoscaling_state.autoscaler_state_version)
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder)


def autoscaler(address: str) -> Any:
    """What the autoscaler of a cluster was asked for and what it answered, as Ray's GetClusterStatusReply."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address).get_cluster_status())
    return reply


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _process(pid: int) -> Process | None:
    """What /proc knows of a living process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else Process(pid, began=rest[17], parent=int(parent), title=title.strip())
