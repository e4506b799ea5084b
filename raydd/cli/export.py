"""`raydd export`: a distilled set for use without raydd."""

import argparse

from rich.console import Console
from rich.markup import escape

from raydd.cli.output import console
from raydd.exchange.export import FORMATS
from raydd.exchange.export import export as write
from raydd.storage import Folder


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("run", metavar="RUN", help="a run's folder, or one that holds a distilled set")
    command.add_argument("--format", choices=FORMATS, required=True, help="pt: tensors; imagefolder: PNG files")
    command.add_argument("--to", metavar="DIR", required=True, help="a folder that is not there yet, or is empty")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Export the set that is named; returns the exit code."""
    return export(known, console)


def export(known: argparse.Namespace, console: Console) -> int:
    """Write the export and say where; returns the exit code.

    Args:
        known: the command's arguments.
        console: for the message.
    """
    target = Folder.at(known.to)
    source = write(Folder.at(known.run), known.format, target)
    console.print(f"exported {len(source.synthetic):,} images as {known.format}: {escape(target.uri)}", soft_wrap=True)
    return 0
