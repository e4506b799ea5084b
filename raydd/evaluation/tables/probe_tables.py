"""What probes found, put together: answers that differ in seeds, draws or orders alone become one row.

Comparisons of configurations over distillation seeds are made as those of accuracies are: a distillation is one
observation, and its value is the mean over its answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final, get_args

import pyarrow as pa

from raydd.evaluation.probes import search
from raydd.evaluation.probes.search import Searched
from raydd.evaluation.record import Probe, Subject

HEADLINES: Final[Mapping[Probe, tuple[str, ...]]] = {
    "copies": ("pixel_copies", "feature_copies", "moved_copies"),
    "membership": ("lira_auc", "lira_tpr_at_1_percent", "lira_tpr_at_0_1_percent", "loss_auc"),
    "robustness": ("robust_accuracy", "clean_accuracy", "corrupted_accuracy"),
    "continual": ("average_accuracy", "final_accuracy", "forgetting", "memory_bytes"),
    "search": ("spearman", "kendall", "top_spearman", "regret"),
    "realism": ("confidence", "accuracy", "density", "coverage", "mmd"),
}
"""The metrics that lead, or how the names of several begin."""
TITLES: Final[Mapping[Probe, str]] = {
    "copies": "Copies",
    "membership": "Membership inference",
    "robustness": "Robustness",
    "continual": "Continual learning",
    "search": "Architecture search",
    "realism": "Realism and coverage",
}
SCHEMA: Final = pa.schema(
    {
        "config": pa.string(),
        "method": pa.string(),
        "dataset": pa.string(),
        "images_per_class": pa.int32(),
        "probe": pa.string(),
        "subject": pa.string(),
        "kind": pa.string(),
        "labels": pa.string(),
        "metric": pa.string(),
        "seeds": pa.int32(),
        "answers": pa.int32(),
        "failed": pa.int32(),
        "mean": pa.float64(),
        "std": pa.float64(),
        "std_over": pa.string(),
        "seed_means": pa.map_(pa.int64(), pa.float64()),
    }
)
"""The columns of `compare`, one metric a row. `std` is between the means of "seeds" or, of one seed, over its
"answers"."""

_SET: Final = "set"
_RANK: Final = {name: place for place, name in enumerate((*get_args(Probe), *get_args(Subject)))}


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """What a probe found of one training set of a run."""

    run: str
    method: str
    dataset: str
    images_per_class: int
    probe: Probe
    subject: str
    """The training set; memories of as many random or chosen images are that subject's."""
    labels: str
    kind: str
    """What stands beside the set: a memory of as many bytes, or early stopping. Empty for the set itself."""
    count: int
    """Answers."""
    failed: int
    values: Mapping[str, tuple[float, float | None]]
    """Mean and sample standard deviation over the answers, by metric; of architectures, over sets."""

    @property
    def place(self) -> tuple[str, ...]:
        """What rows of several runs have in common that belong together."""
        return self.probe, self.subject, self.kind, self.labels


