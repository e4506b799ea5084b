"""Summaries: students that differ only in their seeds become one row with a mean and a spread.

Letters: K classes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean, stdev
from typing import Any, get_args

import pyarrow as pa

from raydd.evaluation.records import Subject

RecordRow = dict[str, Any]

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
    return _summarise(table.to_pylist())


def pool_draws(table: pa.Table) -> list[SummaryRow]:
    """Summarise records, one observation per `distill_seed`: a draw counts once, however many students share it.

    Students of one draw are not independent samples of what a random subset reaches: the spread over draws is the
    honest one for selections, and for a method distilled with several seeds.
    """
    students = table.to_pylist()
    finished = [row for row in students if row["status"] == "ok"]
    draws = [rows[0] | _average(rows) for rows in _split(finished, (*_GROUP, "distill_seed"))]
    return _summarise(draws + [row for row in students if row["status"] != "ok"])


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


def _summarise(rows: list[RecordRow]) -> list[SummaryRow]:
    return sorted((_summary_row(group) for group in _split(rows, _GROUP)), key=_place)


def _summary_row(group: list[RecordRow]) -> SummaryRow:
    finished = [row for row in group if row["status"] == "ok"]
    accuracies = tuple(row["test_accuracy"] for row in finished)
    averages = _average(finished)
    return SummaryRow(
        **{name: group[0][name] for name in _GROUP},
        n=len(accuracies),
        failed=len(group) - len(finished),
        mean=averages.pop("test_accuracy"),
        std=stdev(accuracies) if len(accuracies) > 1 else None,
        accuracies=accuracies,
        **averages,
    )


def _split(rows: list[RecordRow], names: tuple[str, ...]) -> Iterable[list[RecordRow]]:
    groups: dict[tuple[Any, ...], list[RecordRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups.values()


def _average(rows: list[RecordRow]) -> RecordRow:
    classes = [row["class_accuracy"] for row in rows if row["class_accuracy"]]
    per_class = tuple(fmean(accuracies) for accuracies in zip(*classes, strict=True))
    said = [dict(row["metrics"] or ()) for row in rows]
    metrics = {name: fmean(own[name] for own in said if name in own) for name in dict.fromkeys(chain(*said))}
    averages: RecordRow = {name: _mean(row[name] for row in rows) for name in _AVERAGED}
    return averages | {"class_accuracy": per_class, "metrics": metrics}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _place(row: SummaryRow) -> tuple[Any, ...]:
    """Sort by subject, then by the rest of the group, with what an older record lacks first."""
    rest = ((value is not None, value) for value in (getattr(row, name) for name in _GROUP[1:]))
    return (_RANK.get(row.subject, len(_RANK)), *rest)
