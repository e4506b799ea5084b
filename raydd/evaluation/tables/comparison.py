"""Comparisons: several configurations, each distilled with several seeds, in one table.

A distillation is one observation: its value is the mean over its students, and the spread is that between
distillations, which students of one distilled set cannot show.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, get_args

import pyarrow as pa

from raydd.evaluation.record import Budget, StageMode
from raydd.evaluation.students.trials import SETS
from raydd.evaluation.tables.summary import CONDITIONS, SummaryRow, final_stages, summarise, with_all_images

SCHEMA = pa.schema(
    {
        "config": pa.string(),
        "method": pa.string(),
        "subject": pa.string(),
        "dataset": pa.string(),
        "network": pa.string(),
        "recipe": pa.string(),
        "augmentation": pa.string(),
        "labels": pa.string(),
        "mode": pa.string(),
        "budget": pa.string(),
        "stages": pa.int32(),
        "images_per_class": pa.int32(),
        "optimizer_steps": pa.float64(),
        "seeds": pa.int32(),
        "students": pa.int32(),
        "failed": pa.int32(),
        "mean": pa.float64(),
        "std": pa.float64(),
        "std_over": pa.string(),
        "seed_means": pa.map_(pa.int64(), pa.float64()),
        "reference": pa.string(),
        "difference": pa.float64(),
        "difference_std": pa.float64(),
    }
)
"""The columns of `compare`. Accuracies are fractions. `images_per_class` and `optimizer_steps` are those of all stages
together; `seeds` and `students` count what finished; `std_over` says whether `std` is between "seeds" or, of one seed,
"students"; `seed_means` has every seed that was asked for; `difference` is to the single-shot students of `reference`:
the first of the same method in the fewest stages, or of all for that one's own."""

_SUBJECTS = ("synthetic", "ema", "imported", "init", "random", "k_center", "herding", "full")
_SHARED = (
    "method",
    "subject",
    "dataset",
    "network",
    "recipe",
    "augmentation",
    "labels",
    "mode",
    "budget",
    "images_per_class",
)
_SAME_STEPS = 0.05
_ORDER = {
    name: place for names in (_SUBJECTS, get_args(StageMode), get_args(Budget)) for place, name in enumerate(names)
}

ComparisonLine = dict[str, Any]
BySeed = Mapping[int, SummaryRow | None]


def compare(tables: Mapping[tuple[str, int], pa.Table]) -> pa.Table:
    """Compare configurations over seeds, after the last stage.

    Args:
        tables: the records (as `records.read` gives them) of each configuration and distillation seed, in the order in
            which the configurations are to stand; empty where nothing was run.

    Returns:
        A row for each configuration, subject and way of training on it (see `SCHEMA`), the distilled set first and all
        real data last; one of nulls for a configuration of which nothing was run.
    """
    seeds = list(dict.fromkeys(seed for _, seed in tables))
    names = list(dict.fromkeys(name for name, _ in tables))
    found = {place: final_stages(with_all_images(summarise(table))) for place, table in tables.items()}
    rows = [
        _line(name, by_seed)
        for name in names
        for by_seed in _by_conditions({seed: found[name, seed] for seed in seeds if (name, seed) in found})
    ]
    return pa.Table.from_pylist([row | _difference(row, rows) for row in rows], SCHEMA)


def _by_conditions(found: Mapping[int, Sequence[SummaryRow]]) -> list[BySeed]:
    """One configuration's rows that belong together, in the table's order; of nothing, where nothing was run."""
    rows = {seed: {row.conditions: row for row in own if row.subject in _SUBJECTS} for seed, own in found.items()}
    every = sorted({conditions for own in rows.values() for conditions in own}, key=_place)
    nothing: BySeed = dict.fromkeys(found)
    return [{seed: own.get(conditions) for seed, own in rows.items()} for conditions in every] or [nothing]


def _place(conditions: tuple[Any, ...]) -> tuple[Any, ...]:
    named = dict(zip(CONDITIONS, conditions, strict=True))
    order = [_ORDER.get(named.pop(name), len(_ORDER)) for name in ("subject", "mode", "budget")]
    return order[0], named["network"], named["labels"], *order[1:], str(named)


def _line(config: str, by_seed: BySeed) -> ComparisonLine:
    """A row of the table; what students reached before the last stage does not count."""
    found = [row for row in by_seed.values() if row is not None]
    last = max(found, key=lambda row: row.stage, default=None)
    finished = {seed: row for seed, row in by_seed.items() if row and last and row.n and row.stage == last.stage}
    spread, over = _spread(list(finished.values()))
    return {
        "config": config,
        **{name: getattr(last, name, None) for name in _SHARED},
        "stages": last.stage + 1 if last else None,
        "optimizer_steps": _mean(row.optimizer_steps for row in finished.values()),
        "seeds": len(finished),
        "students": sum(row.n for row in finished.values()),
        "failed": sum(row.failed for row in found),
        "mean": _mean(row.mean for row in finished.values()),
        "std": spread,
        "std_over": over,
        "seed_means": [(seed, finished[seed].mean if seed in finished else None) for seed in by_seed],
    }


def _spread(finished: Sequence[SummaryRow]) -> tuple[float | None, str | None]:
    """The sample standard deviation of the seeds' means, or of one seed's students; and over which."""
    if len(finished) > 1:
        return stdev(row.mean for row in finished if row.mean is not None), "seeds"
    if finished and finished[0].std is not None:
        return finished[0].std, "students"
    return None, None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _difference(row: ComparisonLine, rows: Sequence[ComparisonLine]) -> ComparisonLine:
    """By how much a row is above its reference; nothing where there is none that it may be compared with."""
    reference = next(_comparable(row, rows), None)
    if reference is None:
        return dict.fromkeys(("reference", "difference", "difference_std"))
    between = all(one["std_over"] == "seeds" for one in (row, reference))
    return {
        "reference": reference["config"],
        "difference": row["mean"] - reference["mean"],
        "difference_std": math.hypot(row["std"], reference["std"]) if between else None,
    }


def _comparable(row: ComparisonLine, rows: Sequence[ComparisonLine]) -> Iterator[ComparisonLine]:
    """What a row may be compared with, best first: of its method in the fewest stages, then of the first of all."""
    single_shots = [one for one in rows if one["subject"] in SETS and one["mode"] == "single_shot"]
    own = min((one for one in rows if one["method"] == row["method"]), key=lambda one: one["stages"] or math.inf)
    for config in dict.fromkeys((own["config"], rows[0]["config"])):
        found = [one for one in single_shots if one["config"] == config]
        if row["mean"] is None or any(one is row for one in found):
            continue
        found = [one for one in found if one["mean"] is not None and _alike(row, one)]
        yield from sorted(found, key=lambda one: [one[name] != row[name] for name in ("labels", "augmentation")])


def _alike(row: ComparisonLine, reference: ComparisonLine) -> bool:
    """Whether two rows have the same data, network and number of images, and optimiser steps within 5 %."""
    same = all(row[name] == reference[name] for name in ("dataset", "network", "images_per_class"))
    steps, allowed = row["optimizer_steps"], _SAME_STEPS * reference["optimizer_steps"]
    return same and steps is not None and abs(steps - reference["optimizer_steps"]) <= allowed
