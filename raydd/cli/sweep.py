"""`raydd sweep`: other values of a config's fields, and one table of what they reach."""

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import fields, tables
from raydd.cli.fields import MakeExecutor, arguments
from raydd.cli.output import console, errors
from raydd.cli.progress import shown_progress
from raydd.config import RunConfig
from raydd.config.sweep import described
from raydd.pipeline.sweeps.sweep import BEST, InThisProcess, Swept, Workers
from raydd.pipeline.sweeps.sweep import sweep as try_points

__all__ = ["arguments", "run", "sweep"]

_TOLD = ("evaluate.networks", "evaluate.labels", "evaluate.baselines")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Try the points of the config that is named; returns the exit code."""
    chosen = fields.load(known, rest)
    for line in fields.told_of_methods(chosen):
        errors.print(line, soft_wrap=True, markup=False)
    return sweep(chosen, lambda: fields.executor(known.no_ray), known.no_ray, known.quiet, console)


def sweep(config: RunConfig, executor: MakeExecutor, no_ray: bool, quiet: bool, console: Console) -> int:
    """Try a config's points and print what came of them; returns the exit code.

    Args:
        config: with a `sweep`.
        executor: who makes what the points have in common.
        no_ray: try the points one after the other in this process.
        quiet: show no progress.
        console: for the table and the progress.
    """
    with shown_progress(console, quiet) as progress, executor() as worker:
        swept = try_points(config, worker, _workers(no_ray), progress)
    tables.print_whole(_table(swept), console)
    for line in _lines(swept):
        console.print(line, soft_wrap=True)
    return 0 if any(score.n for score in swept.scores) else 1


def _workers(no_ray: bool) -> Workers:
    """Who tries the points; Ray is imported where it is used."""
    if no_ray:
        return InThisProcess()
    from raydd.cluster.sweep import OnTune

    return OnTune()


def _table(swept: Swept) -> Table:
    """The best point of every training set, label regime and network; where nothing was measured to go by, all."""
    points = {point.number: point for point in swept.tried}
    title = "best points by validation accuracy" if swept.best else "all points; none is selected"
    table = Table(title=f"{title} ({escape(swept.folder.path.name if swept.folder.is_local else swept.folder.uri)})")
    for name in ("trained on", "labels", "network"):
        table.add_column(name)
    for name in ("per class", "point"):
        table.add_column(name, justify="right")
    table.add_column("values", overflow="fold")
    for name in ("validation %", "test %", "std", "n", "failed"):
        table.add_column(name, justify="right")
    for score in swept.best or swept.scores:
        table.add_row(
            score.subject,
            score.labels,
            score.network,
            str(score.images_per_class),
            str(score.point),
            escape(described(_said(points[score.point].parameters))),
            *(_percent(value) for value in (score.validation, score.mean, score.std)),
            str(score.n),
            str(score.failed or ""),
        )
    return table


def _lines(swept: Swept) -> list[str]:
    """What the table does not say."""
    points = {point.number: point for point in swept.tried}
    failed = {(score.point, error) for score in swept.scores for error in score.errors}
    given_up = {(point.number, point.error) for point in swept.tried if point.error is not None}
    said = [
        f"[bold red]{word}:[/] {escape(f'point {number} ({described(points[number].parameters)}): {error}')}"
        for word, errors in (("failed", failed), ("given up", given_up))
        for number, error in sorted(errors)
    ]
    if swept.chosen is None:
        said.append("nothing is selected: that goes by validation accuracy, which needs data.validation_fraction")
    else:
        said.append(f"best point's config: {escape((swept.folder / BEST).uri)}")
    said.append(f"records: {escape((swept.folder / 'results').uri)}")
    if swept.timing is not None:
        said.append(str(swept.timing))
    return said


def _said(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values that no other column tells."""
    return {path: value for path, value in parameters.items() if path not in _TOLD}


def _percent(value: float | None) -> str:
    return "" if value is None else format(100 * value, ".2f")
