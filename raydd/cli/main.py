"""The command line: parse, call, print.

Exit codes: 0 done, 1 the work broke off, 2 a user's mistake (one message), 130 and 143 interrupted (SIGINT, SIGTERM).

A command is a module of this package with `arguments(command)` and `run(known, rest)`. Only that of the command that is
asked for is imported, so that help and mistakes are answered at once.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn, Protocol, cast

from rich.markup import escape

from raydd.cli import opening, output, streams
from raydd.cli.output import errors
from raydd.core.errors import RunError, UserError
from raydd.core.failures import failure
from raydd.core.interruption import Interrupted, heeded
from raydd.core.version import __version__


class CommandModule(Protocol):
    """What a module of a command offers."""

    def arguments(self, command: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, known: argparse.Namespace, rest: list[str]) -> int:
        """Do it, with the arguments that are declared and the others; returns the exit code."""
        ...


@dataclass(frozen=True)
class Command:
    """A command and where it is."""

    module: str
    text: str
    takes_fields: bool = False
    """Whether fields of a config follow as flags; the module says what they are, and has its own help."""
    makes: bool = False
    """Whether it works on a run, which may take its time."""

    def load(self) -> CommandModule:
        """Import its module."""
        return cast(CommandModule, import_module(f"raydd.cli.{self.module}"))


COMMANDS = {
    "run": Command(
        "steps", "make everything the config names; reuse what exists, resume what is unfinished", True, True
    ),
    "experts": Command("steps", "train the expert trajectories", True, True),
    "teacher": Command("steps", "train the teacher, or take it over", True, True),
    "rank": Command("steps", "rank the real images by the teacher", True, True),
    "distill": Command("steps", "make the distilled set, and the experts or the teacher that it needs", True, True),
    "evaluate": Command("steps", "train the students, and make what they need", True, True),
    "probe": Command("steps", "ask what evaluate.probes names, and make what that needs", True, True),
    "report": Command("report", "write the report of CONFIG's run, or compare RUN...", True),
    "auto": Command("auto", "a set of your own images, by the method that is best for them"),
    "sweep": Command("sweep", "try other values of fields; the best by validation accuracy", True),
    "show": Command("show", "hours, memory and disk that runs or a sweep will take; the whole config", True),
    "submit": Command("submit", "have a Ray cluster do `run`, and follow it", True),
    "compare": Command("compare", "make several configs with several seeds; one table of all"),
    "import": Command("imports", "take over sets, experts and teachers of other code"),
    "export": Command("export", "write a distilled set for use without raydd"),
    "append": Command("append", "join distilled sets of disjoint classes into one"),
    "methods": Command("methods", "list methods, datasets and networks, and where they come from"),
    "inspect": Command("inspect", "counts, duplicates and problems of a dataset", True),
    "verify": Command("verify", "check every sha256, name and schema below a folder"),
    "bench": Command("bench", "measure against the plain way of doing the same work", True),
    "completion": Command("completion", "print a script by which a shell completes all of this"),
}


_COMPARISON = Command("query", COMMANDS["report"].text)
"""What `report` is where no config is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        with heeded():
            return _main(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except RunError as error:
        errors.print(f"[bold red]stopped:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except MemoryError as error:
        errors.print(f"[bold red]stopped:[/] there is not enough memory: {escape(str(error) or 'none is left')}")
        return 1
    except OSError as error:
        if (said := failure(error)) is None:
            raise
        errors.print(f"[bold red]stopped:[/] {escape(said)}", soft_wrap=True)
        return 1
    except KeyboardInterrupt as interrupt:
        errors.print("interrupted; the same command goes on from here")
        return interrupt.exit_code if isinstance(interrupt, Interrupted) else 130


def entry() -> NoReturn:
    """The console script. Whoever reads its output may stop reading, as `head` does; a full disk may lose it."""
    printed = streams.prepare()
    try:
        try:
            code = main()
        except SystemExit as end:  # of argparse
            code = end.code if isinstance(end.code, int) else 0
        code = streams.finished(code, printed)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try to write the rest
        code = 1
    sys.exit(code)


def _main(arguments: list[str]) -> int:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{ascii(argument)}: not UTF-8, and so no name that all files could keep") from error
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    if name == "version":
        arguments = ["--version"]
    elif name not in {"", *COMMANDS}:
        raise UserError(f"there is no command {name}{_alike(name)}; raydd --help lists them all")
    commands = COMMANDS if any(map(_is_config, arguments)) else {**COMMANDS, "report": _COMPARISON}
    if name in commands and commands[name].makes and (said := opening.line(arguments)):
        output.console.print(escape(said), soft_wrap=True)
    modules = {name: commands[name].load()} if name in commands else {}
    parser, _ = _parser(commands, modules)
    known, rest = parser.parse_known_args(arguments)  # ends where there is no such command
    if rest and not commands[name].takes_fields:
        raise UserError(f"{name}: there is no option {rest[0]}")
    return modules[name].run(known, rest)


def _alike(name: str) -> str:
    found = difflib.get_close_matches(name, COMMANDS, 1)
    return f": did you mean {found[0]}?" if found else ""


def _is_config(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml"))


def whole_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """All commands with all that they declare, and that of each; every module is imported."""
    return _parser(COMMANDS, {name: command.load() for name, command in COMMANDS.items()})


def _parser(
    known: Mapping[str, Command], modules: Mapping[str, CommandModule]
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """All commands by name, and the arguments of those whose modules are there."""
    parser = argparse.ArgumentParser(prog="raydd", description="Dataset distillation on Ray.")
    parser.add_argument("-V", "--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added = {}
    for name, command in known.items():
        own = not command.takes_fields  # short forms of options might be fields
        added[name] = commands.add_parser(name, help=command.text, add_help=own, allow_abbrev=own)
        if name in modules:
            modules[name].arguments(added[name])
    return parser, added
