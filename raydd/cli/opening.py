"""What a command on a run says at once, before the libraries are imported that it works with."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from raydd.core.errors import UserError
from raydd.core.version import __version__

_SILENT: Final = frozenset({"--quiet", "-h", "--help"})


def line(arguments: Sequence[str]) -> str | None:
    """The version, where the work ends up and who does it; None where nothing is to be said, or is not known.

    Args:
        arguments: of the command line; a mistake among them is told by whoever reads them all.
    """
    out = _out(arguments)
    if out is None or _SILENT.intersection(arguments):
        return None
    if "--no-ray" in arguments:
        who = "in this process, without Ray"
    elif address := os.environ.get("RAY_ADDRESS"):
        who = f"on the Ray cluster at {address}"
    else:
        who = "on Ray, which starts on this machine if there is work"
    return f"raydd {__version__}: writes {out}, {who}"


def _out(arguments: Sequence[str]) -> str | None:
    """What the last --out says, or the config."""
    for place in reversed(range(len(arguments))):
        name, equals, value = arguments[place].partition("=")
        if name == "--out":
            return value if equals else next(iter(arguments[place + 1 :]), None)
    file = next((argument for argument in arguments if argument.endswith((".yaml", ".yml"))), "")
    if not file or not Path(file).is_file():
        return None
    from raydd.storage import yaml_files  # here, as help and mistakes do without what it imports

    try:
        said = yaml_files.read(Path(file).read_bytes(), file)
    except (OSError, UserError):
        return None
    out = said.get("out") if isinstance(said, dict) else None
    return out if isinstance(out, str) else None
