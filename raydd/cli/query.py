"""`raydd report RUN...`: the students of several runs, as a table, a CSV or Markdown file, or a page."""

import argparse
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.cli.output import console
from raydd.core.csv_text import csv_text
from raydd.evaluation.tables import collection, query
from raydd.evaluation.tables.collection import Collection
from raydd.evaluation.tables.pooling import FIELDS, PooledLine, after_all_stages, pool, told_apart
from raydd.evaluation.tables.query import Condition
from raydd.storage import Folder

_ALWAYS = ("images_per_class", "labels")
_MEASURED = ("learned_lr", "optimizer_steps", "teacher_forwards", "bytes_total", "seconds")

Cells = list[list[str]]


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or folders that contain some")
    command.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="only students for which it holds, such as labels=hard or 'images_per_class>=10'; several: all of them",
    )
    command.add_argument("--csv", metavar="FILE", help="write the table to a file, with every column")
    command.add_argument("--markdown", metavar="FILE", help="write the table to a file, as it is printed")
    command.add_argument("--html", metavar="FILE", help="write the page that compares them")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Compare the runs that are named; returns the exit code."""
    return report(known, console)


def report(known: argparse.Namespace, console: Console) -> int:
    """Summarise the students of the runs that pass the conditions; returns the exit code.

    Where none passes, the table is empty, files have a header alone, and no page is written.

    Args:
        known: the command's arguments.
        console: for the table.

    Raises:
        UserError: a folder holds no record, or a condition cannot be understood.
    """
    conditions = [query.parse(text) for text in known.where]
    found = collection.collect([Folder.at(run) for run in known.runs])
    table = query.select(found.table, conditions)
    lines = sorted(after_all_stages(pool(collection.named(table, found.owners))), key=_place)
    header, rows = _shown(lines)
    tables.print_whole(_printed(header, rows), console)
    if not lines:
        asked = " and ".join(map(str, conditions))
        console.print(f"none of {found.table.num_rows:,} students passes {escape(asked)}", soft_wrap=True)
    for file, text in ((known.csv, csv_text(*_whole(lines))), (known.markdown, _markdown(header, rows))):
        if file:
            _write(file, text)
    if known.html and lines:
        _write(known.html, _page(found, table, conditions))
        console.print(f"page: {escape(known.html)}", soft_wrap=True)
    return 0


def _page(found: Collection, table: pa.Table, conditions: Sequence[Condition]) -> str:
    """The figures' library is loaded here: it would keep every command waiting."""
    from raydd.report import several_runs

    return several_runs.build(found, table, conditions)


def _place(line: PooledLine) -> tuple[Any, ...]:
    """Best first within a dataset, a number of images per class and a label regime."""
    row = line.row
    return row.dataset, row.images_per_class, row.labels, -(row.mean or 0.0)


def _shown(lines: Sequence[PooledLine]) -> tuple[list[str], Cells]:
    """The table to read: what tells lines apart, and accuracies in per cent."""
    named = ("subject", "method", "dataset", *_ALWAYS)
    datasets = ["dataset"] * (len({line.row.dataset for line in lines}) > 1)
    fields = told_apart([line.facts for line in lines], (*named, *(name for name in FIELDS if name not in named)))
    fields = [*datasets, *_ALWAYS, *(name for name in fields if name not in named)]
    parameters = _parameters(lines)
    has_draws = any(line.draws.n > 1 for line in lines)
    numbers = ["mean %", "sd", "n", *["draws", "sd of draws"] * has_draws, "failed"]
    rows = [
        [
            line.variant,
            line.row.subject,
            *(str(getattr(line.row, name)) for name in fields),
            *(str(line.parameters.get(path, "")) for path in parameters),
            *(_percent(line.row.mean), _percent(line.row.std), str(line.row.n)),
            *[str(line.draws.n), _percent(line.draws.std)] * has_draws,
            str(line.row.failed or ""),
        ]
        for line in lines
    ]
    return ["run", "trained on", *(name.replace("_", " ") for name in fields), *parameters, *numbers], rows


def _whole(lines: Sequence[PooledLine]) -> tuple[list[str], list[list[Any]]]:
    """The table to compute with: every column, and the metrics that are not of a part; accuracies in per cent."""
    parameters = _parameters(lines)
    header = ["run", *FIELDS, *(f"param.{path}" for path in parameters), "mean_percent", "sd_percent", "n", "failed"]
    header += ["draws", "sd_of_draws_percent", "worst_class_percent", "train_percent", *_MEASURED]
    metrics = sorted({name for line in lines for name in line.row.metrics if "." not in name})
    header += [f"metrics.{name}" for name in metrics]
    rows = []
    for line in lines:
        row, draws = line.row, line.draws
        worst = None if row.worst_class is None else row.class_accuracy[row.worst_class]
        rows.append(
            [
                line.variant,
                *(getattr(row, name) for name in FIELDS),
                *(line.parameters.get(path) for path in parameters),
                *(_scaled(row.mean), _scaled(row.std), row.n, row.failed),
                *(draws.n, _scaled(draws.std), _scaled(worst), _scaled(row.train_accuracy)),
                *(getattr(row, name) for name in _MEASURED),
                *(row.metrics.get(name) for name in metrics),
            ]
        )
    return header, rows


def _parameters(lines: Sequence[PooledLine]) -> list[str]:
    return sorted({path for line in lines for path in line.parameters})


def _printed(header: Sequence[str], rows: Cells) -> Table:
    caption = "sd: of n students; draws: distillations, or draws of real images, which are pooled over runs"
    table = Table(title="test accuracy, last epoch, after the last stage", caption=caption)
    first_number = header.index("mean %")
    for place, name in enumerate(header):
        table.add_column(escape(name), justify="right" if place >= first_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _markdown(header: Sequence[str], rows: Cells) -> str:
    """A pipe table, numbers to the right."""
    first_number = header.index("mean %")
    rule = ["--:" if place >= first_number else "---" for place in range(len(header))]
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines.insert(1, rule)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _write(file: str, text: str) -> None:
    folder, name = Folder.of_file(file)
    folder.write(name, text.encode())


def _scaled(fraction: float | None) -> float | None:
    """Per cent, without the noise of the last bits."""
    return None if fraction is None else round(100 * fraction, 6)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"
