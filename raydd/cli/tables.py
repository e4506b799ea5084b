"""What the command line prints as tables."""

from rich.markup import escape
from rich.table import Table

from raydd.evaluation import records
from raydd.evaluation.summary import summarise
from raydd.pipeline.run import Run
from raydd.plan import Plan


def results(run: Run) -> Table:
    """Mean and spread of the students' test accuracy, one row for each training set."""
    table = Table(title=f"test accuracy, last epoch ({escape(run.config.name)})")
    for name, justify in (("trained on", "left"), ("labels", "left"), ("network", "left"), ("%", "right"),
                          ("std", "right"), ("n", "right"), ("failed", "right"), ("lr", "right"),
                          ("steps", "right"), ("seconds", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in summarise(records.read(run.results)):
        table.add_row(
            row.subject,
            row.labels,
            row.network,
            _number(row.mean, 100, ".2f"),
            _number(row.std, 100, ".2f"),
            str(row.n),
            str(row.failed or ""),
            _number(row.learned_lr, 1, ".4g"),
            _number(row.optimizer_steps, 1, ".0f"),
            _number(row.seconds, 1, ".1f"),
        )
    return table


def plan(made: Plan) -> Table:
    """What each kind of work takes, and the artefacts that it makes."""
    table = Table(title="plan")
    for name in ("work", "makes"):
        table.add_column(name)
    for name in ("units", "TFLOP", "disk MB", "work MB", "memory MB"):
        table.add_column(name, justify="right")
    for step in (*made.steps, made.total):
        table.add_row(
            step.work,
            step.makes,
            str(step.units),
            f"{step.flops / 1e12:.3g}",
            _megabytes(step.disk_bytes),
            _megabytes(step.working_disk_bytes),
            _megabytes(step.peak_memory_bytes),
        )
    return table


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _number(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(value * scale, form)
