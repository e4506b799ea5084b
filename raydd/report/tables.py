"""The report's numbers: the headline with what it is measured against, and the table of all groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydd.evaluation.tables.summary import Difference, SummaryRow, difference, pool_draws, summarise

NAMES = {
    "synthetic": "synthetic set",
    "ema": "synthetic set, EMA",
    "init": "starting state",
    "random": "random real images",
    "k_center": "k-center selection",
    "herding": "herding selection",
    "imported": "imported set",
    "full": "full dataset",
}
"""What the page calls each subject."""

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

_AGAINST = ("ema", "random", "init", "full")
_LABELS = ("hard", "replayed", "online", "stored")
"""Label regimes, the one that a headline prefers last: labels that belong to the set before labels made for it, and of
those the regime under which everything else is trained too."""
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
    failed = [row for row in table.to_pylist() if row["status"] != "ok"]
    return Results(
        entries=entries,
        shared=_conditions(rows[0], set(WORDS) - varying),
        tiles=_tiles(entries, network),
        failures=[{name: row[name] for name in ("record_id", "subject", "network", "error")} for row in failed],
        has_teacher=any(row.labels in _OF_TEACHER for row in rows),
    )


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
    labels = _LABELS.index(row.labels) if row.labels in _LABELS else -1
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
    words = [WORDS[name].format(value) for name, value in values.items() if value not in (None, "", row.subject)]
    return ", ".join(words).replace("_", " ")
