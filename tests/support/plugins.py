"""The example package of `plugin/`: in processes that have it, and in this one."""

import os
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
