"""Scores of training sets: how much of their accuracy is the images', and what they take to store and to use.

DD-Ranking's four (https://arxiv.org/abs/2505.13300), of test accuracies as fractions, within one run:

    HLR = full data, hard labels - the set, hard labels                      (hard-label recovery; lower is better)
    IOR = the set - random images of the same number                         (improvement over random)
    LRS = normalised(w IOR - (1 - w) HLR), w = 1/2                           (label-robust score)
    ARS = normalised(g IOR + (1 - g) IOR without augmentation), g = 1/2      (augmentation-robust score)

Both sides of a difference have the same network, dataset, recipe, augmentation and, for IOR, labels: regimes are never
mixed. A score is null where one of the groups that it needs was not evaluated. Its standard error takes the means of
the groups for independent; it is null where one of them has no spread, such as a single student on all the data.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raydd.evaluation.tables.summary import SummaryRow, final_stages, pool_draws, summarise, with_all_images

SCHEMA = pa.schema(
    {
        "run": pa.string(),
        "parameters": pa.map_(pa.string(), pa.string()),
        "method": pa.string(),
        "subject": pa.string(),
        "dataset": pa.string(),
        "images_per_class": pa.int32(),
        "network": pa.string(),
        "recipe": pa.string(),
        "optimizer": pa.string(),
        "augmentation": pa.string(),
        "labels": pa.string(),
        "mode": pa.string(),
        "budget": pa.string(),
        "n": pa.int32(),
        "over": pa.string(),
        "accuracy": pa.float64(),
        "accuracy_error": pa.float64(),
        "hard_accuracy": pa.float64(),
        "random_accuracy": pa.float64(),
        "full_accuracy": pa.float64(),
        "hlr": pa.float64(),
        "hlr_error": pa.float64(),
        "ior": pa.float64(),
        "ior_error": pa.float64(),
        "lrs": pa.float64(),
        "lrs_error": pa.float64(),
        "ars": pa.float64(),
        "ars_error": pa.float64(),
        "bytes_per_class": pa.float64(),
        "image_bytes_per_class": pa.float64(),
        "label_bytes_per_class": pa.float64(),
        "teacher_bytes_per_class": pa.float64(),
        "optimizer_steps": pa.float64(),
        "teacher_forwards": pa.float64(),
        "seconds": pa.float64(),
    }
)
"""The columns of `scores`. Accuracies, HLR and IOR are fractions, LRS and ARS in 0..1; `..._error` are standard errors.
`parameters` are those of a sweep's point. `n` counts what `over` names: "seeds" (distillations, or draws) or, of one
set, "students". `ars` stands with the augmentation that is compared with `none`. The parts of `bytes_per_class` are
there where a teacher makes the labels; steps, forwards and seconds are those of one student."""

_WEIGHT = 0.5
_SAME_STEPS = 0.05
_PARAMETER = "param."
_SETTING = ("method", "dataset", "network", "recipe", "optimizer", "augmentation")
_SET = ("subject", "images_per_class", "mode", "budget", "stage", "epochs")


@dataclass(frozen=True, eq=False)
class StudentGroup:
    """Students that were trained alike, and what counts as one observation of them."""

    row: SummaryRow
    over: Literal["students", "seeds"]

    @property
    def mean(self) -> float:
        """Mean test accuracy of those that finished; somebody has."""
        assert self.row.mean is not None
        return self.row.mean

    @property
    def variance(self) -> float | None:
        """Of the mean; None for one observation."""
        return None if self.row.std is None else self.row.std**2 / self.row.n


Shares = Mapping[StudentGroup, float]
"""How much the mean of each group counts in a sum."""


def normalised(advantage: float) -> float:
    """DD-Ranking's scale of an advantage a: (e^a - 1/e) / (e - 1/e), which is 0 at -1, 0.269 at 0 and 1 at 1."""
    return (math.exp(advantage) - math.exp(-1)) / (math.e - math.exp(-1))


def scores(table: pa.Table) -> pa.Table:
    """Score the training sets that students were trained on, under each regime, network and augmentation.

    Args:
        table: records, as `records.read` gives them, of any number of runs.

    Returns:
        A row (see `SCHEMA`) for each group of students after the last stage, but for those on all the data and on
        random images.
    """
    lines = [
        named | _line(group, groups)
        for named, groups in evaluated(table)
        for group in groups
        if group.row.subject not in ("full", "random")
    ]
    return pa.Table.from_pylist(lines, SCHEMA)


def evaluated(table: pa.Table) -> Iterator[tuple[dict[str, Any], list[StudentGroup]]]:
    """The groups of each run, and of each point of a sweep, after the last stage, of which somebody finished.

    An observation is a student; of random images it is a draw, and of several distillations a distillation.

    Yields:
        `run` and `parameters` as in `SCHEMA`, and the groups.
    """
    names = ["run", *(name for name in table.column_names if name.startswith(_PARAMETER))]
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(table.select(names).to_pylist()):
        places.setdefault(tuple(row[name] for name in names), []).append(place)
    for (run, *values), own in places.items():
        part = table.take(pa.array(own, pa.int64()))
        pairs = zip(*(final_stages(with_all_images(f(part))) for f in (summarise, pool_draws)), strict=True)
        groups = [_group(*pair) for pair in pairs]
        said = [(name.removeprefix(_PARAMETER), value) for name, value in zip(names[1:], values, strict=True)]
        parameters = [(name, str(value)) for name, value in said if value is not None]
        yield {"run": run, "parameters": parameters}, [group for group in groups if group.row.n]


