"""`raydd methods`: what `method.name` may be."""

import argparse
import inspect

from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.cli.output import console
from raydd.core.plugins import METHODS, plugins
from raydd.methods import OWN


def arguments(command: argparse.ArgumentParser) -> None:
    """There are none."""


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """List all methods, what they need made first, their papers and where they come from; returns the exit code."""
    table = Table(title="methods")
    for name in ("method.name", "made first", "from"):
        table.add_column(name)
    table.add_column("what it is, and its paper", overflow="fold")
    found = [(config, "raydd") for config in OWN] + [(plugin.added, plugin.package) for plugin in plugins(METHODS)]
    for config, package in found:
        first, said = ", ".join(config().made_first) if _has_defaults(config) else "", inspect.getmodule(config)
        words = (inspect.getdoc(said) or "").partition("\n")[0]
        table.add_row(str(config.name), first or "nothing", package, escape(words))
    tables.print_whole(table, console)
    return 0


def _has_defaults(config: type) -> bool:
    """Whether a method can be looked at without a config: a set from elsewhere cannot."""
    try:
        config()
    except TypeError:
        return False
    return True
