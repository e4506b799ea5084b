"""`raydd run` and its single steps: `experts`, `teacher`, `rank`, `distill`, `evaluate`, `probe`."""

import argparse

from rich.markup import escape

from raydd.cli import fields, probes, tables
from raydd.cli.fields import arguments
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.pipeline import execution
from raydd.pipeline.runs.run import REPORT, Run

__all__ = ["arguments", "print_report", "run"]


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Do a config's work up to a step, and print what came of it; returns the exit code."""
    last_step = "report" if known.command == "run" else known.command
    chosen = fields.load(known, rest)
    with shown_progress(console, known.quiet) as progress, fields.executor(known.no_ray) as executor:
        done = execution.execute(chosen, executor, progress, last_step)
    if last_step == "report":
        print_report(done)
    elif last_step == "evaluate":
        tables.print_whole(tables.results(done), console)
    elif last_step == "probe":
        probes.print_all(done, console)
    return 0


def print_report(done: Run) -> None:
    """The tables of a run, and where its page is."""
    tables.print_whole(tables.results(done), console)
    probes.print_all(done, console)
    console.print(f"report: {escape((done.folder / REPORT).uri)}", soft_wrap=True)
