"""Accuracy against what a set takes: images per class, and bytes."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from raydd.evaluation.tables.collection import REAL
from raydd.evaluation.tables.pooling import FIELDS, PooledLine, told_apart
from raydd.report.drawing import COLOUR, Floats, Panel, panel
from raydd.report.names import Names, own_fields
from raydd.report.templates import size

_WIDTH = 4.0
_LINE_HEIGHT, _AROUND = 0.15, 0.75
"""Inches of a line of a label, and of what is above and below the axes."""
_MOST_SERIES = 14
_LABEL_LETTERS = 20
_MARKERS = "oD^vPX"
_LEADER = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
_APART = (
    "images_per_class",
    *(name for name in FIELDS if name not in ("images_per_class", "stage", "epochs")),
    "epochs",
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Lines of a table that belong together, in the order of their images per class."""

    name: str
    colour: str
    marker: str
    is_ring: bool
    """Whether its markers are hollow."""
    lines: list[PooledLine]

    @property
    def is_real(self) -> bool:
        """Whether it is about real images."""
        return self.lines[0].row.subject in REAL

    @property
    def best(self) -> float:
        """The highest mean."""
        return max(line.row.mean or 0.0 for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a set takes."""

    name: str
    horizontal: str
    """The axis' label."""
    of: Callable[[PooledLine], float | None]
    draw_axis: Callable[[Axes, Floats], None]
    """Ticks, given where there are points."""
    is_count: bool
    """Whether points often share a value, and then stand side by side."""


def trends(lines: Sequence[PooledLine], full: Sequence[PooledLine], names: Names, subtitle: str) -> list[Panel]:
    """Draw what students of one dataset, network and label regime reached against images per class and bytes.

    Args:
        lines: what they were trained on, chains after each stage; without the full data.
        full: students of all the data, whose labels are hard; may be empty.
        names: what the page calls things.
        subtitle: what sets these panels apart from others of the page.
    """
    series = sorted(_series([line for line in lines if line.row.n], names), key=lambda one: -one.best)
    sets, real = [one for one in series if not one.is_real], [one for one in series if one.is_real]
    shown = [*real, *sets[:_MOST_SERIES]]
    note = f" Of {len(sets)} lines of distilled sets the {_MOST_SERIES} best." if len(sets) > _MOST_SERIES else ""
    levels = {_full_name(line, full, names): line.row.mean for line in full if line.row.mean is not None}
    if not shown:
        return []
    caption = f"Bars: one standard deviation, between distillations or draws where there are several.{note}"
    height = max(2.9, _AROUND + 1.1 * _LINE_HEIGHT * sum(_rows(name) for name in [*levels, *(s.name for s in shown)]))

    def drawn(quantity: Quantity) -> Panel:
        return panel(
            f"Accuracy against {quantity.name}{subtitle}",
            quantity.horizontal,
            lambda axes: _draw(axes, shown, levels, quantity, height),
            legend={},
            width=_WIDTH,
            height=height,
            caption=caption,
        )

    known = [one for one in (_IMAGES, _BYTES) if any(one.of(line) for own in shown for line in own.lines)]
    return [drawn(quantity) for quantity in known]


def _series(lines: Sequence[PooledLine], names: Names) -> list[Series]:
    """What is joined by a line: all that differs in images per class alone."""
    facts = [line.facts for line in lines]
    groups: dict[tuple[str, str], list[PooledLine]] = {}
    for line, row, fields in zip(lines, facts, own_fields(facts, _APART), strict=True):
        groups.setdefault((names.family(row, set(fields) - {"images_per_class"}), names.colour(row)), []).append(line)
    series: list[Series] = []
    for (name, colour), own in groups.items():
        ranked = sorted(own, key=lambda line: line.row.images_per_class)
        first = ranked[0].facts
        marker = "s" if first["subject"] in REAL else _MARKERS[len(series) % len(_MARKERS)]
        series.append(Series(name=name, colour=colour, marker=marker, is_ring=names.is_ring(first), lines=ranked))
    return series


def _full_name(line: PooledLine, full: Sequence[PooledLine], names: Names) -> str:
    fields = told_apart([one.facts for one in full], ("recipe", "augmentation", "optimizer", "epochs"))
    return f"{names.title(line.facts, fields)}, hard labels"


def _draw(axes: Axes, series: Sequence[Series], levels: dict[str, float], quantity: Quantity, height: float) -> None:
    points = {one.name: [(at, line) for line in one.lines if (at := quantity.of(line))] for one in series}
    every = np.array(sorted({at for own in points.values() for at, _ in own}), dtype=np.float64)
    axes.set_xscale("log")
    shifts = _shifts(every, len(series)) if quantity.is_count else np.ones(len(series))
    ends: list[tuple[str, str, float, float]] = []
    for one, shift in zip(series, shifts, strict=True):
        if not points[one.name]:
            continue
        at = np.array([x for x, _ in points[one.name]]) * shift
        means = np.array([line.row.mean for _, line in points[one.name]], dtype=np.float64)
        spreads = np.array([line.spread or 0.0 for _, line in points[one.name]])
        axes.errorbar(
            at,
            means,
            yerr=spreads,
            color=COLOUR[one.colour],
            marker=one.marker,
            fillstyle="none" if one.is_ring else "full",
            markersize=4.5,
            linewidth=1.2 if one.is_real else 1.6,
            linestyle=(0, (3, 2)) if one.is_real else "solid",
            elinewidth=1,
            zorder=2 if one.is_real else 3,
        )
        ends.append((one.name, one.colour, float(at[-1]), float(means[-1])))
    for mean in levels.values():
        axes.axhline(mean, color=COLOUR["full"], linewidth=1.2, linestyle=(0, (5, 3)))
    axes.margins(x=0.07, y=0.07)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    quantity.draw_axis(axes, every)
    axes.autoscale_view()
    ends += [(name, "full", axes.get_xlim()[1], mean) for name, mean in levels.items()]
    _label(axes, ends, height)


def _shifts(at: Floats, count: int) -> Floats:
    """Factors that set points at one place side by side: far apart where there is one place, else hardly."""
    spread = math.log(at[-1] / at[0]) * 0.03 if len(at) > 1 else 0.35
    return np.exp(np.linspace(-spread, spread, count)) if count > 1 else np.ones(1)


def _images_axis(axes: Axes, at: Floats) -> None:
    """A tick at every number of images, as long as there is room."""
    ticks: list[float] = []
    nearest = math.log(at[-1] / at[0]) / 12 if len(at) > 1 else 0.0
    for value in at:
        if not ticks or math.log(value / ticks[-1]) > nearest:
            ticks.append(float(value))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(at) == 1:
        axes.set_xlim(at[0] / 1.6, at[0] * 1.6)


def _bytes_axis(axes: Axes, at: Floats) -> None:
    if len(at) == 1:
        axes.set_xlim(at[0] / 1.6, at[0] * 1.6)
    narrow = at[-1] < 5 * at[0]
    subs = (1, 2, 5) if at[-1] < 300 * at[0] else (1,)
    axes.xaxis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))


