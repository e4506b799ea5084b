"""What may go wrong with the disk or the machine at any time, in words."""

import errno
import os

_AGAIN = "then run again"
_FULL = f"the disk{{}} is full; free some space or choose another folder, {_AGAIN}"
_FAILURES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"a file{{}} would be larger than is allowed; see ulimit -f, or choose another folder, {_AGAIN}",
    errno.EIO: f"the disk{{}} fails to read or write; see what the system's log says of it, {_AGAIN}",
    errno.EROFS: "the file system{} is read-only; choose another folder",
    errno.EMFILE: f"too many files are open; raise the limit of ulimit -n, {_AGAIN}",
    errno.ENFILE: f"too many files are open, on the whole machine; close some programs, {_AGAIN}",
}
"""What may be wrong with any file at any time, of which nobody's program is the cause; {} is where, if it is known."""


def failure(error: Exception, where: str = "") -> str | None:
    """What is wrong with the disk or the machine, in words; some libraries say so in the error's text alone."""
    text = str(error)
    in_text = (said for number, said in _FAILURES.items() if os.strerror(number) in text)
    said = _FAILURES.get(getattr(error, "errno", None) or 0) or next(in_text, None)
    return None if said is None else said.format(where)