def on_all_data(group: StudentGroup, groups: Sequence[StudentGroup]) -> StudentGroup | None:
    """Those that were trained on all the data in the setting of a group; of several the longest."""
    found = _like(group, groups, _SETTING, subject="full", labels="hard")
    return max(found, key=lambda one: one.row.epochs, default=None)


def _group(students: SummaryRow, draws: SummaryRow) -> StudentGroup:
    pooled = students.subject == "random" or draws.n > 1
    return StudentGroup(draws, "seeds") if pooled else StudentGroup(students, "students")


def _line(group: StudentGroup, groups: Sequence[StudentGroup]) -> dict[str, Any]:
    row, random, full = group.row, _random(group, groups), on_all_data(group, groups)
    hard = next(_like(group, groups, (*_SETTING, *_SET), labels="hard"), None)
    plain = next(_like(group, groups, (*_SETTING, *_SET, "labels"), augmentation="none"), None)
    hlr, ior = _difference(full, hard), _difference(group, random)
    plain_ior = None if plain is None or plain is group else _difference(plain, _random(plain, groups))
    return {
        **{name: getattr(row, name) for name in (*_SETTING, *_SET, "labels") if name in SCHEMA.names},
        "n": row.n,
        "over": group.over,
        **{
            f"{name}_accuracy": None if found is None else found.mean
            for name, found in (("hard", hard), ("random", random), ("full", full))
        },
        **_said("accuracy", {group: 1.0}),
        **_said("hlr", hlr),
        **_said("ior", ior),
        **_said("lrs", _mixed(ior, _difference(hard, full)), scaled=True),
        **_said("ars", _mixed(ior, plain_ior), scaled=True),
        **_costs(row),
    }


def _random(group: StudentGroup, groups: Sequence[StudentGroup]) -> StudentGroup | None:
    """Those that were trained on as many random images by the same recipe, under the same labels, for as long."""
    found = _like(group, groups, (*_SETTING, "labels", "images_per_class"), subject="random")
    return next((one for one in found if _as_long(one.row, group.row)), None)


def _as_long(a: SummaryRow, b: SummaryRow) -> bool:
    """Whether they took as many epochs or, where one of them is a chain, optimiser steps within 5 %."""
    if a.mode == b.mode:
        return a.epochs == b.epochs
    return math.isclose(a.optimizer_steps or 0, b.optimizer_steps or 0, rel_tol=_SAME_STEPS)


def _like(
    group: StudentGroup, groups: Sequence[StudentGroup], names: Sequence[str], **wanted: str
) -> Iterator[StudentGroup]:
    """The groups that agree with one in all names, but for what is wanted."""
    values = {name: getattr(group.row, name) for name in names} | wanted
    return (one for one in groups if all(getattr(one.row, name) == value for name, value in values.items()))


def _difference(a: StudentGroup | None, b: StudentGroup | None) -> Shares | None:
    return None if a is None or b is None else {a: 1.0, b: -1.0}


def _mixed(a: Shares | None, b: Shares | None) -> Shares | None:
    """The two, half of each; a group that is in both counts with both of its shares."""
    if a is None or b is None:
        return None
    groups = dict.fromkeys((*a, *b))
    return {group: _WEIGHT * a.get(group, 0.0) + (1 - _WEIGHT) * b.get(group, 0.0) for group in groups}


def _said(name: str, shares: Shares | None, scaled: bool = False) -> dict[str, float | None]:
    """A sum of means, and its standard error, as two columns; on DD-Ranking's scale where it is `scaled`."""
    if shares is None:
        return {name: None, f"{name}_error": None}
    value = sum(share * group.mean for group, share in shares.items())
    variances = [None if group.variance is None else share**2 * group.variance for group, share in shares.items()]
    known = [variance for variance in variances if variance is not None]
    error = math.sqrt(sum(known)) if len(known) == len(variances) else None
    if scaled:
        slope = math.exp(value) / (math.e - math.exp(-1))
        value, error = normalised(value), None if error is None else slope * error
    return {name: value, f"{name}_error": error}


def _costs(row: SummaryRow) -> dict[str, float | None]:
    """Storage, by the number of classes, and what training one student takes."""
    totals = {
        "bytes_per_class": row.bytes_total,
        "image_bytes_per_class": row.metrics.get("bytes.images"),
        "label_bytes_per_class": row.metrics.get("bytes.labels"),
        "teacher_bytes_per_class": row.metrics.get("bytes.teacher"),
    }
    count = len(row.class_accuracy)
    stored = {name: total / count if count and total is not None else None for name, total in totals.items()}
    return {**stored, **{name: getattr(row, name) for name in ("optimizer_steps", "teacher_forwards", "seconds")}}
