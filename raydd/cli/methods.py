"""`raydd methods`: what `method.name`, `data.source` and `network.name` may be."""

import argparse
import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.cli.output import console
from raydd.core.plugins import METHODS, plugins
from raydd.data.sources.table import NAMED, SOURCES, added_sources
from raydd.methods import OWN
from raydd.networks.architectures import BODIES
from raydd.networks.config import added_networks


def arguments(command: argparse.ArgumentParser) -> None:
    """There are none."""


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """List all methods, sources and networks, and where they come from; returns the exit code."""
    for table in (_methods(), _sources(), _networks()):
        tables.print_whole(table, console)
    return 0


def _methods() -> Table:
    """What each needs made first, and its paper."""
    found = [(config, "raydd") for config in OWN] + [(plugin.added, plugin.package) for plugin in plugins(METHODS)]
    rows = [(str(config.name), _made_first(config), package, _of_file(config)) for config, package in found]
    return _table("methods", ("method.name", "made first", "from", "what it is, and its paper"), rows)


def _sources() -> Table:
    own = [(NAMED.get(name, name), "raydd", _of_file(listings)) for name, listings in SOURCES.items()]
    others = [
        (one.added.form(name), one.package, _of_file(one.added.listings)) for name, one in added_sources().items()
    ]
    return _table("sources", ("data.source", "from", "what it is"), own + others)


def _networks() -> Table:
    own = [(name, "raydd", _first_line(body.__doc__)) for name, body in BODIES.items()]
    others = [(name, one.package, _of_file(one.added.body)) for name, one in added_networks().items()]
    return _table("networks", ("network.name", "from", "what it is"), own + others)


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """One of the three; the last column may take several lines."""
    table = Table(title=title)
    *names, last = columns
    for name in names:
        table.add_column(name)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _made_first(config: type[Any]) -> str:
    """What a method needs; a set from elsewhere cannot be asked without a config."""
    try:
        kinds = config().made_first
    except TypeError:
        return "nothing"
    return ", ".join(kinds) or "nothing"


def _of_file(thing: Any) -> str:
    """What the file says of itself in which something is defined."""
    module = inspect.getmodule(thing.func if isinstance(thing, partial) else thing)
    return _first_line(module.__doc__ if module else None)


def _first_line(words: str | None) -> str:
    return (words or "").partition("\n")[0]
