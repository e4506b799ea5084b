"""What the command line prints as tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli.output import PlainConsole
from raydd.data.placement import Residence
from raydd.evaluation.tables import words
from raydd.evaluation.tables.summary import SummaryRow, final_stages
from raydd.pipeline.compare import SeededConfig
from raydd.pipeline.runs.run import Run
from raydd.plan import Plan
from raydd.storage import Folder

_NO_NUMBER = {"not run": "not run", "unfinished": "unfinished", "failed": "failed", "finished": "no student"}
"""What stands in place of a mean, by the state of the run."""
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def results(run: Run, every: Sequence[SummaryRow]) -> Table:
    """Mean and spread of the students' test accuracy after the last stage, one row for each training set."""
    rows = final_stages(every)
    ways = ("augmentation", "mode", "budget", "stage")
    told_apart = [name for name in ways if len({getattr(row, name) for row in rows} - {None}) > 1]
    table = Table(title=f"test accuracy, last epoch ({escape(run.config.name)})")
    for name in ("trained on", "labels", *told_apart, "network"):
        table.add_column(name)
    for name in ("%", "std", "n", "failed", "lr", "steps", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            words.SUBJECTS[row.subject],
            words.labels(row.labels),
            *(str(getattr(row, name)) for name in told_apart),
            row.network,
            _number(row.mean, 100, ".2f"),
            _number(row.std, 100, ".2f"),
            str(row.n),
            str(row.failed or ""),
            _number(row.learned_lr, 1, ".4g"),
            _number(row.optimizer_steps, 1, ".0f"),
            _number(row.seconds, 1, ".1f"),
        )
    if len(rows) < len(every):
        table.caption = "after the last stage; the report has the curve over all stages"
    return table


def comparison(compared: pa.Table, states: Mapping[SeededConfig, str]) -> Table:
    """What `raydd.evaluation.tables.comparison.compare` found, with the state of each run where it has no number."""
    rows, seeds = compared.to_pylist(maps_as_pydicts="strict"), list(dict.fromkeys(seed for _, seed in states))
    told_apart = _told_apart(rows)
    table = Table(title="test accuracy, last epoch, after the last stage")
    for name in ("config", "trained on", *told_apart, "mode", "budget"):
        table.add_column(name, overflow="fold")
    numbers = ("stages", "images/class", "steps", "seeds", "students", "failed", "mean %", "std", "over")
    for name in (*numbers, *(f"seed {seed}" for seed in seeds)):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        means = {seed: _number(mean, 100, ".2f") for seed, mean in row["seed_means"].items()}
        table.add_row(
            escape(row["config"]),
            *(row[name] or "" for name in ("subject", *told_apart, "mode", "budget")),
            *(_number(row[name], 1, ".0f") for name in ("stages", "images_per_class", "optimizer_steps")),
            *(str(row[name] or "") for name in ("seeds", "students", "failed")),
            _number(row["mean"], 100, ".2f"),
            _number(row["std"], 100, ".2f"),
            row["std_over"] or "",
            *(means[seed] or _NO_NUMBER[states[row["config"], seed]] for seed in seeds),
        )
    return table


def differences(compared: pa.Table) -> Iterator[str]:
    """A line for every row that can be compared with its reference's single-shot students."""
    rows = compared.to_pylist()
    told_apart = _told_apart(rows)
    for row in rows:
        if row["difference"] is None:
            continue
        points, spread = 100 * row["difference"], row["difference_std"]
        words = f"{points:+.2f} points, of too few seeds for a spread"
        if spread is not None:
            beyond = "beyond" if abs(row["difference"]) > spread else "within"
            words = f"{points:+.2f} +- {100 * spread:.2f} points, {beyond} one standard deviation"
        named = [row["config"], *[row["subject"]] * (row["subject"] != "synthetic")]
        named += [row[name] for name in (*told_apart, "mode", *["budget"] * (row["mode"] != "single_shot"))]
        yield f"{escape(', '.join(named))} - {escape(row['reference'])}, single_shot = {words}"


def print_whole(table: Table, console: Console) -> None:
    """Print a table, as wide as it is where that is no terminal, whose lines would be folded."""
    width = console.measure(table, options=console.options.update(width=10_000)).maximum
    whole = console if console.is_terminal else PlainConsole(file=console.file, width=width, highlight=False)
    whole.print(table)


def write_json(file: str, values: Any) -> None:
    """Write plain values to a file."""
    folder, name = Folder.of_file(file)
    folder.write(name, json.dumps(values, indent=2).encode())


def plan(made: Plan, seconds: Mapping[str, float], title: str) -> Table:
    """What each kind of work takes, and the artefacts that it makes.

    Args:
        made: the plan.
        seconds: of each kind, as far as known.
        title: says where and how that is.
    """
    total = made.total
    spent = {**seconds, total.work: sum(seconds.values())} if seconds else {}
    unknown = f"\nnot counted: {escape(total.left_out)}" if total.left_out else ""
    table = Table(title=title, caption=residence(made.residence) + unknown)
    table.add_column("work", no_wrap=True)
    table.add_column("makes", overflow="fold")
    for name in ("time", "units", "steps", "FLOP", "disk", "work/", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in (*made.steps, total):
        table.add_row(
            step.work,
            step.makes,
            duration(spent[step.work]) if step.work in spent else "",
            str(step.units),
            f"{step.optimizer_steps:,}" if step.optimizer_steps else "",
            scaled(step.flops),
            scaled(step.disk_bytes, "B"),
            scaled(step.working_disk_bytes, "B"),
            scaled(step.peak_memory_bytes, "B"),
        )
    return table


def residence(found: Residence) -> str:
    """Where the pixels of the real images are."""
    if found.streamed:
        return "data: streamed from files"
    return f"data: resident, {scaled(found.pixel_bytes, 'B')} of {scaled(found.memory_bytes, 'B')}"


def _told_apart(rows: list[dict[str, Any]]) -> list[str]:
    """Which of labels, network and augmentation differ between rows."""
    return [name for name in ("labels", "network", "augmentation") if len({row[name] for row in rows} - {None}) > 1]


def duration(seconds: float) -> str:
    """In the largest unit of which there is one, with two decimals from a minute on."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.2f} {name}"
    return f"{seconds:.1f} s"


def scaled(count: float, unit: str = "") -> str:
    """Three digits and a prefix."""
    power = min((len(str(round(float(f"{count:.3g}")))) - 1) // 3, len(_PREFIXES) - 1)
    return f"{count / 1000**power:.3g} {_PREFIXES[power]}{unit}".rstrip()


def _number(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(value * scale, form)
