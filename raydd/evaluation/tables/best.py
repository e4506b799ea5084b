"""What a sweep found: how the students of every point did, and which point is the best, by validation accuracy alone.

Training sets, label regimes and networks are never compared with each other: each has a best point of its own, so that
what a set is compared with had the same search as the set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, get_args

import pyarrow as pa

from raydd.evaluation.record import Subject

_CELL = ("subject", "labels", "network", "images_per_class", "dataset", "mode", "budget")
_WITHIN = ("recipe", "augmentation", "optimizer", "epochs")
"""What students of one point and cell may differ in, beside their seeds; each has a score of its own."""
_RANK: dict[str, int] = {subject: rank for rank, subject in enumerate(get_args(Subject))}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A point of a sweep and the students that it has."""

    number: int
    parameters: Mapping[str, Any]
    record_ids: tuple[str, ...]
    """Of its students, after all stages; points that determine the same student share its record."""
    error: str | None = None
    """Why there are no students, where there cannot be any."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The students of one point that were trained alike. Accuracies are fractions."""

    point: int
    subject: str
    labels: str
    network: str
    images_per_class: int
    dataset: str
    mode: str
    budget: str
    augmentation: str
    n: int
    """Students that finished."""
    failed: int
    """Students that did not."""
    validation: float | None
    """Mean validation accuracy; None where a student failed, or there is no validation split."""
    mean: float | None
    """Mean test accuracy of those that finished."""
    std: float | None
    """Its sample standard deviation (n - 1 degrees of freedom); None for fewer than two."""
    errors: tuple[str, ...]
    """Of those that failed."""

    @property
    def cell(self) -> tuple[Any, ...]:
        """What is compared with each other has this in common."""
        return tuple(getattr(self, name) for name in _CELL)


def scores(tried: Sequence[Tried], table: pa.Table) -> list[Score]:
    """How the students of every point did: cell by cell, in each in the order of the points.

    Args:
        tried: the points.
        table: records, as `records.read` gives them; of others than these points', too.
    """
    by_id = {row["record_id"]: row for row in table.to_pylist()}
    found = [score for point in tried for score in _of_point(point, by_id)]
    return sorted(found, key=lambda score: (_RANK[score.subject], score.cell, score.point))


def best(found: Sequence[Score]) -> list[Score]:
    """Of every cell the score with the highest mean validation accuracy, the earliest point's of equals.

    Points of which a student failed are left out, and cells of which nothing was measured on validation data.
    """
    cells: dict[tuple[Any, ...], list[tuple[float, int, Score]]] = {}
    for score in found:
        if score.validation is not None:
            cells.setdefault(score.cell, []).append((score.validation, -score.point, score))
    return [max(cell, key=lambda one: one[:2])[2] for cell in cells.values()]


def _of_point(point: Tried, by_id: Mapping[str, dict[str, Any]]) -> list[Score]:
    rows = [by_id[name] for name in dict.fromkeys(point.record_ids) if name in by_id]
    names = (*_CELL, *_WITHIN)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return [_score(point.number, group) for group in groups.values()]


def _score(number: int, group: Sequence[dict[str, Any]]) -> Score:
    finished = [row for row in group if row["status"] == "ok"]
    tests = [row["test_accuracy"] for row in finished]
    validations = [row["validation_accuracy"] for row in group]
    return Score(
        point=number,
        **{name: group[0][name] for name in (*_CELL, "augmentation")},
        n=len(finished),
        failed=len(group) - len(finished),
        validation=None if None in validations else fmean(validations),
        mean=fmean(tests) if tests else None,
        std=stdev(tests) if len(tests) > 1 else None,
        errors=tuple(row["error"] for row in group if row["status"] != "ok"),
    )