def _label(axes: Axes, ends: Sequence[tuple[str, str, float, float]], height: float) -> None:
    """Write each line's name to the right of the axes, as near its end as the others let it, with a thin line to it."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: -end[3])
    step = _LINE_HEIGHT / (height - _AROUND)
    room = [step * _rows(name) for name, *_ in ends]
    wanted = [(mean - low) / (high - low) for *_, mean in ends]
    for (name, colour, x, mean), y in zip(ends, spread_out(wanted, room), strict=True):
        axes.annotate(
            "\n".join(_wrapped(name)),
            xy=(x, mean),
            xytext=(1.04, y),
            textcoords="axes fraction",
            va="center",
            size=7.8,
            arrowprops={"color": COLOUR[colour], "alpha": 0.5, **_LEADER},
            annotation_clip=False,
        )


def spread_out(wanted: Sequence[float], room: Sequence[float]) -> list[float]:
    """Move places on a line of length 1, as little as need be, until none is in another's room.

    Args:
        wanted: from high to low.
        room: what each takes, half above and half below its place; together at most 1.
    """
    places: list[float] = []
    ceiling = 1.0
    for place, own in zip(wanted, room, strict=True):
        places.append(min(place, ceiling - own / 2))
        ceiling = places[-1] - own / 2
    floor = 0.0
    for number in reversed(range(len(places))):
        places[number] = max(places[number], floor + room[number] / 2)
        floor = places[number] + room[number] / 2
    return places


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, _LABEL_LETTERS, break_long_words=False)


def _rows(name: str) -> int:
    return len(_wrapped(name))


_IMAGES = Quantity(
    name="images per class",
    horizontal="Images per class",
    of=lambda line: line.row.images_per_class,
    draw_axis=_images_axis,
    is_count=True,
)
_BYTES = Quantity(
    name="bytes",
    horizontal="Bytes, labels included",
    of=lambda line: line.row.bytes_total,
    draw_axis=_bytes_axis,
    is_count=False,
)
