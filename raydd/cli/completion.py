"""`raydd completion SHELL`: a script by which a shell completes commands, options, fields and their values.

The script is made from the parser of every command, and stands by itself: no key press starts Python.
"""

import argparse
from functools import cache
from typing import Any, Final, get_args

import shtab

from raydd.cli import main
from raydd.cli.bench import BENCHES, bench_class
from raydd.cli.fields import SHORT
from raydd.cli.help import Field, fields_of
from raydd.config import RunConfig
from raydd.data import DataConfig
from raydd.data.sources.table import SOURCES, added_sources
from raydd.methods import MethodConfig
from raydd.methods.imported import ImportedConfig
from raydd.networks.architectures import BODIES
from raydd.networks.config import added_networks

_PLACES: Final = {
    **dict.fromkeys(("CONFIG", "FILE"), shtab.FILE),
    **dict.fromkeys(("DIR", "RUN", "DIR|SOURCE", "FOLDER", "DIR_OR_CONFIG"), shtab.DIRECTORY),
}
"""What an argument names, by its metavar, where that is something on the disk."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    text = "the shell; what is printed goes where the shell looks for completions"
    command.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help=text)


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Print the script; returns the exit code."""
    print(script(known.shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell: bash, zsh or tcsh."""
    parser, commands = main.whole_parser()
    for name, command in commands.items():
        for field in _fields(name) if main.COMMANDS[name].takes_fields else ():
            _add(command, field)
        for action in command._actions:
            if isinstance(action.metavar, str) and not action.choices:
                _complete(action, action.metavar)
    return str(shtab.complete(parser, shell))


def _complete(action: argparse.Action, metavar: str) -> None:
    """Say what a value may be: something on the disk, or one of several words."""
    if metavar in _PLACES:
        action.complete = _PLACES[metavar]  # type: ignore[attr-defined]
    elif "|" in metavar and metavar.islower():
        action.choices = metavar.split("|")


def _fields(command: str) -> tuple[Field, ...]:
    """What a command takes as flags."""
    if command == "inspect":
        return tuple(fields_of(DataConfig()))
    return _of_benches() if command == "bench" else _of_runs()


@cache
def _of_benches() -> tuple[Field, ...]:
    return tuple(field for name in BENCHES for field in fields_of(bench_class(name)()))


@cache
def _of_runs() -> tuple[Field, ...]:
    """Of a run with any method; an imported set is no method that one names."""
    methods = [kind for kind in get_args(get_args(MethodConfig)[0]) if kind is not ImportedConfig]
    named = {
        "method.name": [kind.name for kind in methods],
        "data.source": [*SOURCES, *added_sources()],
        "network.name": [*BODIES, *added_networks()],
    }
    found = [Field(path, "|".join(names), "", None) for path, names in named.items()]
    of_methods = (field for kind in methods for field in fields_of(kind(), "method."))
    return (*found, *fields_of(RunConfig()), *of_methods)


def _add(command: argparse.ArgumentParser, field: Field) -> None:
    """Declare a field's flag, with its short forms, where the command has none of the name."""
    named: Any = [field.flag, *(short for short, long in SHORT.items() if long == field.flag)]
    if field.is_flag and not any(flag in command._option_string_actions for flag in named):
        words = [word for word in field.kind.split("|") if word.islower()]
        text = field.text.replace("%", "%%")
        command.add_argument(*named, choices=words or None, metavar=None if words else field.kind, help=text)
