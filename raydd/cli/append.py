"""`raydd append`: classes added to a distilled set without distilling the old ones anew."""

import argparse

from rich.console import Console
from rich.markup import escape

from raydd.cli.output import console
from raydd.pipeline.imports.append import append as join
from raydd.storage import Folder


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("runs", metavar="RUN", nargs="+", help="runs on disjoint classes (data.classes), two at least")
    command.add_argument("--to", metavar="DIR", required=True, help="a folder that has no set yet")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Join the sets that are named; returns the exit code."""
    return append(known, console)


def append(known: argparse.Namespace, console: Console) -> int:
    """Join the sets and say where; returns the exit code.

    Args:
        known: the command's arguments.
        console: for the message.
    """
    target = Folder.at(known.to)
    made = join([Folder.at(run) for run in known.runs], target)
    said = f"joined {len(made):,} images of {made.num_classes} classes: {escape(target.uri)}"
    console.print(said, soft_wrap=True)
    return 0