def rows(table: pa.Table) -> list[ProbeRow]:
    """Put answers together that differ in seeds, draws or orders alone.

    Args:
        table: as `records.read_probes` gives it, of any number of runs.

    Returns:
        By run and probe, the distilled set first and all real data last.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.to_pylist(maps_as_pydicts="strict"):
        if row["probe"] != "search":
            subject, kind = _place(row)
            own = (*(row[name] for name in ("run", "method", "dataset", "images_per_class", "probe", "labels")),)
            groups.setdefault((*own, subject, kind), []).append(row)
    found = [_row(subject, kind, own) for (*_, subject, kind), own in groups.items()]
    return sorted([*found, *_searches(table)], key=_order)


def shown(probe: Probe, names: Iterable[str]) -> list[str]:
    """Those of some metrics that lead, in their order."""
    known = list(names)
    return [name for head in HEADLINES[probe] for name in known if name == head or name.startswith(f"{head}_")]


def compare(tables: Mapping[tuple[str, int], pa.Table]) -> pa.Table:
    """Compare what probes found of configurations over distillation seeds.

    Args:
        tables: as `records.read_probes` gives them, of each configuration and seed; empty where nothing was asked.

    Returns:
        See `SCHEMA`; in the order of the configurations.
    """
    names = list(dict.fromkeys(name for name, _ in tables))
    found = {place: rows(table) for place, table in tables.items()}
    return pa.Table.from_pylist(
        [
            line
            for name in names
            for own in _by_place({seed: found[config, seed] for config, seed in tables if config == name})
            for line in _lines(name, own)
        ],
        SCHEMA,
    )


def _by_place(found: Mapping[int, Sequence[ProbeRow]]) -> list[dict[int, ProbeRow]]:
    """Rows of several seeds that belong together."""
    places: dict[tuple[str, ...], dict[int, ProbeRow]] = {}
    for seed, own in found.items():
        for row in own:
            places.setdefault(row.place, {})[seed] = row
    return [places[place] for place in sorted(places, key=lambda place: (_RANK[place[0]], _RANK[place[1]], place))]


def _lines(config: str, by_seed: Mapping[int, ProbeRow]) -> list[dict[str, Any]]:
    """One for every metric."""
    first = next(iter(by_seed.values()))
    shared = {name: getattr(first, name) for name in ("method", "dataset", "images_per_class")}
    shared |= {name: getattr(first, name) for name in ("probe", "subject", "kind", "labels")}
    made = []
    for metric in dict.fromkeys(name for row in by_seed.values() for name in row.values):
        own = {seed: row.values[metric] for seed, row in by_seed.items() if metric in row.values}
        means = [mean for mean, _ in own.values()]
        spread = (stdev(means), "seeds") if len(means) > 1 else (next(iter(own.values()))[1], "answers")
        made.append(
            {
                "config": config,
                **shared,
                "metric": metric,
                "seeds": len(means),
                "answers": sum(by_seed[seed].count for seed in own),
                "failed": sum(row.failed for row in by_seed.values()),
                "mean": fmean(means),
                "std": spread[0],
                "std_over": None if spread[0] is None else spread[1],
                "seed_means": [(seed, mean) for seed, (mean, _) in own.items()],
            }
        )
    return made


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and kind of an answer: memories that are no set are of real images."""
    if row["probe"] != "continual":
        return row["subject"], ""
    memory = row["variant"].partition(" ")[0]
    return (memory, "") if memory in _RANK else (row["subject"], "" if memory == _SET else memory)


def _row(subject: str, kind: str, answers: Sequence[Mapping[str, Any]]) -> ProbeRow:
    first, good = answers[0], [row["metrics"] for row in answers if row["status"] == "ok"]
    names = dict.fromkeys(name for metrics in good for name in metrics)
    return ProbeRow(
        **{name: first[name] for name in ("run", "method", "dataset", "images_per_class", "probe", "labels")},
        subject=subject,
        kind=kind,
        count=len(good),
        failed=len(answers) - len(good),
        values={name: _summary([metrics[name] for metrics in good if name in metrics]) for name in names},
    )


def _searches(table: pa.Table) -> list[ProbeRow]:
    """What architectures' rankings are worth; random draws are put together."""
    groups: dict[tuple[str, str, str], list[Searched]] = {}
    for one in search.searched(table):
        groups.setdefault((one.run, one.method, one.proxy), []).append(one)
    broken = [row for row in table.to_pylist() if row["probe"] == "search" and row["status"] == "failed"]
    return [
        _search(own, sum((row["run"], row["variant"] or row["subject"]) == (run, proxy) for row in broken))
        for (run, _, proxy), own in groups.items()
    ]


def _search(found: Sequence[Searched], failed: int) -> ProbeRow:
    first, values = found[0], dict[str, list[float]]()
    for one in found:
        for name, value in _measured(one).items():
            values.setdefault(name, []).append(value)
    return ProbeRow(
        **{
            name: getattr(first, name) for name in ("run", "method", "dataset", "images_per_class", "labels", "subject")
        },
        probe="search",
        kind="" if first.proxy == first.subject else first.proxy,
        count=len(found),
        failed=failed,
        values={name: _summary(own) for name, own in values.items()},
    )


def _measured(one: Searched) -> dict[str, float]:
    """Of one ranking, by the name of the metric; what cannot be computed is left out."""
    found = {
        "spearman": one.spearman.value,
        "spearman_low": one.spearman.low,
        "spearman_high": one.spearman.high,
        "kendall": one.kendall.value,
        "kendall_low": one.kendall.low,
        "kendall_high": one.kendall.high,
        "top_spearman": one.top_spearman,
        "regret": one.regret,
        "architectures": float(one.count),
        "seconds": one.seconds,
    }
    return {name: value for name, value in found.items() if value is not None}


def _summary(values: Sequence[float]) -> tuple[float, float | None]:
    return fmean(values), stdev(values) if len(values) > 1 else None


def _order(row: ProbeRow) -> tuple[Any, ...]:
    return row.run, _RANK[row.probe], _RANK[row.subject], row.kind, row.labels
