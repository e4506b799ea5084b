"""`raydd compare`: several configs with several seeds, and one table."""

import argparse
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
from rich.console import Console
from rich.markup import escape

from raydd.cli import fields, probes, tables
from raydd.cli.fields import MakeExecutor
from raydd.cli.output import console, errors
from raydd.cli.progress import shown_progress
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.evaluation.tables import comparison, probe_tables
from raydd.pipeline import execution
from raydd.pipeline.compare import RunOutcome, SeededConfig, cells, look, make


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("configs", metavar="CONFIG", nargs="+", help="YAML files")
    seeds = ("--seeds", "--seed")
    command.add_argument(*seeds, metavar="SEED", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    text = "images of each class, in place of what the configs say"
    command.add_argument("--images-per-class", "--ipc", metavar="N", type=int, help=text)
    text = "write into DIR/NAME, by the names of the configs, in place of what they say"
    command.add_argument("--out", metavar="DIR", help=text)
    command.add_argument("--hours", type=float, metavar="H", help="begin no further run after so many hours")
    command.add_argument("--json", metavar="FILE", help="write the table to a file, too")
    command.add_argument("--only-print", action="store_true", help="run nothing: the table of what is there")
    command.add_argument("--no-ray", action="store_true", help="work in this process alone; Ray is not started")
    command.add_argument("--quiet", action="store_true", help="show results and errors, and no progress")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Make the runs of the configs that are named, and compare them; returns the exit code."""
    return compare(known, lambda: fields.executor(known.no_ray), console, errors)


def compare(known: argparse.Namespace, executor: MakeExecutor, console: Console, errors: Console) -> int:
    """Make every config's run with every seed, and print what came of it; returns the exit code.

    Args:
        known: the command's arguments.
        executor: whose work a run is.
        console: for the table and the progress.
        errors: for tracebacks.
    """
    if known.hours is not None and not known.hours >= 0:
        raise UserError(f"--hours: must not be negative, is {known.hours:g}")
    if twice := [file for file in known.configs if known.configs.count(file) > 1]:
        raise UserError(f"{twice[0]}: is named twice; other seeds are asked for with --seeds")
    runs = cells(_chosen(known), list(dict.fromkeys(known.seeds)))
    outcomes = {place: look(config) for place, config in runs.items()}
    try:
        if not known.only_print:
            _make(runs, outcomes, known, executor, console, errors)
    finally:
        table = _print(outcomes, console)
        if known.json:
            tables.write_json(known.json, table.to_pylist(maps_as_pydicts="strict"))
    return int(any(outcome.state == "failed" for outcome in outcomes.values()))


def _chosen(known: argparse.Namespace) -> dict[str, RunConfig]:
    """The configs by their names, with what the options lay over them."""
    flags = [] if known.images_per_class is None else ["--ipc", str(known.images_per_class)]
    chosen = named({file: fields.load_file(file, known.command, flags) for file in known.configs})
    if known.out is None:
        return chosen
    return {name: replace(config, out=f"{known.out}/{config.name}") for name, config in chosen.items()}


def named(loaded: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """Configs, which come by their files, by their names; or by their files where one name is that of several."""
    names = [config.name for config in loaded.values()]
    return {file if names.count(config.name) > 1 else config.name: config for file, config in loaded.items()}


def _make(
    runs: Mapping[SeededConfig, RunConfig],
    outcomes: dict[SeededConfig, RunOutcome],
    known: argparse.Namespace,
    executor: MakeExecutor,
    console: Console,
    errors: Console,
) -> None:
    def execute(config: RunConfig) -> None:
        if console.is_terminal:
            _print(outcomes, console)
        if not known.quiet:
            console.print(f"{escape(config.name)}, seed {config.seed}: {escape(config.out)}", soft_wrap=True)
        with shown_progress(console, known.quiet) as progress, executor() as worker:
            execution.execute(config, worker, progress)

    for name, seed in make(runs, outcomes, execute, known.hours):
        outcome = outcomes[name, seed]
        if outcome.traceback:
            errors.print(outcome.traceback, markup=False, soft_wrap=True)
        if not known.quiet:
            console.print(f"{escape(name)}, seed {seed}: {outcome.state}", soft_wrap=True)


def _print(outcomes: Mapping[SeededConfig, RunOutcome], console: Console) -> pa.Table:
    """Print the table, what differs from the first row, and what went wrong."""
    table = comparison.compare({place: outcome.records for place, outcome in outcomes.items()})
    shown = tables.comparison(table, {place: outcome.state for place, outcome in outcomes.items()})
    tables.print_whole(shown, console)
    found = probe_tables.compare({place: outcome.probes for place, outcome in outcomes.items()})
    if (of_probes := probes.comparison(found, table)) is not None:
        tables.print_whole(of_probes, console)
    for line in tables.differences(table):
        console.print(line, soft_wrap=True)
    for (name, seed), outcome in outcomes.items():
        if outcome.error:
            console.print(f"[bold red]failed:[/] {escape(f'{name}, seed {seed}: {outcome.error}')}", soft_wrap=True)
    return table
