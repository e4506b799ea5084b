"""`raydd verify RUN`: every checksum and schema in a run's folder."""

import argparse

from rich.markup import escape

from raydd.cli.output import console
from raydd.pipeline import execution
from raydd.storage import Folder


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("run", metavar="RUN", help="the run's folder")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Check all, and say what is intact; returns the exit code."""
    for checked in execution.verify(Folder.at(known.run)):
        console.print(f"intact: {escape(checked)}", soft_wrap=True)
    return 0
