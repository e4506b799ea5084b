"""Figures of what went on over time: distilling, recovering, training experts.

Letters: T iterations.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from raydd.report.contents import JsonLine, Recovery
from raydd.report.drawing import COLOUR, Floats, Panel, column, panel, thinned
from raydd.report.losses import LossName


def distillation(lines: Sequence[JsonLine], named: LossName) -> list[Panel]:
    """Draw one stage's outer loop; a quantity that the method does not have gets no panel.

    Args:
        lines: a line per iteration.
        named: what the loss is called.
    """
    drawers = (("loss", partial(_loss, named)), ("learned_lr", _learned_lr), ("start_epoch", _start_epochs))
    return [drawer(lines) for name, drawer in drawers if np.isfinite(column(lines, name)).any()]


def recovery(found: Recovery) -> list[Panel]:
    """Draw how one stage's images were recovered, in means over packs of class groups; nothing before the first."""
    if not found.lines:
        return []
    drawers = (_recovery_loss, _moments_share, _active_images)
    return [drawer(found) for drawer in drawers]


def experts(lines: Sequence[JsonLine]) -> Panel:
    """Draw the accuracies of every expert over its epochs, and their means."""
    curves = {
        colour: name
        for colour, name in {"random": "train_accuracy", "synthetic": "test_accuracy"}.items()
        if np.isfinite(column(lines, name)).any()
    }

    once = {name for name in curves.values() if len(_mean_by_epoch(lines, name)[0]) == 1}

    def draw(axes: Axes) -> None:
        for colour, name in curves.items():
            ink = COLOUR[colour]
            for _, own in groupby(lines, key=lambda line: line["expert"]):
                at, values = _mean_by_epoch(list(own), name)
                if name in once:
                    axes.scatter(at, values, s=22, color=ink, alpha=0.75, linewidths=0)
                else:
                    axes.plot(at, values, color=ink, linewidth=0.7, alpha=0.35)
            if name not in once:
                axes.plot(*_mean_by_epoch(lines, name), color=ink, linewidth=1.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    count = len({line["expert"] for line in lines})
    words = {"train_accuracy": "training images, while learning", "test_accuracy": "test images"}
    legend = {colour: words[name] + ", dots" * (name in once) for colour, name in curves.items()}
    caption = f"{count} experts; bold: their mean." if count > 1 and set(curves.values()) - once else ""
    return panel("Expert accuracy", "Epoch", draw, legend=legend, caption=caption)


def running_mean(values_T: Floats, window: int) -> Floats:
    """Average the finite ones of each value and the `window - 1` before it; NaN where there are none."""
    finite = np.isfinite(values_T)
    sums = np.cumsum(np.where(finite, values_T, 0.0))
    counts = np.cumsum(finite).astype(np.float64)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _loss(named: LossName, lines: Sequence[JsonLine]) -> Panel:
    iteration, loss, skipped = (column(lines, name) for name in ("iteration", "loss", "skipped"))
    window = _window(lines)

    def draw(axes: Axes) -> None:
        _draw_smoothed(axes, iteration, loss, window, "synthetic")
        _log_scale(axes)
        at = iteration[skipped > 0]
        bottom = np.full(len(at), 0.02)
        axes.plot(at, bottom, "|", color=COLOUR["skipped"], markersize=7, transform=axes.get_xaxis_transform())

    count = int(np.nansum(skipped))
    legend = {"synthetic": f"each iteration; bold: mean of {window}"}
    legend |= {"skipped": "skipped iteration"} if count else {}
    rollbacks = column(lines, "rollbacks")
    caption = f"{named.meaning} {len(lines):,} iterations".lstrip()
    caption += f", {count:,} of them skipped" if count else ""
    caption += f", {np.nanmax(rollbacks):.0f} roll-backs." if np.nansum(rollbacks) else "."
    return panel(named.title, "Iteration", draw, legend=legend, caption=caption)


def _recovery_loss(found: Recovery) -> Panel:
    iteration, window = column(found.lines, "iteration"), _window(found.lines)

    def draw(axes: Axes) -> None:
        for colour, name in (("init", "ce"), ("synthetic", "loss")):
            _draw_smoothed(axes, iteration, column(found.lines, name), window, colour)
        _log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    legend = {"synthetic": "loss", "init": "its cross entropy"}
    caption = f"Averaged over {found.in_words}; the bold lines are means over {window} iterations."
    return panel("Recovery loss", "Iteration", draw, legend=legend, caption=caption)


def _moments_share(found: Recovery) -> Panel:
    def draw(axes: Axes) -> None:
        values = column(found.lines, "bn_share")
        _draw_smoothed(axes, column(found.lines, "iteration"), values, _window(found.lines), "synthetic")
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    caption = "What the distance to the teacher's batch norms makes of the loss."
    return panel("Share of the batch norm term", "Iteration", draw, legend={}, caption=caption)


def _active_images(found: Recovery) -> Panel:
    iteration, active = thinned(column(found.lines, "iteration"), column(found.lines, "active"))

    def draw(axes: Axes) -> None:
        axes.axhline(active.max(), color=COLOUR["random"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(iteration, active, color=COLOUR["synthetic"], linewidth=1.8, drawstyle="steps-post")
        axes.fill_between(iteration, active, step="post", color=COLOUR["synthetic"], alpha=0.18, linewidth=0)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    legend = {"synthetic": "of a pack", "random": "if all did all the time"}
    caption = "The area is image-iterations; what is left free below the line is saved."
    return panel("Images that take part", "Iteration", draw, legend=legend, caption=caption)


def _learned_lr(lines: Sequence[JsonLine]) -> Panel:
    def draw(axes: Axes) -> None:
        points = thinned(column(lines, "iteration"), column(lines, "learned_lr"))
        axes.plot(*points, color=COLOUR["synthetic"], linewidth=1.8)

    return panel("Learned step size", "Iteration", draw, legend={})


def _start_epochs(lines: Sequence[JsonLine]) -> Panel:
    iteration, drawn, bound = (column(lines, name) for name in ("iteration", "start_epoch", "max_start_epoch"))

    def draw(axes: Axes) -> None:
        axes.scatter(*thinned(iteration, drawn), s=3.5, color=COLOUR["synthetic"], alpha=0.55, linewidths=0)
        axes.plot(*thinned(iteration, bound), color=COLOUR["init"], linewidth=1.6, drawstyle="steps-post")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    legend = {"synthetic": "start epoch drawn", "init": "upper bound, exclusive"}
    return panel("Start epochs", "Iteration", draw, legend=legend)


def _window(lines: Sequence[JsonLine]) -> int:
    return max(2, len(lines) // 40)


def _draw_smoothed(axes: Axes, at_T: Floats, values_T: Floats, window: int, colour: str) -> None:
    """Draw a noisy quantity, faintly, and its running mean."""
    axes.plot(*thinned(at_T, values_T), color=COLOUR[colour], linewidth=0.6, alpha=0.4)
    axes.plot(*thinned(at_T, running_mean(values_T, window)), color=COLOUR[colour], linewidth=1.8)


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if high < 30 * low else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _mean_by_epoch(lines: Sequence[JsonLine], name: str) -> tuple[Floats, Floats]:
    """The epochs at which a quantity was measured, and its means over experts there."""
    epochs, values = column(lines, "epoch"), column(lines, name)
    known = np.isfinite(values)
    at = np.unique(epochs[known])
    return at, np.array([values[known & (epochs == epoch)].mean() for epoch in at])
