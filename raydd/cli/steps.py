"""`raydd run` and its single steps: `experts`, `teacher`, `rank`, `distill`, `evaluate`, `probe`."""

import argparse
import shlex

from rich.markup import escape

from raydd.cli import fields, probes, tables
from raydd.cli.fields import arguments
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.evaluation import records
from raydd.evaluation.tables.summary import final_stages, summarise
from raydd.evaluation.tables.verdict import verdict
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
        _print_results(done)
    elif last_step == "probe":
        probes.print_all(done, console)
    return 0


def print_report(done: Run) -> None:
    """The tables of a run, what they say, where its page is, and what can be done with the set."""
    _print_results(done)
    probes.print_all(done, console)
    _say(f"report: {(done.folder / REPORT).uri}")
    folder = done.folder.uri
    exported = f"raydd export {shlex.quote(folder)} --format imagefolder --to DIR"
    _say(f'use it: raydd.load("{folder}") in Python, or {exported}')


def _print_results(done: Run) -> None:
    every = summarise(records.read(done.results))
    tables.print_whole(tables.results(done, every), console)
    if said := verdict(final_stages(every)):
        _say(said)


def _say(line: str) -> None:
    console.print(escape(line), soft_wrap=True)
