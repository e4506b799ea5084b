"""What the page of several runs says of one dataset under one label regime: tables, a matrix of networks, figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from statistics import fmean
from typing import Any, get_args

import pyarrow as pa

from raydd.evaluation.record import LabelRegime
from raydd.evaluation.tables.architectures import architectures
from raydd.evaluation.tables.pooling import Facts, PooledLine, after_all_stages, told_apart
from raydd.evaluation.tables.scores import scores
from raydd.evaluation.tables.words import labels as labels_in_words
from raydd.report import figures
from raydd.report.drawing import RUNS, Panel
from raydd.report.names import Names, own_fields, worded
from raydd.report.tables import said_of_stages_alone
from raydd.report.trends import trends

_REGIMES = get_args(LabelRegime)
_APART = ("images_per_class", "network", "method", "recipe", "mode", "budget", "stage", "augmentation", "optimizer")
"""What tells rows of a block apart; the number of images, by which they are grouped, first."""
_CONDITIONS = ("network", "recipe", "augmentation", "optimizer", "epochs")
_SET = ("run", "subject", "images_per_class", "recipe", "augmentation", "labels", "mode", "budget")
_BARS = ("synthetic", "imported", "random")
_SCORES = ("ior", "hlr", "lrs", "ars")
_MOST_BARS = 6


@dataclass(frozen=True)
class TableRow:
    """One row of a table, a `PooledLine` or a row of `scores`."""

    title: str
    note: str
    """In what it differs from other runs' rows."""
    colour: str
    """A variable of the page."""
    is_ring: bool
    values: Any


@dataclass(frozen=True)
class NetworkCell:
    """Students of one network."""

    line: PooledLine
    share: float
    """Where the mean stands between the lowest and the highest of the matrix, in 0..1."""
    drop: float | None
    """By how much it is below that of the same network on all the data."""


@dataclass(frozen=True)
class Across:
    """One set in all networks."""

    cells: Mapping[str, NetworkCell]
    others: float | None
    """The mean over networks that the set was not made with."""
    source: str | None
    """The network that it was made with."""

    @property
    def mean(self) -> float:
        """Over all networks."""
        return fmean(cell.line.row.mean or 0.0 for cell in self.cells.values())


Groups = list[tuple[str, list[TableRow]]]
"""Rows by the number of images per class, in words."""


@dataclass(frozen=True)
class Block:
    """Students of one dataset under one label regime."""

    dataset: str
    labels: str
    shared: str
    """What all rows have in common."""
    results: Groups
    is_calibrated: bool
    """Whether the calibration of a student was measured."""
    scores: Groups
    shown_scores: list[str]
    """Those of which there is a number."""
    networks: list[str]
    """Columns of the matrix; empty where there is only one network."""
    matrix: Groups
    """Its values are `Across`."""
    panels: list[Panel] = field(default_factory=list)
    classes: list[Panel] = field(default_factory=list)


def blocks(
    table: pa.Table,
    lines: Sequence[PooledLine],
    names: Names,
    sources: Mapping[str, str],
    class_names: Mapping[str, Sequence[str]],
) -> list[Block]:
    """Make the blocks of a page.

    Args:
        table: records as `collection.named` gives them.
        lines: the same, pooled.
        names: what the page calls things.
        sources: the network that each variant's set was made with, where that is known.
        class_names: of the datasets of which they are known.
    """
    scored = scores(table).to_pylist()
    across = architectures(table, sources).to_pylist()
    found = []
    for dataset, labels in sorted({(line.row.dataset, line.row.labels) for line in lines}, key=_place_of_block):
        of_dataset = [line for line in lines if line.row.dataset == dataset]
        own = [line for line in of_dataset if line.row.labels == labels]
        full = [line for line in of_dataset if line.row.subject == "full"]
        last = after_all_stages(own)
        marks = [row for row in scored if (row["dataset"], row["labels"]) == (dataset, labels)]
        marks = [row for row in marks if any(row[name] is not None for name in _SCORES)]
        networks = list(dict.fromkeys(line.row.network for line in last))
        focus = [network for network in networks if network in sources.values()] or networks[:1]
        panels, bars = [], []
        for network in focus:
            name = f" ({', '.join([dataset, f'{labels_in_words(labels)} labels', *[network] * (len(networks) > 1)])})"
            here = [line for line in own if line.row.network == network and line.row.subject != "full"]
            panels += trends(here, [line for line in full if line.row.network == network], names, name)
            bars += _bars(after_all_stages(here), names, class_names.get(dataset), name)
        found.append(
            Block(
                dataset=dataset,
                labels=labels,
                shared=", ".join(worded({**last[0].facts, "parameters": ()}, _shared(last))),
                results=_grouped(last, [line.facts for line in last], names, lambda line: -(line.row.mean or 0.0)),
                is_calibrated=any("ece" in line.row.metrics for line in last),
                scores=_grouped(marks, marks, names, lambda row: -row["accuracy"]),
                shown_scores=[name for name in _SCORES if any(row[name] is not None for row in marks)],
                networks=networks if len(networks) > 1 else [],
                matrix=_matrix(last, full, across, names, sources) if len(networks) > 1 else [],
                panels=panels,
                classes=bars,
            )
        )
    return found


def _place_of_block(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], _REGIMES.index(key[1]) if key[1] in _REGIMES else len(_REGIMES)


