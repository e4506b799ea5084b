"""The folder in which a Ray of this machine keeps its sockets and logs: of this user alone, under a short name."""

import hashlib
import logging
import os
import re
import shutil
import socket
import stat
from pathlib import Path
from typing import Final

from raydd.core.errors import ResourceError


def host_name() -> str:
    """Eight letters for this host, and the name space in which its processes are numbered."""
    numbers = Path("/proc/self/ns/pid")
    space = str(numbers.readlink()) if numbers.is_symlink() else ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


OWN: Final = f"raydd-{os.getuid()}"
"""Into which nobody else may look."""
_RAYS: Final = host_name()
"""Ray opens its own folder to everybody, so that it lies in that one. It has the name of this host and of its
processes' numbers: on a disk that several hosts share, a number that is nobody's here may be somebody's there."""
_SOCKET: Final = len(f"/{OWN}/{_RAYS}/session_2026-12-31_23-59-59_999999_9999999/sockets/plasma_store")
_LONGEST: Final = 103
"""Bytes of a socket's name that every system takes."""
_VARIABLES: Final = ("RAY_TMPDIR", "TMPDIR")
"""Where Ray looks for a folder, the first that is set; by default it is /tmp."""
_OTHERS: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a private folder is made there
_SESSION: Final = re.compile(r"session_[-\d]+_[-\d]+_\d+_(?P<pid>\d+)")

_log = logging.getLogger(__name__)


def session_folder() -> str:
    """The folder to tell Ray, without what is left in it of processes that are gone.

    A warning says where another one is taken than the environment names.

    Raises:
        ResourceError: no folder will do; names the variable to set.
    """
    name = next((name for name in _VARIABLES if os.environ.get(name)), None)
    above = os.environ[name] if name is not None else _OTHERS[0]
    if (why := _unfit(above)) is None:
        return _swept(Path(above) / OWN)
    what = f"{name}={above}" if name is not None else above
    for other in _OTHERS:
        if _unfit(other) is None:
            _log.warning("Ray's files of this run are in %s/%s: %s %s", other, OWN, what, why)
            return _swept(Path(other) / OWN)
    raise ResourceError(f"{what}: {why}, as Ray needs it; set RAY_TMPDIR to a short folder, or work with --no-ray")


def _unfit(folder: str) -> str | None:
    """Why Ray cannot have its sockets in a folder of ours in this one."""
    path = Path(folder)
    if not path.is_absolute():
        return "is not an absolute path"
    if len(os.fsencode(folder.rstrip("/"))) + _SOCKET > _LONGEST:
        return f"is longer than {_LONGEST - _SOCKET} bytes"
    there = next(place for place in (path, *path.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return "cannot be written to"
    own = path / OWN
    is_ours = not own.is_symlink() and (not own.exists() or _is_ours(own))
    return None if is_ours else f"has a {OWN} of another user in it"


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and folder.stat().st_uid == os.getuid()


def _swept(folder: Path) -> str:
    """Ray's folder in a private one, which is there, without the sessions of processes that have ended."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IRWXU)
    sessions = folder / _RAYS
    sessions.mkdir(exist_ok=True)
    for session in sessions.iterdir():
        found = _SESSION.fullmatch(session.name)
        if found is not None and not session.is_symlink() and not _runs(int(found["pid"])):
            shutil.rmtree(session, ignore_errors=True)
    return str(sessions)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, under the same number
        pass
    return True
