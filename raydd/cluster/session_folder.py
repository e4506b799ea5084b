"""The folder in which a Ray of this machine keeps its sockets and logs: its name must be short."""

import logging
import os
from pathlib import Path
from typing import Final

from raydd.core.errors import ResourceError

_SOCKET: Final = len("/ray/session_2026-12-31_23-59-59_999999_9999999/sockets/plasma_store")
_LONGEST: Final = 103
"""Bytes of a socket's name that every system takes."""
_VARIABLES: Final = ("RAY_TMPDIR", "TMPDIR")
"""Where Ray looks for the folder, the first that is set; by default it is /tmp."""
_OTHERS: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - Ray makes a folder of its own there

_log = logging.getLogger(__name__)


def session_folder() -> str | None:
    """The folder to tell Ray, where the one that it would take itself will not do; a warning says so.

    Raises:
        ResourceError: no folder will do; names the variable to set.
    """
    name = next((name for name in _VARIABLES if os.environ.get(name)), None)
    own = os.environ[name] if name is not None else _OTHERS[0]
    why = _unfit(own)
    if why is None:
        return None
    what = f"{name}={own}" if name is not None else own
    for other in _OTHERS:
        if _unfit(other) is None:
            _log.warning("Ray's files of this run are in %s/ray: %s %s", other, what, why)
            return f"{other}/ray"
    raise ResourceError(f"{what}: {why}, as Ray needs it; set RAY_TMPDIR to a short folder, or work with --no-ray")


def _unfit(folder: str) -> str | None:
    """Why Ray cannot have its sockets in a folder."""
    path = Path(folder)
    if not path.is_absolute():
        return "is not an absolute path"
    if len(os.fsencode(folder.rstrip("/"))) + _SOCKET > _LONGEST:
        return f"is longer than {_LONGEST - _SOCKET} bytes"
    there = next(place for place in (path, *path.parents) if place.exists())
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else "cannot be written to"
