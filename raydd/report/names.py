"""How a page of several runs calls and colours them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from os.path import commonprefix

from raydd.evaluation.tables.collection import REAL
from raydd.evaluation.tables.pooling import Facts, PooledLine, told_apart
from raydd.evaluation.tables.words import SUBJECTS
from raydd.report.drawing import RUNS
from raydd.report.tables import IN_WORDS
from raydd.report.tables import worded as field_in_words

_OF_SETS = ("mode", "budget", "stage")
"""What nobody asks of real images."""


@dataclass(frozen=True)
class Names:
    """What runs are called where there is little room, and the colours they have."""

    short: dict[str, str]
    """By variant, without what all names begin with."""
    families: dict[str, str]
    """By variant: the method where its variants differ in images per class alone, else the short name."""
    places: dict[str, int]
    """The families' places in the order of their colours."""

    def title(self, row: Facts, fields: Iterable[str] = ()) -> str:
        """A row of a table."""
        return self._called(row, self.short.get(row["run"], ""), fields)

    def family(self, row: Facts, fields: Iterable[str] = ()) -> str:
        """A line of a figure."""
        return self._called(row, self.families.get(row["run"], ""), fields)

    def colour(self, row: Facts) -> str:
        """The variable of a row's colour; they begin anew where there are more families."""
        return row["subject"] if row["subject"] in REAL else RUNS[self._place(row) % len(RUNS)]

    def is_ring(self, row: Facts) -> bool:
        """Whether a row's colour is given away for the second time, or any even one."""
        return row["subject"] not in REAL and self._place(row) // len(RUNS) % 2 == 1

    def _place(self, row: Facts) -> int:
        return self.places[self.families[row["run"]]]

    def _called(self, row: Facts, own: str, fields: Iterable[str]) -> str:
        subject = str(SUBJECTS.get(row["subject"], row["subject"]))
        names = [*[own] * bool(own), *[subject] * (not own or row["subject"] not in ("synthetic", "imported"))]
        return ", ".join([*names, *worded(row, fields)])


def names_of(variants: Sequence[str], lines: Iterable[PooledLine]) -> Names:
    """Names and colours for variants in their order, which are all that lines are about."""
    short = _shortened(variants)
    families = short | _families([line for line in lines if line.variant])
    order = dict.fromkeys(families[variant] for variant in variants)
    return Names(short, families, {family: place for place, family in enumerate(order)})


def own_fields(rows: Sequence[Facts], names: Sequence[str]) -> list[list[str]]:
    """For each row the fields in which rows of its run and subject differ."""
    groups: dict[tuple[str, str], list[Facts]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["subject"]), []).append(row)
    fields = {key: told_apart(own, names) for key, own in groups.items()}
    return [fields[row["run"], row["subject"]] for row in rows]


def worded(row: Facts, fields: Iterable[str]) -> list[str]:
    """Some fields of a row in words, and what a sweep set."""
    said = [name for name in fields if row["subject"] not in REAL or name not in _OF_SETS]
    values = ((name, row[name]) for name in said if row[name] not in (None, "", row["subject"]))
    words = [field_in_words(name, value) for name, value in values if name in IN_WORDS]
    return words + [f"{path.rpartition('.')[2]} {value}" for path, value in row["parameters"]]


def _shortened(names: Sequence[str]) -> dict[str, str]:
    """Names without the whole words that all of them begin with; all names differ afterwards, too."""
    prefix = commonprefix(list(names)) if len(names) > 1 else ""
    cut = max(prefix.rfind("-"), prefix.rfind("_")) + 1
    return {name: name[cut:] for name in names}


def _families(lines: Sequence[PooledLine]) -> dict[str, str]:
    """The method of variants that differ from each other in nothing but their numbers of images per class."""
    sizes: dict[tuple[str, str], dict[str, set[int]]] = {}
    for line in lines:
        own = sizes.setdefault((line.row.dataset, line.row.method), {})
        own.setdefault(line.variant, set()).add(line.row.images_per_class)
    joined = {key: own for key, own in sizes.items() if len(own) > 1 and _disjoint(own.values())}
    return {variant: method for (_, method), own in joined.items() for variant in own}


def _disjoint(sets: Iterable[set[int]]) -> bool:
    return all(a.isdisjoint(b) for a, b in combinations(sets, 2))
