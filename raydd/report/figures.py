"""Figures that compare sets: students, classes, how alike images are.

Letters: K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raydd.report.drawing import COLOUR, Panel, panel

_MOST_CLASSES = 24


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
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.06)

    return panel("Every student", "Test accuracy", draw, height=0.5 + 0.6 * len(lanes), legend={})


def classes(
    names: Sequence[str],
    accuracies: Mapping[str, Sequence[float]],
    legend: Mapping[str, str],
    title: str = "Accuracy by class",
) -> Panel:
    """Draw each class's test accuracy as bars.

    Args:
        names: the K class names.
        accuracies: what to compare, by its colour, the first of which decides what is shown of many classes; K
            fractions each.
        legend: what the page calls it.
        title: the figure's, which no other of the page has.
    """
    shown, caption = _extremes(next(iter(accuracies.values())), "worst", "best")
    thickness = 0.78 / len(accuracies)

    def draw(axes: Axes) -> None:
        for number, (colour, values) in enumerate(accuracies.items()):
            offsets = np.arange(len(shown)) + (number - (len(accuracies) - 1) / 2) * thickness
            axes.barh(offsets, [values[k] for k in shown], height=thickness * 0.86, color=COLOUR[colour])
        _name_classes(axes, [names[k] for k in shown])
        axes.set_xlim(0, None)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))

    height = 0.5 + len(shown) * (0.08 + 0.07 * len(accuracies))
    return panel(title, "Test accuracy", draw, height=height, legend=legend, caption=caption)


def similarity(classes: Mapping[str, Mapping[str, float]], legend: Mapping[str, str]) -> Panel:
    """Draw how alike the images of each class are: dots, and a line for random real images.

    Args:
        classes: for each subject, the first of which decides what is shown of many classes, the cosine by class.
        legend: what the page calls the subjects.
    """
    first = next(iter(classes.values()))
    names = list(first)
    shown, caption = _extremes(list(first.values()), "most diverse", "least diverse")

    def draw(axes: Axes) -> None:
        rows = np.arange(len(shown))
        for subject, cosines in classes.items():
            values = [cosines[names[k]] for k in shown]
            if subject == "random":
                axes.vlines(values, rows - 0.34, rows + 0.34, color=COLOUR[subject], linewidth=1.8)
            else:
                axes.scatter(values, rows, s=26, color=COLOUR[subject], linewidths=0, zorder=3)
        _name_classes(axes, [names[k] for k in shown])
        axes.margins(x=0.06)

    height = 0.5 + len(shown) * 0.2
    title = "Similarity within a class"
    return panel(title, "Mean cosine to the centroid", draw, height=height, legend=legend, caption=caption)


def _draw_lane(axes: Axes, y: float, lane: Lane) -> None:
    """Draw a lane's dots, on five heights so that fewer hide each other, and write what it is above them."""
    values, colour = np.asarray(lane.accuracies), COLOUR[lane.subject]
    mean, heights = values.mean(), np.full(len(values), float(y))
    summary = f"{100 * mean:.2f}"
    if len(values) > 1:
        spread = values.std(ddof=1)
        summary += f" ± {100 * spread:.2f}"
        axes.plot([mean - spread, mean + spread], [y, y], color=colour, linewidth=10, alpha=0.18)
        heights += 0.06 * (np.arange(len(values)) % 5 - 2)
    axes.plot([mean], [y], marker="|", markersize=15, markeredgewidth=1.2, color=COLOUR["ink"])
    axes.scatter(values, heights, s=16, color=colour, alpha=0.75, linewidths=0)
    across = axes.get_yaxis_transform()
    axes.text(0, y - 0.5, lane.name, transform=across, in_layout=False)
    axes.text(1, y - 0.5, f"{summary} %", transform=across, in_layout=False, ha="right")
    axes.text(0, y - 0.27, lane.conditions, transform=across, in_layout=False, size=7, color=COLOUR["muted"])


def _extremes(values_K: Sequence[float], lowest: str, highest: str) -> tuple[list[int], str]:
    """The classes to show: all, or of many those with the lowest and the highest values; then a caption says so."""
    if len(values_K) <= _MOST_CLASSES:
        return list(range(len(values_K))), ""
    half = _MOST_CLASSES // 2
    ranked = sorted(range(len(values_K)), key=values_K.__getitem__)
    return ranked[:half] + ranked[-half:], f"The {half} {lowest} and the {half} {highest} of {len(values_K)} classes."


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Give every class a row, from the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
