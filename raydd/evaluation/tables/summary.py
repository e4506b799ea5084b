"""Summaries: students that differ only in their seeds become one row with a mean and a spread.

Letters: K classes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydd.evaluation.record import PAIRS, SCHEMA, Subject

_GROUP = (
    "subject",
    "dataset",
    "method",
    "images_per_class",
    "stage",
    "network",
    "recipe",
    "epochs",
    "optimizer",
    "augmentation",
    "labels",
    "mode",
    "budget",
)
_OF_A_STAGE = ("images_per_class", "stage", "epochs")
CONDITIONS = tuple(name for name in _GROUP if name not in _OF_A_STAGE)
"""What one student's records, one after each stage of a chain, have in common."""
_AVERAGED = (
    "test_accuracy",
    "train_accuracy",
    "best_test_accuracy",
    "learned_lr",
    "optimizer_steps",
    "teacher_forwards",
    "bytes_total",
    "seconds",
)
_RANK = {subject: rank for rank, subject in enumerate(get_args(Subject))}


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """Students that were trained alike. Accuracies are fractions; what nobody measured is None."""

    subject: str
    dataset: str
    method: str
    images_per_class: int
    stage: int
    network: str
    recipe: str
    epochs: int
    optimizer: str
    augmentation: str
    labels: str
    mode: str
    budget: str
    n: int
    """Students that finished; from `pool_draws`, draws."""
    failed: int
    """Students that did not."""
    mean: float | None
    """Mean test accuracy; like every mean here, over those that finished."""
    std: float | None
    """Their sample standard deviation (n - 1 degrees of freedom); None for fewer than two."""
    accuracies: tuple[float, ...]
    """The n test accuracies that `mean` and `std` are taken over."""
    train_accuracy: float | None
    best_test_accuracy: float | None
    class_accuracy: tuple[float, ...]
    """Mean test accuracy of each class, K fractions; empty where it was not measured."""
    learned_lr: float | None
    optimizer_steps: float | None
    teacher_forwards: float | None
    """Images that a teacher was shown to label them for a student."""
    bytes_total: float | None
    """What the training set takes to store, with what its labels need."""
    seconds: float | None
    metrics: Mapping[str, float]
    """Means of what else the records say, each over the students that it was measured of."""

    @property
    def conditions(self) -> tuple[Any, ...]:
        """The values of `CONDITIONS`."""
        return tuple(getattr(self, name) for name in CONDITIONS)

    @property
    def worst_class(self) -> int | None:
        """The class with the lowest mean accuracy."""
        measured = [k for k, accuracy in enumerate(self.class_accuracy) if not math.isnan(accuracy)]
        return min(measured, key=self.class_accuracy.__getitem__, default=None)


@dataclass(frozen=True)
class Difference:
    """How far one mean lies above another."""

    mean: float
    standard_error: float | None
    """None where one of the two has no spread."""


def summarise(table: pa.Table) -> list[SummaryRow]:
    """Summarise records, one observation per student.

    Args:
        table: records, as `records.read` gives them.

    Returns:
        One row per group, the synthetic set's first, then its average, starting state, the selections, all the data.
    """
    return _summarise(table)


def pool_draws(table: pa.Table) -> list[SummaryRow]:
    """Summarise records, one observation per `distill_seed`: a draw counts once, however many students share it.

    Students of one draw are not independent samples of what a random subset reaches: the spread over draws is the
    honest one for selections, and for a method distilled with several seeds.
    """
    names = (*_GROUP, "status", *_AVERAGED, "class_accuracy", "metrics")
    observed = table.select(names).cast(
        pa.schema([pa.field(name, pa.float64() if name in _AVERAGED else SCHEMA.field(name).type) for name in names])
    )
    draws = [
        draw.select((*_GROUP, "status")).slice(0, 1).to_pylist()[0] | _average(draw)
        for draw in _split(_finished(table), (*_GROUP, "distill_seed"))
    ]
    pooled = [{**draw, "metrics": list(draw["metrics"].items())} for draw in draws]
    failed = observed.filter(pc.not_equal(observed["status"], "ok"))
    return _summarise(pa.concat_tables([pa.Table.from_pylist(pooled, observed.schema), failed]))


