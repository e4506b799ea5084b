"""The report's figures: SVG whose colours are variables of the page, so that they follow its light or dark theme.

Letters: K classes, T iterations.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from raydd.evaluation.records import Subject
from raydd.report.reading import Line

Floats = NDArray[np.float64]

_VARIABLES = ("ink", "muted", "rule", "skipped", *get_args(Subject))
_COLOUR = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
"""Stand-ins that matplotlib can draw with; `_themed` turns each into the page's variable of that name."""

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": _COLOUR["rule"],
    "axes.labelcolor": _COLOUR["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _COLOUR["rule"],
    "grid.linewidth": 0.6,
    "text.color": _COLOUR["ink"],
    "xtick.color": _COLOUR["rule"],
    "ytick.color": _COLOUR["rule"],
    "xtick.labelcolor": _COLOUR["muted"],
    "ytick.labelcolor": _COLOUR["muted"],
    "ytick.major.size": 0,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_INCHES = 3.6
_MOST_POINTS = 1200
_MOST_CLASSES = 24


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of the page."""

    title: str
    svg: str
    legend: Mapping[str, str]
    """What each colour, by the name of its variable, stands for."""
    caption: str = ""


@dataclass(frozen=True)
class Lane:
    """One line of the dot plot."""

    subject: str
    name: str
    conditions: str
    accuracies: Sequence[float]


def students(lanes: Sequence[Lane]) -> Panel:
    """Draw every student's test accuracy as a dot, a lane per group, with the mean and one standard deviation."""

    def draw(axes: Axes) -> None:
        for y, lane in enumerate(lanes):
            _draw_lane(axes, y, lane)
        axes.set(ylim=(len(lanes) - 0.78, -0.7), yticks=np.arange(len(lanes) - 1) + 0.26, yticklabels=[])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.06)

    return _panel("Every student", "Test accuracy", draw, height=0.5 + 0.6 * len(lanes), legend={})


def classes(names: Sequence[str], accuracies: Mapping[str, Sequence[float]], legend: Mapping[str, str]) -> Panel:
    """Draw each class's test accuracy as bars.

    Args:
        names: the K class names.
        accuracies: the subjects to compare, the first of which decides what is shown of many classes; K fractions each.
        legend: what the page calls the subjects.
    """
    first = next(iter(accuracies.values()))
    shown, caption = list(range(len(names))), ""
    if len(names) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        ranked = sorted(shown, key=first.__getitem__)
        shown = ranked[:half] + ranked[-half:]
        caption = f"The {half} worst and the {half} best of {len(names)} classes."
    thickness = 0.78 / len(accuracies)

    def draw(axes: Axes) -> None:
        for number, (subject, values) in enumerate(accuracies.items()):
            offsets = np.arange(len(shown)) + (number - (len(accuracies) - 1) / 2) * thickness
            axes.barh(offsets, [values[k] for k in shown], height=thickness * 0.86, color=_COLOUR[subject])
        axes.set_yticks(range(len(shown)), [names[k] for k in shown])
        axes.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, None))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))

    height = 0.5 + len(shown) * (0.08 + 0.07 * len(accuracies))
    return _panel("Accuracy by class", "Test accuracy", draw, height=height, legend=legend, caption=caption)


def distillation(lines: Sequence[Line]) -> list[Panel]:
    """Draw one stage's outer loop; a quantity that the method does not have gets no panel."""
    drawers = (("loss", _loss), ("learned_lr", _learned_lr), ("start_epoch", _start_epochs))
    return [drawer(lines) for name, drawer in drawers if np.isfinite(_column(lines, name)).any()]


