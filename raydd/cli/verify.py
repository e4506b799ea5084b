"""`raydd verify DIR`: every checksum, name and schema below a run's folder, or a sweep's."""

import argparse

from rich.markup import escape

from raydd.cli.output import console
from raydd.pipeline.verifying import verify
from raydd.storage import Folder


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("run", metavar="RUN", help="the run's folder")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Check all, and say what is intact; returns the exit code."""
    for checked in verify(Folder.at(known.run)):
        console.print(f"intact: {escape(checked)}", soft_wrap=True)
    return 0
