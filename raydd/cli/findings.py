"""What `raydd inspect` prints: tables, and findings in sentences."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.data import problems
from raydd.data.giveaway import Giveaway, form_of
from raydd.data.inspection import Inspection

_MOST_CLASSES: Final = 20
_MOST_SIZES: Final = 10
_MOST_PROBLEMS: Final = 20
_MOST_TOLD: Final = 5
_GREY: Final = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_FEW: Final = 10
"""Training images of a class, below which little can be learned."""


@dataclass(frozen=True)
class AboutFiles:
    """What files tell, without what is in their images."""

    said: tuple[str, ...]
    """What the folder was taken for, and whose division it is, in sentences."""
    passed_over: Counter[str]
    """How many files are not read, by the reason."""
    giveaways: tuple[Giveaway, ...]


def print_all(found: Inspection, about: AboutFiles, console: Console) -> None:
    """All of it.

    Args:
        found: in the images.
        about: their files.
        console: for tables and sentences.
    """
    for line in about.said:
        console.print(line, soft_wrap=True, markup=False)
    tables.print_whole(_classes(found), console)
    tables.print_whole(_sizes(found.stored), console)
    if len({form_of(stored)[:2] for stored in found.stored}) > 1:
        tables.print_whole(_sizes_by_class(found), console)
    for line in (*_findings(found), *_passed_over(about.passed_over), *_given_away(found, about)):
        console.print(line, soft_wrap=True, markup=False)
    if found.problems:
        tables.print_whole(_problems(found), console)


def _classes(found: Inspection) -> Table:
    """Images of each class; of many classes the extremes."""
    table = Table(title=escape(found.dataset), show_footer=True)
    few = len(found.class_names) <= _MOST_CLASSES
    table.add_column(f"{len(found.class_names)} classes", "all", overflow="fold")
    for split, counts in found.counts.items():
        table.add_column(split, f"{sum(counts):,}", justify="right", overflow="fold")
    columns = [list(map(str, counts)) if few else _extremes(counts, found) for counts in found.counts.values()]
    for cells in zip(found.class_names if few else ("fewest", "median", "most"), *columns, strict=True):
        table.add_row(*map(escape, cells))
    return table


def _extremes(counts: list[int], found: Inspection) -> list[str]:
    """The smallest and the largest class with their sizes, and the median of all sizes between them."""
    smallest, largest = (f"{end(counts):,} ({found.class_names[counts.index(end(counts))]})" for end in (min, max))
    return [smallest, f"{median(counts):,g}", largest]


def _sizes(stored: Counter[str]) -> Table:
    table = Table(title="as stored")
    table.add_column("width x height, mode")
    for name in ("images", "%"):
        table.add_column(name, justify="right")
    common = stored.most_common(_MOST_SIZES)
    if rest := stored.total() - sum(count for _, count in common):
        common.append((f"{len(stored) - len(common):,} others", rest))
    for size, count in common:
        table.add_row(size, f"{count:,}", f"{100 * count / stored.total():.1f}")
    return table


def _sizes_by_class(found: Inspection) -> Table:
    """Of each class, or of many classes of those with the smallest and the largest images, how large they are."""
    table = Table(title="sizes by class, width x height")
    table.add_column("class", overflow="fold")
    for name in ("smallest", "median", "largest", "modes"):
        table.add_column(name, justify="right", overflow="fold")
    rows = [(name, _by_area(own)) for name, own in zip(found.class_names, found.by_class, strict=True) if own]
    if len(rows) > _MOST_CLASSES:
        rows.sort(key=lambda row: _area(_middle(row[1])))
        rows = [*rows[: _MOST_CLASSES // 2], *rows[-_MOST_CLASSES // 2 :]]
        table.caption = f"the {_MOST_CLASSES} classes with the smallest and the largest images"
    for name, own in rows:
        modes: Counter[str] = Counter()
        for stored, count in own:
            modes[form_of(stored)[2]] += count
        sizes = (stored.partition(" ")[0] for stored in (own[0][0], _middle(own), own[-1][0]))
        table.add_row(escape(name), *sizes, ", ".join(f"{mode} {count:,}" for mode, count in modes.most_common()))
    return table


def _area(stored: str) -> int:
    width, height, _ = form_of(stored)
    return width * height


def _by_area(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: _area(item[0]))


def _middle(ordered: list[tuple[str, int]]) -> str:
    """The median of what is ordered and counted."""
    half, seen = sum(count for _, count in ordered) / 2, 0
    for stored, count in ordered:
        seen += count
        if seen >= half:
            return stored
    raise AssertionError


def _findings(found: Inspection) -> list[str]:
    copies = ", ".join(f"{found.repeated(split):,} in {split}" for split in found.counts)
    return [
        f"copies of another image: {copies}",
        f"test images that are training images, too: {found.leaked():,}",
        f"images in several classes: {len(found.contradicting()):,}",
        problems.in_words(found.problems) or "all images can be decoded as they are stored",
        *_few_images(found),
        *_mixed(found),
    ]


def _few_images(found: Inspection) -> Iterator[str]:
    """A warning where classes have hardly any images."""
    few = [(count, name) for count, name in zip(found.counts["train"], found.class_names, strict=True) if count < _FEW]
    if few:
        count, name = min(few)
        yield (
            f"careful: {len(few)} of {len(found.class_names)} classes have fewer than {_FEW} training images, "
            f"{name} has {count}; too few to learn from, and to hold some out"
        )


def _mixed(found: Inspection) -> Iterator[str]:
    """That grey images become coloured, where there are both."""
    grey = sum(count for stored, count in found.stored.items() if form_of(stored)[2] in _GREY)
    if 0 < grey < found.stored.total():
        yield f"{grey:,} of {found.stored.total():,} images are grey, and become coloured among the others"


def _passed_over(counts: Counter[str]) -> Iterator[str]:
    if counts:
        listed = "; ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
        yield f"files passed over: {listed}"


def _given_away(found: Inspection, about: AboutFiles) -> Iterator[str]:
    """Warnings where a property of the files tells their class, and which classes it tells best."""
    for one in (each for each in about.giveaways if each.label is None):
        alone = [each for each in about.giveaways if each.what == one.what and each.label is not None]
        alone = sorted((each for each in alone if each.is_beyond_chance), key=lambda each: -each.accuracy)
        if not one.is_beyond_chance and not alone:
            continue
        classes = ", ".join(
            f"{found.class_names[each.label or 0]} ({each.accuracy:.0%})" for each in alone[:_MOST_TOLD]
        )
        best = f"; told best from all others, where 50% would be chance: {classes}" if alone else ""
        yield (
            f"careful: {one.what} gives classes away: by the {one.what} of its file alone {one.accuracy:.0%} of "
            f"{one.num_images:,} images are put into their class, {one.chance:.0%} would be by chance{best}; networks "
            "may learn that, and not what is shown"
        )


def _problems(found: Inspection) -> Table:
    table = Table(title="problems")
    for name in ("split", "image", "problem", "kept"):
        table.add_column(name, overflow="fold")
    for one in found.problems[:_MOST_PROBLEMS]:
        table.add_row(one.split, escape(one.where), escape(one.what), "yes" if one.kept else "no")
    if more := len(found.problems) - _MOST_PROBLEMS:
        table.caption = f"and {more:,} more, in problems.csv" if more > 0 else None
    return table
