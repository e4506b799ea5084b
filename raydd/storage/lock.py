"""One holder at a time: `flock` on a local disk, heartbeat objects in an object store.

The kernel releases a flock when its holder dies. An object store knows nothing of the kind, and the pyarrow file
systems offer no conditional write; so every contender writes a claim, an object of its own that it renews with every
beat, and then looks around: whoever sees another claim that is not stale withdraws. Of two contenders the one whose
claim came second sees the first, so never do two of them hold the lock. Claims are compared by the store's clock alone.
A holder that is cut off for longer than three beats may be succeeded while it still works; as every write is atomic,
that costs time and damages nothing.
"""

import fcntl
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from raydd.core.errors import HeldError, UserError
from raydd.storage.folder import Folder
from raydd.storage.local import explained, make_folder

BEAT_SECONDS = 20.0
"""How often a holder renews its claim in an object store."""

_MISSED_BEATS = 3

logger = logging.getLogger(__name__)


def locked(folder: Folder, name: str = "run.lock") -> AbstractContextManager[None]:
    """Hold a folder's lock for the length of a `with` block.

    Raises:
        UserError: somebody else holds it; the message names host, process and time.
    """
    return flock((folder / name).path) if folder.is_local else heartbeat(folder / name)


@contextmanager
def flock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which then tells who does. The file stays, empty, when the lock is released.

    Raises:
        HeldError: somebody else holds it; the message names host, process and time.
    """
    with explained(str(path)):
        make_folder(path.parent)
        file = path.open("a+b", buffering=0)
    with file:
        with explained(str(path)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _held(str(path), path.read_bytes()) from None
            file.truncate(0)
            with suppress(OSError):  # a full disk: nobody is told who holds it
                file.write(_holder())
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def heartbeat(claims: Folder, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Hold a folder of an object store by a claim in it. A claim is stale after three missed beats.

    Raises:
        HeldError: somebody else holds it; the message names host, process and time.
    """
    claim = token_hex(6)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(claims, claim, stop, beat_seconds), daemon=True)
    claims.write(claim, _holder())
    try:
        _withdraw_if_held(claims, claim, _MISSED_BEATS * beat_seconds)
        thread.start()
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        claims.delete(claim)


def _withdraw_if_held(claims: Folder, claim: str, stale_seconds: float) -> None:
    """Raise UserError if another claim is fresh; remove those that are stale."""
    times = {info.base_name: info.mtime_ns * 1e-9 for info in claims.listing() if info.is_file}
    now = times.pop(claim)
    for other, time in times.items():
        if now - time <= stale_seconds:
            holder = b""
            with suppress(UserError):  # it withdraws at this moment
                holder = claims.read(other)
            raise _held(claims.uri, holder, f"; if it was killed, wait {stale_seconds:.0f} seconds")
        claims.delete(other)


def _beat(claims: Folder, claim: str, stop: threading.Event, beat_seconds: float) -> None:
    """Renew the claim until told to stop; an outage of the store is logged and outlived."""
    holder = _holder()
    while not stop.wait(beat_seconds):
        try:
            claims.write(claim, holder)
        except UserError as error:
            logger.warning("the lock's heartbeat failed: %s", error)


def _holder() -> bytes:
    """Who holds a lock, as JSON."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode()


def _held(place: str, holder: bytes, hint: str = "") -> HeldError:
    try:
        who = "process {pid} on {host} since {since}".format(**json.loads(holder))
    except (ValueError, LookupError, TypeError):
        who = "another process"
    return HeldError(f"{place}: held by {who}; wait for it to end, or stop it{hint}")
