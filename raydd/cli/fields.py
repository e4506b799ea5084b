"""Commands on a config: its file, the flags that are laid over it, and who does the work."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn

import tyro

from raydd import config
from raydd.config import RunConfig
from raydd.pipeline.executor import Executor
from raydd.pipeline.local import LocalExecutor

MakeExecutor = Callable[[], AbstractContextManager[Executor]]


def arguments(command: argparse.ArgumentParser, usage: str = "[--no-ray] [--quiet]") -> None:
    """Declare what every command on a config takes.

    Args:
        command: its parser.
        usage: its options, for the help that lists all fields.
    """
    command.add_argument("config", metavar="CONFIG")
    command.add_argument("--no-ray", action="store_true")
    command.add_argument("--quiet", action="store_true")
    command.add_argument("-h", "--help", action=_Help, nargs=0)
    command.set_defaults(usage=usage)


class _Help(argparse.Action):
    """Lists every field with its value: that of the config named before, else the default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> NoReturn:
        load(namespace, ["--help"], parser.prog.removeprefix("raydd "))
        sys.exit()


def load(known: argparse.Namespace, rest: list[str], command: str | None = None) -> RunConfig:
    """The config file with the flags laid over it.

    Raises:
        UserError: the file cannot be read, or a field does not fit.
    """
    default = RunConfig() if known.config is None else config.load(known.config)
    name = command or known.command
    narrow()
    chosen = tyro.cli(
        RunConfig,
        prog=f"raydd {name} CONFIG {known.usage}",
        description=f"{name}: every field of the config is a flag.",
        default=default,
        args=rest,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    return config.from_mapping(config.to_mapping(chosen))


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
