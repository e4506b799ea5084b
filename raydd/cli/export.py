"""`raydd export`: a distilled set for use without raydd."""

import argparse

from rich.console import Console
from rich.markup import escape

from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.exchange.export import FORMATS, ExportTerms
from raydd.exchange.export import export as write
from raydd.exchange.hub import HUB, push
from raydd.exchange.measured import sentence
from raydd.exchange.student_out import STUDENT, export_student
from raydd.storage import Folder

_FORMATS_HELP = (
    "pt: tensors; imagefolder: PNG files; parquet: a Hugging Face dataset; hub: the same, pushed to the Hub; "
    "student: the network that evaluate.keep has kept"
)


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("run", metavar="RUN", help="a run's folder, or one that holds a distilled set")
    command.add_argument("--format", choices=[*FORMATS, HUB, STUDENT], required=True, help=_FORMATS_HELP)
    text = "a folder that is not there yet, or is empty; with --format hub NAME/DATASET on the Hub"
    command.add_argument("--to", metavar="DIR", required=True, help=text)
    text = "under which the images may be used, such as cc-by-4.0; asked for once, and kept beside the set"
    command.add_argument("--license", metavar="NAME", help=text)
    text = "train no students on the images of 8 bit to say in the README how good they are"
    command.add_argument("--no-measure", action="store_true", help=text)
    command.add_argument(
        "--private", action="store_true", help="with --format hub: show a new dataset to its owner alone"
    )
    command.add_argument("--quiet", action="store_true", help="show no progress")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Export the set that is named; returns the exit code."""
    return export(known, console)


def export(known: argparse.Namespace, console: Console) -> int:
    """Write the export and say where; returns the exit code.

    Args:
        known: the command's arguments.
        console: for the message.
    """
    if known.format == STUDENT:
        target = Folder.at(known.to)
        student = export_student(Folder.at(known.run), target)
        accuracy = 100 * student.about["test_accuracy"]
        words = f"exported the best student ({student.network.label}, test accuracy {accuracy:.1f})"
        console.print(f"{words}: {escape(target.uri)}", soft_wrap=True)
        return 0
    with shown_progress(console, known.quiet) as progress:
        terms = ExportTerms(license=known.license, measure=not known.no_measure, progress=progress)
        if known.format == HUB:
            where = push(Folder.at(known.run), known.to, terms, private=known.private)
            console.print(f"pushed to the Hub: {escape(where)}", soft_wrap=True)
            return 0
        target = Folder.at(known.to)
        source = write(Folder.at(known.run), known.format, target, terms)
    said = escape(sentence(source, "the set's recipe"))
    console.print(f"exported {len(source.synthetic):,} images as {known.format}: {escape(target.uri)}", soft_wrap=True)
    console.print(said, soft_wrap=True)
    return 0