def experts(lines: Sequence[Line]) -> Panel:
    """Draw the accuracies of every expert over its epochs, and their means."""
    curves = {
        colour: name
        for colour, name in {"random": "train_accuracy", "synthetic": "test_accuracy"}.items()
        if np.isfinite(_column(lines, name)).any()
    }

    def draw(axes: Axes) -> None:
        for colour, name in curves.items():
            for _, own in groupby(lines, key=lambda line: line["expert"]):
                axes.plot(*_mean_by_epoch(list(own), name), color=_COLOUR[colour], linewidth=0.7, alpha=0.35)
            axes.plot(*_mean_by_epoch(lines, name), color=_COLOUR[colour], linewidth=1.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    count = len({line["expert"] for line in lines})
    legend = {colour: name.replace("_", " ") for colour, name in curves.items()}
    caption = f"{count} experts; the bold line is their mean." if count > 1 else ""
    return _panel("Expert accuracy", "Epoch", draw, legend=legend, caption=caption)


def running_mean(values_T: Floats, window: int) -> Floats:
    """Average the finite ones of each value and the `window - 1` before it; NaN where there are none."""
    finite = np.isfinite(values_T)
    sums = np.cumsum(np.where(finite, values_T, 0.0))
    counts = np.cumsum(finite).astype(np.float64)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _draw_lane(axes: Axes, y: float, lane: Lane) -> None:
    """Draw a lane's dots, on five heights so that fewer hide each other, and write what it is above them."""
    values, colour = np.asarray(lane.accuracies), _COLOUR[lane.subject]
    mean, heights = values.mean(), np.full(len(values), float(y))
    summary = f"{100 * mean:.2f}"
    if len(values) > 1:
        spread = values.std(ddof=1)
        summary += f" ± {100 * spread:.2f}"
        axes.plot([mean - spread, mean + spread], [y, y], color=colour, linewidth=10, alpha=0.18)
        heights += 0.06 * (np.arange(len(values)) % 5 - 2)
    axes.plot([mean], [y], marker="|", markersize=15, markeredgewidth=1.2, color=_COLOUR["ink"])
    axes.scatter(values, heights, s=16, color=colour, alpha=0.75, linewidths=0)
    across = axes.get_yaxis_transform()
    axes.text(0, y - 0.5, lane.name, transform=across, in_layout=False)
    axes.text(1, y - 0.5, f"{summary} %", transform=across, in_layout=False, ha="right")
    axes.text(0, y - 0.27, lane.conditions, transform=across, in_layout=False, size=7, color=_COLOUR["muted"])


def _loss(lines: Sequence[Line]) -> Panel:
    iteration, loss, skipped = (_column(lines, name) for name in ("iteration", "loss", "skipped"))
    window = max(2, len(lines) // 40)

    def draw(axes: Axes) -> None:
        axes.plot(*_thinned(iteration, loss), color=_COLOUR["synthetic"], linewidth=0.6, alpha=0.4)
        axes.plot(*_thinned(iteration, running_mean(loss, window)), color=_COLOUR["synthetic"], linewidth=1.8)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if high < 30 * low else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        at = iteration[skipped > 0]
        bottom = np.full(len(at), 0.02)
        axes.plot(at, bottom, "|", color=_COLOUR["skipped"], markersize=7, transform=axes.get_xaxis_transform())

    count = int(np.nansum(skipped))
    legend = {"synthetic": f"loss, and its mean over {window} iterations"}
    legend |= {"skipped": "skipped iteration"} if count else {}
    rollbacks = _column(lines, "rollbacks")
    caption = f"{len(lines):,} iterations, {count:,} of them skipped"
    caption += f", {np.nanmax(rollbacks):.0f} roll-backs." if np.nansum(rollbacks) else "."
    return _panel("Loss", "Iteration", draw, legend=legend, caption=caption)


def _learned_lr(lines: Sequence[Line]) -> Panel:
    def draw(axes: Axes) -> None:
        points = _thinned(_column(lines, "iteration"), _column(lines, "learned_lr"))
        axes.plot(*points, color=_COLOUR["synthetic"], linewidth=1.8)

    return _panel("Learned step size", "Iteration", draw, legend={})


def _start_epochs(lines: Sequence[Line]) -> Panel:
    iteration, drawn, bound = (_column(lines, name) for name in ("iteration", "start_epoch", "max_start_epoch"))

    def draw(axes: Axes) -> None:
        axes.scatter(*_thinned(iteration, drawn), s=3.5, color=_COLOUR["synthetic"], alpha=0.55, linewidths=0)
        axes.plot(*_thinned(iteration, bound), color=_COLOUR["init"], linewidth=1.6, drawstyle="steps-post")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    legend = {"synthetic": "start epoch drawn", "init": "upper bound, exclusive"}
    return _panel("Start epochs", "Iteration", draw, legend=legend)


def _panel(
    title: str,
    horizontal: str,
    draw: Callable[[Axes], None],
    *,
    legend: Mapping[str, str],
    height: float = 2.4,
    caption: str = "",
) -> Panel:
    """Draw into fresh axes of `height` inches and take the SVG."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(_INCHES, height), layout="constrained")
        axes = figure.add_subplot(xlabel=horizontal)
        draw(axes)
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return Panel(title=title, svg=_themed(text.getvalue(), title), legend=legend, caption=caption)


def _themed(svg: str, label: str) -> str:
    """Make an SVG file part of a page: its size, fonts and colours the page's, no ids that repeat, no namespaces."""
    box = re.search(r'viewBox="[^"]+"', svg)
    body = re.search(r"<svg[^>]*>(.*)</svg>", svg, re.DOTALL)
    if box is None or body is None:
        raise ValueError("matplotlib wrote no SVG")
    drawing = re.sub(r'<defs>\s*<style.*?</defs>| id="[^"_]*_\d+"|font-family: [^;"]*;?', "", body[1], flags=re.DOTALL)
    for name, stand_in in _COLOUR.items():
        drawing = drawing.replace(stand_in, f"var(--{name})")
    return f'<svg {box[0]} role="img" aria-label="{label}">{drawing}</svg>'


def _column(lines: Sequence[Line], name: str) -> Floats:
    """One quantity of metrics lines, float64 [T]; NaN where a line lacks it."""
    values = (line.get(name) for line in lines)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _thinned(x_T: Floats, y_T: Floats) -> tuple[Floats, Floats]:
    """Points at equal steps, few enough to draw."""
    step = -(-len(x_T) // _MOST_POINTS)
    return x_T[::step], y_T[::step]


def _mean_by_epoch(lines: Sequence[Line], name: str) -> tuple[Floats, Floats]:
    """The epochs at which a quantity was measured, and its means over experts there."""
    epochs, values = _column(lines, "epoch"), _column(lines, name)
    known = np.isfinite(values)
    at = np.unique(epochs[known])
    return at, np.array([values[known & (epochs == epoch)].mean() for epoch in at])
