"""A Ray of this machine: nothing of it can be reached from another, nor by whoever does not know its token."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raydd.cluster.session_folder import OWN, host_name

SESSION = """
import json, os, sys
from tests.cluster.test_own_ray import listening
from raydd.cluster import runtime
import ray
with runtime.session():
    @ray.remote
    class Actor:
        def name(self):
            return os.getpid()
    actor = Actor.remote()
    ray.get(actor.name.remote())
    address = ray.get_runtime_context().gcs_address
    print(json.dumps([address, listening(os.getpid()), os.environ["RAY_AUTH_TOKEN"]]), flush=True)
    sys.stdin.readline()
assert "RAY_AUTH_TOKEN" not in os.environ and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
"""
STRANGER = "import sys, ray; ray.init(sys.argv[1], logging_level='ERROR'); print(ray.nodes())"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""127.0.0.1, the same in IPv6, and ::1, as the kernel writes them."""


def listening(pid: int) -> list[tuple[str, str]]:
    """Address and process of every socket at which a process or one that it has begun waits for connections."""
    waiting = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                waiting[f"socket:[{inode}]"] = local.partition(":")[0]
    found = []
    for own in _family(pid):
        try:
            names = [str(link.readlink()) for link in Path(f"/proc/{own}/fd").iterdir()]
            command = Path(f"/proc/{own}/cmdline").read_text().replace("\0", " ")[:60]
        except OSError:
            continue
        found += [(waiting[name], command) for name in names if name in waiting]
    return found


def _family(pid: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def _lets_in(address: str, environment: dict[str, str]) -> bool:
    """Whether a process with this environment sees anything of a Ray; it may knock for a while."""
    stranger = [sys.executable, "-c", STRANGER, address]
    brief = environment | {"RAY_gcs_server_port_wait_time_s": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    try:
        done = subprocess.run(stranger, capture_output=True, text=True, env=brief, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 or "NodeID" in done.stdout


@contextmanager
def local_session(home: Path) -> Iterator[tuple[str, list[list[str]], str, int, dict[str, str]]]:
    """A session in a process of its own: its address, its sockets, its token, its process, and the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "TMPDIR": "/tmp"}  # noqa: S108
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as session:
        assert session.stdin is not None and session.stdout is not None
        try:
            yield *json.loads(session.stdout.readline()), session.pid, environment
        finally:
            session.stdin.write("\n")
            session.stdin.flush()
        assert session.wait() == 0


def test_a_local_session_listens_to_this_machine_alone(tmp_path: Path) -> None:
    """And has its files in a folder that is closed to others, and writes no token into one."""
    with local_session(tmp_path) as (address, sockets, token, pid, _):
        assert len(sockets) >= 5 and {place for place, _ in sockets} <= {*LOOPBACK}, sockets
        assert address.startswith("127.0.0.1:") and len(token) == 64
        private = Path("/tmp") / OWN
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert any(path.name.endswith(f"_{pid}") for path in (private / host_name()).iterdir())
        assert not (tmp_path / ".ray").exists()


@pytest.mark.slow
def test_whoever_does_not_know_the_token_is_not_let_in(tmp_path: Path) -> None:
    with local_session(tmp_path) as (address, _, token, _, environment):
        mode = {"RAY_AUTH_MODE": "token"}
        assert _lets_in(address, environment | mode | {"RAY_AUTH_TOKEN": token})
        for other in ({}, mode | {"RAY_AUTH_TOKEN": "f" * 64}):
            assert not _lets_in(address, environment | other)
