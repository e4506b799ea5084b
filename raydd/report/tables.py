"""The report's numbers: the headline with what it is measured against, and the table of all groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydd.evaluation.tables.summary import Difference, SummaryRow, difference, pool_draws, summarise
from raydd.evaluation.tables.words import HEADLINE_LABELS
from raydd.evaluation.tables.words import labels as labels_in_words

WORDS = {
    "dataset": "{}",
    "method": "{}",
    "images_per_class": "{} per class",
    "stage": "stage {}",
    "network": "{}",
    "recipe": "recipe {}",
    "optimizer": "{}",
    "augmentation": "augmentation {}",
    "labels": "{} labels",
    "mode": "{}",
    "budget": "{} budget",
}
"""How the fields that tell groups of one subject apart are put into words."""

IN_WORDS = WORDS | {"epochs": "{} epochs"}
"""Those, and what pages of several runs say besides."""
_HEADING = {"dataset", "method", "images_per_class"}
"""What the page says above the table where it is the same for all."""
_OF_STAGES = {"stage": 0, "mode": "single_shot", "budget": "reference"}
"""What is said of sets in stages alone, and what it is of all others."""

_AGAINST = ("ema", "random", "init", "full")
_OF_TEACHER = ("replayed", "online")


@dataclass(frozen=True)
class Entry:
    """One group of the results table."""

    row: SummaryRow
    conditions: str
    """What sets it apart from other groups."""
    draws: SummaryRow
    """The same group with one observation per draw or distillation."""


@dataclass(frozen=True)
class Tile:
    """One number of the headline."""

    entry: Entry
    lead: Difference | None
    """By how much the headline's accuracy is above this one's; None for itself."""


@dataclass(frozen=True)
class Results:
    """Everything that the records say."""

    entries: list[Entry]
    shared: str
    """What all groups have in common."""
    tiles: list[Tile]
    """The headline first; empty where no student finished."""
    failures: list[dict[str, str]]
    has_teacher: bool
    """Whether a teacher made labels, so that labels take storage and forward passes of their own."""


def results(table: pa.Table, network: str | None) -> Results:
    """Summarise records for the page.

    Args:
        table: records.
        network: the label of the network that the headline should be about, where it was evaluated.
    """
    rows = summarise(table)
    varying = {name for name in WORDS if len({_value(row, name) for row in rows} - {None}) > 1}
    entries = [Entry(row, _conditions(row, varying), draws) for row, draws in zip(rows, pool_draws(table), strict=True)]
    failed = table.filter(pc.not_equal(table["status"], "ok"))
    return Results(
        entries=entries,
        shared=_conditions(rows[0], set(WORDS) - varying - _HEADING - set(said_of_stages_alone(rows))),
        tiles=_tiles(entries, network),
        failures=failed.select(["record_id", "subject", "network", "error"]).to_pylist(),
        has_teacher=any(row.labels in _OF_TEACHER for row in rows),
    )


def worded(name: str, value: Any) -> str:
    """A field of `IN_WORDS` in words."""
    return IN_WORDS[name].format(labels_in_words(value) if name == "labels" else value).replace("_", " ")


def said_of_stages_alone(rows: Sequence[SummaryRow]) -> tuple[str, ...]:
    """Fields that are not worth a word, as no row is of a set in stages; none where one is."""
    plain = all(getattr(row, name) == value for row in rows for name, value in _OF_STAGES.items())
    return tuple(_OF_STAGES) if plain else ()


def _tiles(entries: Sequence[Entry], network: str | None) -> list[Tile]:
    finished = [entry for entry in entries if entry.row.n]
    if not finished:
        return []
    made = [entry for entry in finished if entry.row.subject in ("synthetic", "imported")]
    best = max(made or finished, key=lambda entry: _standing(entry.row, network))
    others = [_other_way(finished, best.row)]
    others += [_nearest(finished, best.row, subject) for subject in _AGAINST if subject != best.row.subject]
    leads = [Tile(entry, difference(best.row, entry.row)) for entry in others if entry is not None]
    return [Tile(best, None), *leads]


def _standing(row: SummaryRow, network: str | None) -> tuple[bool | int, ...]:
    """Rank candidates for the headline: the run's network, all stages, the recipe's own budget, the set's labels."""
    labels = HEADLINE_LABELS.index(row.labels) if row.labels in HEADLINE_LABELS else -1
    return row.network == network, row.mode != "new_only", row.stage, row.budget == "reference", labels, row.n


def _other_way(entries: Sequence[Entry], to: SummaryRow) -> Entry | None:
    """Find the chain on the set that `to` was trained on at once, or the other way about."""
    other = {"single_shot": "chain", "chain": "single_shot"}.get(to.mode)
    names = ("subject", "network", "dataset", "labels", "stage")
    same = [e for e in entries if e.row.mode == other and all(getattr(e.row, n) == getattr(to, n) for n in names)]
    return max(same, key=lambda entry: entry.row.budget == "matched", default=None)


def _nearest(entries: Sequence[Entry], to: SummaryRow, subject: str) -> Entry | None:
    """Find the group of another subject that was trained most like `to`, on the same network and dataset.

    Of a set that is trained on under several regimes, those with and without a teacher's labels are never compared.
    """
    same = [e for e in entries if (e.row.subject, e.row.network, e.row.dataset) == (subject, to.network, to.dataset)]
    if subject != "full":
        same = [e for e in same if (e.row.labels in _OF_TEACHER) == (to.labels in _OF_TEACHER)]
    return max(same, key=lambda e: sum(getattr(e.row, name) == getattr(to, name) for name in WORDS), default=None)


def _value(row: SummaryRow, name: str) -> str | int | None:
    """A field that may tell groups apart, which the size of the full dataset does not."""
    return None if (row.subject, name) == ("full", "images_per_class") else getattr(row, name)


def _conditions(row: SummaryRow, names: set[str]) -> str:
    values = {name: _value(row, name) for name in WORDS if name in names}
    words = [worded(name, value) for name, value in values.items() if value not in (None, "", row.subject)]
    return ", ".join(words)
