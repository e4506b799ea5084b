"""What the command line prints of probes."""

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.evaluation.record import Probe
from raydd.evaluation.students.trials import SETS
from raydd.evaluation.tables import probe_tables
from raydd.evaluation.tables.probe_tables import TITLES, ProbeRow
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import probes

_Line = tuple[str, str, str]
"""Probe, metric and kind."""

_ACCURACY: Final = ("", "test accuracy", "")
_LEADING: Final[tuple[_Line, ...]] = (
    ("copies", "pixel_copies", ""),
    ("copies", "feature_copies", ""),
    ("membership", "lira_auc", ""),
    ("membership", "lira_tpr_at_1_percent", ""),
    ("robustness", "robust_accuracy_2", ""),
    ("robustness", "robust_accuracy_8", ""),
    ("robustness", "corrupted_accuracy", ""),
    ("continual", "average_accuracy", ""),
    ("continual", "average_accuracy", "random_bytes"),
    ("continual", "average_accuracy", "herding_bytes"),
    ("continual", "forgetting", ""),
    ("search", "spearman", ""),
    ("search", "regret", ""),
    ("search", "spearman", "early_stopping"),
    ("realism", "confidence", ""),
    ("realism", "coverage", ""),
    ("realism", "mmd", ""),
)
"""The lines of the one table over configurations."""


def print_all(run: Run, console: Console) -> None:
    """Print a table for every probe that the config asks for."""
    if not run.config.evaluate.probes:
        return
    found = probe_tables.rows(probes.answers(run))
    for probe in run.config.evaluate.probes:
        tables.print_whole(_of(probe, [row for row in found if row.probe == probe], run.config.name), console)


def _of(probe: Probe, rows: list[ProbeRow], name: str) -> Table:
    """Mean and spread over the answers, a row for each training set."""
    metrics = probe_tables.shown(probe, dict.fromkeys(metric for row in rows for metric in row.values))
    table = Table(title=f"{TITLES[probe].lower()} ({escape(name)})")
    for title in ("trained on", "beside it", "labels"):
        table.add_column(title)
    for title in (*(metric.replace("_", " ") for metric in metrics), "n", "failed"):
        table.add_column(title, justify="right", overflow="fold")
    for row in rows:
        numbers = [_number(*row.values.get(metric, (None, None))) for metric in metrics]
        table.add_row(row.subject, row.kind, row.labels, *numbers, str(row.count), str(row.failed or ""))
    return table


def comparison(compared: pa.Table, accuracies: pa.Table) -> Table | None:
    """The one table over configurations: a column for every set, and a row for every leading metric of its probes.

    Of several regimes of labels it has the one that comes with the set; the tables of runs have all. None where nothing
    was asked.

    Args:
        compared: as `probe_tables.compare` gives it.
        accuracies: as `raydd.evaluation.tables.comparison.compare` gives it.
    """
    found = _by_set(compared, accuracies)
    lines = [place for place in _LEADING if any(place in cells for cells in found.values())]
    if not lines:
        return None
    table = Table(title="probes: mean over n seeds ± sample standard deviation, of one seed over its (answers)")
    for title in ("probe", "metric", "of"):
        table.add_column(title)
    for config, subject in found:
        table.add_column(escape(f"{config}: {subject}"), justify="right", overflow="fold")
    table.add_row("", "n", "", *(str(max(cell["seeds"] for cell in cells.values())) for cells in found.values()))
    for line in (_ACCURACY, *lines):
        words = (word.replace("_", " ") for word in line)
        table.add_row(*words, *(_cell(cells.get(line)) for cells in found.values()))
    return table


def _by_set(compared: pa.Table, accuracies: pa.Table) -> dict[tuple[str, str], dict[_Line, Mapping[str, Any]]]:
    """What is known by configuration and subject, the sets themselves first, and in these by line of the table.

    What stands beside a set is among its own.
    """
    found: dict[tuple[str, str], dict[_Line, Mapping[str, Any]]] = {}
    place = {name: number for number, name in enumerate(dict.fromkeys(accuracies["config"].to_pylist()))}
    own_first = sorted(
        accuracies.to_pylist(),
        key=lambda row: (row["subject"] not in SETS, place[row["config"]], row["labels"] == "hard"),
    )
    for row in own_first:
        if row["mode"] == "single_shot":
            cells = found.setdefault((row["config"], row["subject"]), {})
            cells.setdefault(_ACCURACY, row | {"answers": row["students"]})
    for row in compared.to_pylist():
        cells = found.get((row["config"], row["subject"]), {})
        if cells and row["labels"] == cells[_ACCURACY]["labels"]:
            cells[row["probe"], row["metric"], row["kind"]] = row
    return found


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    answers = "" if row["std_over"] in (None, "seeds") else f" ({row['answers']})"
    return _number(row["mean"], row["std"]) + answers


def _number(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    form = ",.0f" if abs(mean) >= 1000 else ".3f"
    return format(mean, form) + ("" if std is None else f" ± {format(std, form)}")