def _shared(lines: Sequence[PooledLine]) -> list[str]:
    """The conditions that are the same for all lines."""
    unsaid = said_of_stages_alone([line.row for line in lines])
    same = [name for name in _CONDITIONS if len({getattr(line.row, name) for line in lines}) == 1]
    return [name for name in same if name not in unsaid]


def _grouped(values: Sequence[Any], facts: Sequence[Facts], names: Names, by: Callable[[Any], float]) -> Groups:
    """Rows by the number of images per class, and in the order of `by` among those; all the data last.

    Args:
        values: of the rows.
        facts: what each is about.
        names: what the page calls things.
        by: what to sort by, lowest first.
    """
    if not facts:
        return []
    apart = [name for name in _APART if name in facts[0]]
    varying = told_apart(facts, apart)
    rows = []
    for value, row, fields in zip(values, facts, own_fields(facts, apart), strict=True):
        own = [name for name in fields if name != "images_per_class"]
        note = ", ".join(worded({**row, "parameters": ()}, [n for n in varying if n not in ("images_per_class", *own)]))
        made = TableRow(names.title(row, own), note, names.colour(row), names.is_ring(row), value)
        rows.append((_place_of_group(row), by(value), made))
    rows.sort(key=lambda entry: entry[:2])
    return [(_title_of_group(place), [row for *_, row in own]) for place, own in groupby(rows, key=lambda r: r[0])]


def _place_of_group(row: Facts) -> tuple[bool, int]:
    is_full = row["subject"] == "full"
    return is_full, 0 if is_full else row["images_per_class"]


def _title_of_group(place: tuple[bool, int]) -> str:
    is_full, count = place
    return "all the data" if is_full else f"{count:,} {'image' if count == 1 else 'images'} per class"


def _matrix(
    lines: Sequence[PooledLine],
    full: Sequence[PooledLine],
    scored: Sequence[Facts],
    names: Names,
    sources: Mapping[str, str],
) -> Groups:
    """Sets by networks; those who were trained on all the data last, whatever the regime: their labels are hard."""
    every = [line for line in [*lines, *(line for line in full if line not in lines)] if line.row.n]
    means = [line.row.mean for line in every if line.row.mean is not None]
    if not means:
        return []
    low, high = min(means), max(means)
    fields = told_apart([line.facts for line in every], ("network", *_APART))
    fields = [name for name in fields if name != "network"]
    known = {_set(row): row for row in scored}
    rows: dict[tuple[Any, ...], tuple[Facts, dict[str, NetworkCell]]] = {}
    for line in every:
        facts = line.facts
        place = (line.variant, str(facts["parameters"]), line.row.subject, *(facts[name] for name in fields))
        drops = dict((known.get(_set(facts)) or {"drop": ()})["drop"])
        share = ((line.row.mean or low) - low) / (high - low) if high > low else 0.5
        cells = rows.setdefault(place, (facts, {}))[1]
        cells[line.row.network] = NetworkCell(line, share, drops.get(line.row.network))
    made = [
        Across(cells, (known.get(_set(facts)) or {}).get("others_accuracy"), sources.get(facts["run"]))
        for facts, cells in rows.values()
    ]
    return _grouped(made, [{**facts, "network": None} for facts, _ in rows.values()], names, lambda one: -one.mean)


def _set(row: Facts) -> tuple[Any, ...]:
    """What makes a row of `architectures`."""
    return (*(row[name] for name in _SET), str(sorted(row["parameters"])))


def _bars(lines: Sequence[PooledLine], names: Names, class_names: Sequence[str] | None, name: str) -> list[Panel]:
    """Draw the classes' accuracies of the best line of each colour, one panel for each number of images per class."""
    panels = []
    measured = [line for line in lines if line.row.n and line.row.class_accuracy and line.row.subject in _BARS]
    ranked = sorted(measured, key=lambda line: (line.row.images_per_class, -(line.row.mean or 0.0)))
    for count, own in groupby(ranked, key=lambda line: line.row.images_per_class):
        best: dict[str, PooledLine] = {}
        for line in own:
            best.setdefault(names.families.get(line.variant, line.row.subject), line)
        sets = [line for line in best.values() if line.variant]
        shown = _coloured([*sets[:_MOST_BARS], *(line for line in best.values() if not line.variant)], names)
        fields = own_fields([line.facts for line in ranked], _APART)
        fields_of = {id(line): set(one) - {"images_per_class"} for line, one in zip(ranked, fields, strict=True)}
        panel = figures.classes(
            class_names or [str(k) for k in range(len(next(iter(shown.values())).row.class_accuracy))],
            {colour: line.row.class_accuracy for colour, line in shown.items()},
            {colour: names.title(line.facts, fields_of[id(line)]) for colour, line in shown.items()},
            f"Accuracy by class, {count:,} per class{name}",
        )
        left_out = len(sets) - min(len(sets), _MOST_BARS)
        note = f" The {_MOST_BARS} best of {len(sets)} runs." if left_out else ""
        panels.append(replace(panel, caption=f"{panel.caption}{note}".strip()))
    return panels


def _coloured(lines: Sequence[PooledLine], names: Names) -> dict[str, PooledLine]:
    """Lines by colours that no two share: their own, as long as those are free."""
    found: dict[str, PooledLine] = {}
    for line in lines:
        free = (colour for colour in (names.colour(line.facts), *RUNS) if colour not in found)
        found[next(free)] = line
    return found
