"""Commands on a config: its file, the flags that are laid over it, and who does the work."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import tyro

from raydd import config
from raydd.cli import help
from raydd.cli.output import errors
from raydd.config import RunConfig
from raydd.config.other_method import with_method
from raydd.core.errors import UserError
from raydd.pipeline.executor import Executor

_METHOD = "--method.name"
SHORT = {"--ipc": "--method.images-per-class"}
_SCALES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
MakeExecutor = Callable[[], AbstractContextManager[Executor]]


def arguments(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Declare what every command on a config takes, or on several."""
    text = "a YAML file, or its URI; configs/ has many"
    command.add_argument("config", metavar="CONFIG", nargs="+" if several else None, help=text)
    command.add_argument("--no-ray", action="store_true", help="work in this process alone; Ray is not started")
    command.add_argument("--quiet", action="store_true", help="show results and errors, and no progress")
    text = "this help; on the fields of SECTION, such as method or evaluate.recipe; on all fields"
    command.add_argument("-h", "--help", action=_Help, nargs="?", metavar="SECTION|all", help=text)
    command.epilog = "Every field of the config is a flag, too: --method.images-per-class 10, or --ipc 10."


class _Help(argparse.Action):
    """The command's options, and fields of its config: with the values of the one that is named, before or after."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object
    ) -> NoReturn:
        before = namespace.config[0] if isinstance(namespace.config, list) else namespace.config
        named = values if values is not None and values.endswith((".yaml", ".yml")) else before
        section = None if values == named else values
        values_of = RunConfig() if named is None else config.load(named)
        try:
            page = help.page(values_of, section, named or "raydd itself")
        except KeyError:
            known = ", ".join([*help.sections(values_of), help.ALL])
            raise UserError(f"--help: there is no section {section}; take one of {known}") from None
        print(f"{parser.format_help()}\n{page}")
        sys.exit(0)


def load(known: argparse.Namespace, rest: list[str]) -> RunConfig:
    """The config file with the flags laid over it.

    Raises:
        UserError: the file cannot be read, or a field does not fit.
    """
    return load_file(known.config, known.command, rest)


def load_file(file: str, command: str, rest: list[str]) -> RunConfig:
    """A config file with the flags of a command laid over it; see `load`."""
    default, flags = config.load(file), [_long(flag) for flag in rest]
    narrow()
    name, flags = _method_named(flags)
    if name is not None and name != default.method.name:
        values, dropped = with_method(config.to_mapping(default), name)
        errors.print(f"{name} in place of {default.method.name}: {_left_out(dropped)}", soft_wrap=True, markup=False)
        default = config.from_mapping(values)
    chosen = tyro.cli(
        RunConfig,
        prog=f"raydd {command} CONFIG",
        default=default,
        args=flags,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    return config.from_mapping(config.to_mapping(chosen))


def _method_named(flags: list[str]) -> tuple[str | None, list[str]]:
    """The method that flags name, and the other flags."""
    name, others, words = None, [], iter(flags)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == _METHOD:
            name = value if equals else next(words, None)
        else:
            others.append(word)
    return name, others


def told_of_methods(chosen: RunConfig) -> Iterator[str]:
    """What a sweep over methods leaves out of the config for each of them, in sentences.

    Raises:
        UserError: a method does not go with the config.
    """
    space = None if chosen.sweep is None else chosen.sweep.parameters.get("method.name")
    for name in space if isinstance(space, list) else []:
        if name != chosen.method.name:
            _, dropped = with_method({**config.to_mapping(chosen), "sweep": None}, str(name))
            yield f"{name} in place of {chosen.method.name}: {_left_out(dropped)}"


def _left_out(dropped: Sequence[str]) -> str:
    if not dropped:
        return "all else is kept"
    return f"left out, and as the literature has it: {', '.join(dropped)}; other values are set by flags"


def _long(flag: str) -> str:
    """A flag as its field is called."""
    name, equals, value = flag.partition("=")
    return f"{SHORT.get(name, name)}{equals}{value}"


def amount(text: str) -> float:
    """A number as it is typed: 20G is 2e10; k, M, G, T and P are known."""
    scale = _SCALES.get(text[-1:], 1.0)
    try:
        return scale * float(text if scale == 1 else text[:-1])
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number such as 20G or 1.39e13, is {text!r}") from None


def narrow() -> None:
    """Keep tyro's boxes narrow enough to read where there is no terminal."""
    os.environ.setdefault("COLUMNS", "100")


def executor(no_ray: bool) -> AbstractContextManager[Executor]:
    """Who does the work; what knows Ray is imported where it is used."""
    from raydd.cluster import choice

    return choice.executor(ray=not no_ray)
