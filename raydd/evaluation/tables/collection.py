"""Several runs at once: where they lie, their records as one table, and which of them are one configuration.

Runs of one name whose configs differ in nothing that shapes a student but in seeds are one *variant*: its students are
pooled. Runs of one name that do differ are told apart by what differs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from raydd.core.errors import ArtefactError, UserError
from raydd.evaluation import record_files, records
from raydd.storage import Folder, yaml_files

REAL = ("random", "k_center", "herding", "full")
"""Subjects that no method makes."""

_CONFIG, _RESULTS = "config.yaml", "results"
_DEPTH = 4
_NO_CONDITION = (
    *("name", "seed", "out", "experts.seed", "teacher.seed", "data.root", "cluster", "sweep"),
    *("evaluate.num_students", "evaluate.random_draws", "evaluate.baselines", "evaluate.networks", "evaluate.labels"),
    *("evaluate.modes", "evaluate.budgets", "evaluate.measure_every", "evaluate.augmentations"),
)
"""Parts of a config that say where, how often and on what, or what the records tell apart themselves."""
_MOST_FIELDS = 3

Leaves = dict[str, Any]
"""The values of a mapping of mappings by their dotted paths."""


@dataclass(frozen=True, kw_only=True)
class RecordSource:
    """A folder with students' records."""

    folder: Folder
    """The run's; where there is none around the records, theirs."""
    results: Folder
    variant: str
    """What it is called, like every other run of the same configuration."""
    seed: int | None
    """The run's; None where there is no config."""
    conditions: Leaves
    """What of its config shapes students; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The records of several runs."""

    sources: tuple[RecordSource, ...]
    table: pa.Table
    """Every student once."""
    owners: Mapping[str, RecordSource]
    """Where each record lies, by its id; of one in several runs, the first one."""

    @property
    def variants(self) -> list[str]:
        """The names of the configurations, in the order of the sources."""
        return list(dict.fromkeys(source.variant for source in self.sources))

    def differing(self) -> list[str]:
        """The conditions in which sources differ, in the order of the configs."""
        return _differing([source.conditions for source in self.sources])


def find(folders: Iterable[Folder]) -> list[Folder]:
    """The folders with records, each once: runs, or folders of nothing but records, at or below the given ones.

    Raises:
        UserError: there is none below one of them.
    """
    found: dict[Folder, None] = {}
    for folder in folders:
        below = dict.fromkeys(_below(folder, _DEPTH))
        if not below:
            raise UserError(f"{folder.uri}: no student's record lies here; name runs, or folders that contain runs")
        found |= below
    return list(found)


def collect(folders: Sequence[Folder]) -> Collection:
    """Read the records of all folders that `find` finds.

    Raises:
        UserError: a folder has none.
        ArtefactError: a record or a config is damaged.
    """
    runs = find(folders)
    results = [run if _has_records(run) else run / _RESULTS for run in runs]
    table = records.read(*results)
    names = dict(zip(table["record_id"].to_pylist(), table["run"].to_pylist(), strict=True))
    owned = [records.names(one) for one in results]
    sources = _told_apart(
        [
            _source(run, place, next(names[name] for name in own if name in names))
            for run, place, own in zip(runs, results, owned, strict=True)
        ]
    )
    owners: dict[str, RecordSource] = {}
    for source, own in zip(sources, owned, strict=True):
        for name in own:
            owners.setdefault(name, source)
    return Collection(sources=tuple(sources), table=table, owners=owners)


def named(table: pa.Table, owners: Mapping[str, RecordSource]) -> pa.Table:
    """Records of a collection with their variant as `run`, and each draw of all runs with a `distill_seed` of its own.

    Runs of one seed draw the same real images, whatever their method.
    """
    runs, numbers = [], []
    known: dict[tuple[Any, ...], int] = {}
    for row in table.select(["record_id", "subject", "config_key", "distill_seed"]).to_pylist():
        owner = owners[row["record_id"]]
        origin = owner.seed if row["subject"] in REAL and owner.seed is not None else row["config_key"]
        runs.append(owner.variant)
        numbers.append(known.setdefault((origin, row["distill_seed"]), len(known)))
    for name, values in (("run", runs), ("distill_seed", numbers)):
        table = replaced(table, name, values)
    return table


def replaced(table: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    """A table with other values in one of its columns."""
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def leaves(values: Mapping[str, Any], prefix: str = "") -> Leaves:
    """The values of a mapping of mappings by their dotted paths."""
    found: Leaves = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _below(folder: Folder, depth: int) -> Iterator[Folder]:
    """A folder if it has records, else those below it that do."""
    if _has_records(folder) or _has_records(folder / _RESULTS):
        yield folder
    elif depth:
        for name in folder.folders():
            yield from _below(folder / name, depth - 1)


def _has_records(folder: Folder) -> bool:
    return any(map(record_files.is_file, folder.files()))


def _source(run: Folder, results: Folder, name: str) -> RecordSource:
    """A source by the name in its config, or by that in its records."""
    config = _config(run)
    conditions = {path: value for path, value in leaves(config).items() if _is_condition(path)}
    return RecordSource(
        folder=run,
        results=results,
        variant=str(config.get("name", name)),
        seed=config.get("seed"),
        conditions=conditions,
    )


def _config(run: Folder) -> Mapping[str, Any]:
    if not run.has(_CONFIG):
        return {}
    text = run.read(_CONFIG)
    try:
        config = yaml_files.read(text, _CONFIG)
    except UserError as error:
        raise ArtefactError(f"{run.uri}/{_CONFIG}: damaged ({error}); run the run's command again") from error
    return config if isinstance(config, Mapping) else {}


def _is_condition(path: str) -> bool:
    parts = path.split(".")
    prefixes = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return parts[-1] != "store" and prefixes.isdisjoint(_NO_CONDITION)


def _differing(configs: Sequence[Leaves]) -> list[str]:
    """The paths that have several values."""
    values: dict[str, list[Any]] = {}
    for config in configs:
        for path, value in config.items():
            seen = values.setdefault(path, [])
            if value not in seen:
                seen.append(value)
    return [path for path, seen in values.items() if len(seen) > 1]


def _told_apart(sources: Sequence[RecordSource]) -> list[RecordSource]:
    """The sources with their variants: those of one name and several configs are called by what differs, too."""
    by_name: dict[str, list[RecordSource]] = {}
    for source in sources:
        by_name.setdefault(source.variant, []).append(source)
    differing = {name: _differing([source.conditions for source in own]) for name, own in by_name.items()}
    labels: dict[Folder, str] = {}
    for name, own in by_name.items():
        paths = differing[name]
        chosen = [tuple(str(source.conditions.get(path, "–")) for path in paths) for source in own]
        order = list(dict.fromkeys(chosen))
        for source, values in zip(own, chosen, strict=True):
            labels[source.results] = _label(name, paths, values, order.index(values) + 1)
    return [replace(source, variant=labels[source.results]) for source in sources]


def _label(name: str, paths: Sequence[str], values: Sequence[str], number: int) -> str:
    if not paths:
        return name
    if len(paths) > _MOST_FIELDS:
        return f"{name} (configuration {number})"
    words = [f"{_last(path, paths)} {value}" for path, value in zip(paths, values, strict=True)]
    return f"{name} ({', '.join(words)})"


def _last(path: str, paths: Sequence[str]) -> str:
    """The last part of a path, or all of it where several have that."""
    last = path.rpartition(".")[2]
    return path if sum(other.rpartition(".")[2] == last for other in paths) > 1 else last