def final_stages(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Of the rows of chains, which have one after every stage, the last stage's; all rows of what has one stage."""
    last: dict[tuple[Any, ...], int] = {}
    for row in rows:
        last[row.conditions] = max(row.stage, last.get(row.conditions, row.stage))
    return [row for row in rows if row.stage == last[row.conditions]]


def with_all_images(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows with the images per class of all stages so far, where records count one stage's alone (new_only)."""
    own: dict[tuple[Any, ...], dict[int, int]] = {}
    for row in rows:
        own.setdefault(row.conditions, {})[row.stage] = row.images_per_class
    return [
        replace(row, images_per_class=sum(count for stage, count in own[row.conditions].items() if stage <= row.stage))
        if row.mode == "new_only"
        else row
        for row in rows
    ]


def difference(a: SummaryRow, b: SummaryRow) -> Difference:
    """Compare two groups: the difference of the means and its standard error, sqrt(s_a^2 / n_a + s_b^2 / n_b).

    Raises:
        ValueError: nobody finished in one of the two.
    """
    if a.mean is None or b.mean is None:
        raise ValueError("a group without a finished student cannot be compared")
    if a.std is None or b.std is None:
        return Difference(a.mean - b.mean, None)
    return Difference(a.mean - b.mean, math.sqrt(a.std**2 / a.n + b.std**2 / b.n))


def _summarise(table: pa.Table) -> list[SummaryRow]:
    return sorted((_summary_row(group) for group in _split(table, _GROUP)), key=_place)


def _summary_row(group: pa.Table) -> SummaryRow:
    finished = _finished(group)
    accuracies = tuple(finished["test_accuracy"].to_pylist())
    averages = _average(finished)
    return SummaryRow(
        **{name: group[name][0].as_py() for name in _GROUP},
        n=len(accuracies),
        failed=len(group) - len(finished),
        mean=averages.pop("test_accuracy"),
        std=stdev(accuracies) if len(accuracies) > 1 else None,
        accuracies=accuracies,
        **averages,
    )


def _finished(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def _split(table: pa.Table, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows that are equal in some columns, together; in the order in which the first of each stands."""
    codes = np.zeros(len(table), np.int64)
    for name in names:
        encoded = table[name].combine_chunks().dictionary_encode("encode")
        own = encoded.indices.to_numpy(zero_copy_only=False)
        _, codes = np.unique(codes * len(encoded.dictionary) + own, return_inverse=True)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    groups = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    return (table.take(groups[code]) for code in np.argsort(first))


def _average(students: pa.Table) -> dict[str, Any]:
    """Means of what is measured, over those of whom it was."""
    averages: dict[str, Any] = {name: _mean(students[name]) for name in _AVERAGED}
    return averages | {"class_accuracy": _per_class(students), "metrics": _metrics(students)}


def _mean(values: pa.ChunkedArray) -> float | None:
    known = values.drop_null().to_pylist()
    return fmean(known) if known else None


def _per_class(students: pa.Table) -> tuple[float, ...]:
    classes = filter(None, students["class_accuracy"].to_pylist())
    return tuple(fmean(accuracies) for accuracies in zip(*classes, strict=True))


def _metrics(students: pa.Table) -> dict[str, float]:
    pairs = pc.list_flatten(students["metrics"].cast(PAIRS))
    names, values = pc.struct_field(pairs, "key"), pc.struct_field(pairs, "value")
    return {name: fmean(values.filter(pc.equal(names, name)).to_pylist()) for name in names.unique().to_pylist()}


def _place(row: SummaryRow) -> tuple[Any, ...]:
    """Sort by subject, then by the rest of the group, with what an older record lacks first."""
    rest = ((value is not None, value) for value in (getattr(row, name) for name in _GROUP[1:]))
    return (_RANK.get(row.subject, len(_RANK)), *rest)
