"""What a set of several stages gains with each: accuracy against the images so far, and the images stage by stage."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raydd.evaluation.tables.summary import SummaryRow, with_all_images
from raydd.report.drawing import COLOUR, Panel, panel

Way = tuple[str, str]
"""Mode and budget."""

_COLOURS = {
    ("chain", "matched"): "synthetic",
    ("chain", "reference"): "ema",
    ("new_only", "matched"): "k_center",
    ("new_only", "reference"): "herding",
    ("single_shot", "reference"): "full",
}
_DASHED = (0, (4, 2.5))
_MARKERS = {"chain": "o", "new_only": "s", "single_shot": "D"}
_MODES = {"chain": "chain", "new_only": "new images only"}
_EXPLAINED = {
    "chain": "A chain trains one network on the images of stage 0, then on those of stages 0 and 1, and so on.",
    "new_only": "New images only: on those of stage 0, then on those of stage 1, and so on.",
    "single_shot": "A single shot trains on all at once.",
}
_TOLD_APART = ("subject", "network", "labels", "recipe")


def accuracy_by_stage(summary: Sequence[SummaryRow], names: Mapping[str, str]) -> list[Panel]:
    """Draw what students of the distilled set reached after each stage; nothing where there is only one.

    Args:
        summary: of all records.
        names: what the page calls the subjects.

    Returns:
        A panel for each network, label regime and recipe.
    """
    rows = [row for row in with_all_images(summary) if row.subject in ("synthetic", "ema") and row.n]
    if len({row.stage for row in rows}) < 2:
        return []
    varying = [name for name in _TOLD_APART if len({getattr(row, name) for row in rows}) > 1]

    def title(row: SummaryRow) -> str:
        words = [names[row.subject] if name == "subject" else str(getattr(row, name)) for name in varying]
        return ", ".join(["Accuracy after each stage", *words])

    rows.sort(key=title)
    return [_panel(name, list(own)) for name, own in groupby(rows, key=title)]


def _panel(title: str, rows: Sequence[SummaryRow]) -> Panel:
    ways = {
        way: [row for _, row in sorted({row.stage: row for row in rows if (row.mode, row.budget) == way}.items())]
        for way in _COLOURS
        if any((row.mode, row.budget) == way for row in rows)
    }

    def draw(axes: Axes) -> None:
        for way, own in ways.items():
            _draw_way(axes, way, own)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, None)

    legend = {_COLOURS[way]: _in_words(way) for way in ways}
    return panel(title, "Images per class so far", draw, legend=legend, height=2.8, caption=_caption(ways))


def _draw_way(axes: Axes, way: Way, rows: Sequence[SummaryRow]) -> None:
    """Draw a line with a band, or a point with a bar where there is only one stage."""
    mode, budget = way
    colour = COLOUR[_COLOURS[way]]
    images = np.array([row.images_per_class for row in rows])
    means = np.array([row.mean for row in rows], dtype=np.float64)
    spreads = np.array([row.std or 0.0 for row in rows])
    dashes = _DASHED if budget == "reference" else "solid"
    if len(rows) > 1:
        axes.fill_between(images, means - spreads, means + spreads, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.errorbar(images, means, yerr=spreads, color=colour, elinewidth=1.2)
    axes.plot(images, means, color=colour, linewidth=1.8, linestyle=dashes, marker=_MARKERS[mode], markersize=4)


def _in_words(way: Way) -> str:
    mode, budget = way
    if mode == "single_shot":
        return "single shot"
    dashed = " (dashed)" if budget == "reference" else ""
    return f"{_MODES[mode]}, {budget} budget{dashed}"


def _caption(ways: Mapping[Way, Sequence[SummaryRow]]) -> str:
    """What the modes are that are drawn, and what the bands."""
    modes = dict.fromkeys(mode for mode, _ in ways)
    counts = sorted({row.n for own in ways.values() for row in own})
    students = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    words = [_EXPLAINED[mode] for mode in modes]
    if any(budget == "matched" for _, budget in ways):
        words.append("A matched budget has as many optimiser steps over all stages as a single shot.")
    return " ".join([*words, f"Means over {students} students; bands and bars are one standard deviation."])
