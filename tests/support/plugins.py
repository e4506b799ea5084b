"""The example package of `plugin/`: in processes that have it, and in this one."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from raydd.core import plugins
from tests.support import ROOT
from tests.support.runs import started

FOLDER: Final = ROOT / "tests" / "support" / "plugin"
PLUGIN: Final = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(FOLDER)])}
"""The environment of a process that has the package."""


def told(verb: str, *arguments: object, code: int = 0, log: Path) -> str:
    """What a command says in a process that has the plugin."""
    with started([sys.executable, "-m", "raydd", verb, *map(str, arguments)], log, **PLUGIN) as command:
        assert command.wait() == code, command.output()
        return command.output()


_IN_A_ROW: Final = """
import json, sys
from raydd.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    print("exit code", code, flush=True)
    sys.stderr.flush()
"""


def told_in_a_row(*commands: tuple[object, ...], log: Path) -> list[tuple[int, str]]:
    """Exit code and words of each of several commands, in one process that has the plugin: imports take seconds."""
    listed = json.dumps([list(map(str, command)) for command in commands])
    with started([sys.executable, "-u", "-c", _IN_A_ROW, listed], log, **PLUGIN) as command:
        assert command.wait() == 0, command.output()
        *parts, rest = re.split(r"^exit code (\d+)\n", command.output(), flags=re.M)
    assert not rest and len(parts) == 2 * len(commands), command.output()
    return [(int(code), words) for words, code in zip(parts[::2], parts[1::2], strict=True)]


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the packages of a folder here, but for the methods among them, of which raydd's config has been made."""
    monkeypatch.syspath_prepend(str(folder))
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Ask again which packages there are."""
    plugins.plugins.cache_clear()
    plugins.added.cache_clear()
