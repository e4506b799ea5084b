"""The students of several runs, pooled: a line for those of one variant that differ in their seeds alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa

from raydd.evaluation.record import Subject
from raydd.evaluation.tables.collection import REAL, replaced
from raydd.evaluation.tables.summary import SummaryRow, final_stages, pool_draws, summarise, with_all_images

Facts = Mapping[str, Any]
"""What students have in common: `run`, `parameters` of a sweep, and `FIELDS`."""

FIELDS = (
    *("subject", "dataset", "method", "images_per_class", "labels", "network", "recipe", "mode", "budget", "stage"),
    *("augmentation", "optimizer", "epochs"),
)
_PARAMETER = "param."
_SUBJECTS = get_args(Subject)


@dataclass(frozen=True, kw_only=True)
class PooledLine:
    """Students of one variant that were trained alike, or of all runs where no method made their images."""

    variant: str
    """Empty for real images."""
    parameters: Mapping[str, float | str]
    """What a sweep set for them, by dotted path."""
    row: SummaryRow
    """One observation per student."""
    draws: SummaryRow
    """One observation per distillation, or draw of real images."""

    @property
    def facts(self) -> Facts:
        """What the line is about, in the form of a row of `scores.scores`."""
        said = [(path, str(value)) for path, value in self.parameters.items()]
        return {"run": self.variant, "parameters": said, **{name: getattr(self.row, name) for name in FIELDS}}

    @property
    def spread(self) -> float | None:
        """The sample standard deviation between distillations or draws; of one of them, between its students."""
        return self.row.std if self.draws.std is None else self.draws.std


def pool(table: pa.Table) -> list[PooledLine]:
    """Pool students that differ in their seeds alone; those of chains after each stage.

    Args:
        table: records as `collection.named` gives them.

    Returns:
        The variants' lines by name, subject and images per class, then those of real images.
    """
    parameters = [name for name in table.column_names if name.startswith(_PARAMETER)]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, row in enumerate(table.select(["run", "subject", *parameters]).to_pylist()):
        variant = "" if row["subject"] in REAL else row["run"]
        groups.setdefault((variant, *(row[name] for name in parameters)), []).append(number)
    paths = [name.removeprefix(_PARAMETER) for name in parameters]
    lines: list[PooledLine] = []
    for (variant, *values), numbers in groups.items():
        own = _without_method(table.take(pa.array(numbers, pa.int64())))
        chosen = {path: value for path, value in zip(paths, values, strict=True) if value is not None}
        rows = zip(with_all_images(summarise(own)), with_all_images(pool_draws(own)), strict=True)
        lines += [PooledLine(variant=variant, parameters=chosen, row=row, draws=draws) for row, draws in rows]
    return sorted(lines, key=_place)


def after_all_stages(lines: Iterable[PooledLine]) -> list[PooledLine]:
    """Of the lines of chains, which have one after every stage, the last stage's."""
    groups: dict[tuple[Any, ...], list[PooledLine]] = {}
    for line in lines:
        groups.setdefault((line.variant, *line.parameters.items()), []).append(line)
    return [line for own in groups.values() for line in _of_last_stage(own)]


def told_apart(rows: Sequence[Facts], names: Iterable[str]) -> list[str]:
    """The fields among `names` without which rows of one run, subject and sweep's point would be confused.

    Of fields that say the same (the budget of chains, where only chains have another), the first is enough.
    """
    chosen: list[str] = []
    seen = _distinct(rows, chosen)
    for name in names:
        more = _distinct(rows, [*chosen, name])
        if more > seen:
            chosen, seen = [*chosen, name], more
    return chosen


def _distinct(rows: Sequence[Facts], names: Sequence[str]) -> int:
    return len({(str(row["parameters"]), *(row[name] for name in ("run", "subject", *names))) for row in rows})


def _of_last_stage(lines: Sequence[PooledLine]) -> list[PooledLine]:
    last = final_stages([line.row for line in lines])
    return [line for line in lines if line.row in last]


def _without_method(table: pa.Table) -> pa.Table:
    """Records that name their subject as method where no method made the images."""
    rows = table.select(["subject", "method"]).to_pylist()
    return replaced(table, "method", [row["subject"] if row["subject"] in REAL else row["method"] for row in rows])


def _place(line: PooledLine) -> tuple[Any, ...]:
    row = line.row
    rank = _SUBJECTS.index(row.subject) if row.subject in _SUBJECTS else len(_SUBJECTS)
    return row.subject in REAL, line.variant, rank, row.images_per_class, row.stage, str((row, line.parameters))
