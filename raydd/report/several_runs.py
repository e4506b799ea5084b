"""The page that compares several runs: one HTML file with everything in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raydd.evaluation.tables.collection import REAL, Collection, RecordSource, named
from raydd.evaluation.tables.pooling import pool
from raydd.evaluation.tables.query import Condition
from raydd.report.blocks import blocks
from raydd.report.mosaic import Mosaic, mosaic
from raydd.report.names import Names, names_of
from raydd.report.templates import rendered
from raydd.sets.synthetic import SyntheticSet

_IMAGE_PIXELS, _ALL_PIXELS = 48_000, 400_000
"""Of one set's picture, and of those of all sets together: they are nearly all that the page weighs."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Runs of one configuration, as the page shows them."""

    name: str
    short: str
    colour: str
    is_ring: bool
    sources: list[RecordSource]
    methods: list[str]
    datasets: list[str]
    images_per_class: list[int]
    students: int
    failed: int
    images: Mosaic | None

    @property
    def runs(self) -> int:
        """How many runs."""
        return len(self.sources)


@dataclass(frozen=True)
class Failure:
    """A student that broke off."""

    title: str
    network: str
    record_id: str
    error: str


def build(found: Collection, table: pa.Table, conditions: Sequence[Condition] = ()) -> str:
    """Make the page as one HTML document that needs nothing outside itself.

    Args:
        found: the runs.
        table: those of their records that are to be shown; at least one.
        conditions: by which they were chosen.

    Raises:
        ArtefactError: a run's set is damaged.
    """
    chosen = named(table, found.owners)
    lines, rows = pool(chosen), chosen.to_pylist()
    chosen_runs = {row["run"] for row in rows}
    shown = [variant for variant in found.variants if variant in chosen_runs]
    names = names_of(shown, lines)
    sets = {variant: _first_set(found, variant) for variant in shown}
    made = {variant: one for variant, one in sets.items() if one is not None}
    datasets = {row["run"]: row["dataset"] for row in rows}
    variants = [
        _variant(name, found, rows, names, made.get(name), len(made)) for name in found.variants if name in sets
    ]
    return rendered(
        "several.html",
        variants=variants,
        blocks=blocks(
            chosen,
            lines,
            names,
            {variant: one.card["network"] for variant, one in made.items() if "network" in one.card},
            {datasets[variant]: one.class_names for variant, one in made.items()},
        ),
        differing=_differing(found, variants),
        failures=[
            Failure(names.title(row | {"parameters": ()}), row["network"], row["record_id"], row["error"])
            for row in rows
            if row["status"] != "ok"
        ],
        conditions=[str(condition) for condition in conditions],
        students=len(rows),
        finished=max(filter(None, table["time"].to_pylist()), default=None),
    )


def _first_set(found: Collection, variant: str) -> SyntheticSet | None:
    """The set of the first run of a variant that has one."""
    folders = (source.folder / "synthetic" for source in found.sources if source.variant == variant)
    return next((SyntheticSet.load(folder) for folder in folders if folder.has("manifest.json")), None)


def _variant(
    name: str, found: Collection, rows: Sequence[Mapping[str, Any]], names: Names, made: SyntheticSet | None, sets: int
) -> Variant:
    own = [row for row in rows if row["run"] == name]
    sizes = {row["images_per_class"] for row in own if row["subject"] not in REAL and row["mode"] == "single_shot"}
    sizes = sizes or {row["images_per_class"] for row in own if row["subject"] != "full"}
    return Variant(
        name=name,
        short=names.short[name],
        colour=names.colour({"run": name, "subject": "synthetic"}),
        is_ring=names.is_ring({"run": name, "subject": "synthetic"}),
        sources=[source for source in found.sources if source.variant == name],
        methods=sorted({row["method"] for row in own}),
        datasets=sorted({row["dataset"] for row in own}),
        images_per_class=sorted(sizes),
        students=sum(row["status"] == "ok" for row in own),
        failed=sum(row["status"] != "ok" for row in own),
        images=None if made is None else mosaic(made, min(_IMAGE_PIXELS, _ALL_PIXELS // sets)),
    )


def _differing(found: Collection, variants: Sequence[Variant]) -> list[tuple[str, list[str]]]:
    """What the configs of variants differ in: the field, and what it is in each."""
    first = [variant.sources[0].conditions for variant in variants]
    table = [(path, [_in_words(config.get(path, "")) for config in first]) for path in found.differing()]
    return [(path, values) for path, values in table if len(set(values)) > 1]


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
