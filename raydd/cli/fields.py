"""Commands on a config: its file, the flags that are laid over it, and who does the work."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import tyro

from raydd import config
from raydd.cli import help
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.pipeline.executor import Executor
from raydd.pipeline.local import LocalExecutor

_SHORT = {"--ipc": "--method.images-per-class"}
_SCALES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
MakeExecutor = Callable[[], AbstractContextManager[Executor]]


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare what every command on a config takes."""
    command.add_argument("config", metavar="CONFIG", help="a YAML file, or its URI; configs/ has many")
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
        named = values if values is not None and values.endswith((".yaml", ".yml")) else namespace.config
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
    default, flags = config.load(known.config), [_long(flag) for flag in rest]
    narrow()
    chosen = tyro.cli(
        RunConfig,
        prog=f"raydd {known.command} CONFIG",
        default=default,
        args=flags,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    return config.from_mapping(config.to_mapping(chosen))


def _long(flag: str) -> str:
    """A flag as its field is called."""
    name, equals, value = flag.partition("=")
    return f"{_SHORT.get(name, name)}{equals}{value}"


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


@contextmanager
def executor(no_ray: bool) -> Iterator[Executor]:
    """Who does the work; Ray is imported where it is used."""
    if no_ray:
        yield LocalExecutor()
    else:
        from raydd.cluster.executor import RayExecutor

        with RayExecutor() as executor:
            yield executor
