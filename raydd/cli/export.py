"""`raydd export`: a distilled set for use without raydd."""

import argparse

from rich.console import Console
from rich.markup import escape

from raydd.cli.output import console
from raydd.exchange.export import FORMATS
from raydd.exchange.export import export as write
from raydd.exchange.student_out import STUDENT, export_student
from raydd.storage import Folder

_FORMATS_HELP = "pt: tensors; imagefolder: PNG files; student: the network that evaluate.keep has kept"


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("run", metavar="RUN", help="a run's folder, or one that holds a distilled set")
    command.add_argument("--format", choices=[*FORMATS, STUDENT], required=True, help=_FORMATS_HELP)
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
    if known.format == STUDENT:
        student = export_student(Folder.at(known.run), target)
        accuracy = 100 * student.about["test_accuracy"]
        words = f"exported the best student ({student.network.label}, test accuracy {accuracy:.1f})"
        console.print(f"{words}: {escape(target.uri)}", soft_wrap=True)
        return 0
    source = write(Folder.at(known.run), known.format, target)
    console.print(f"exported {len(source.synthetic):,} images as {known.format}: {escape(target.uri)}", soft_wrap=True)
    return 0
