"""Figures of what probes found: accuracy over classes seen, under attack and corruptions, and of rankings."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raydd.evaluation.probes.continual import Curve, Memory
from raydd.evaluation.probes.corruptions import CORRUPTIONS
from raydd.evaluation.probes.rank_correlation import CONFIDENCE, Estimate
from raydd.evaluation.probes.search import EARLY, Searched
from raydd.evaluation.tables.probe_tables import ProbeRow
from raydd.evaluation.tables.words import SUBJECTS
from raydd.evaluation.tables.words import labels as labels_in_words
from raydd.report import figures
from raydd.report.drawing import COLOUR, Panel, panel

_DASHED = (0, (4, 2.5))
_SET = "set"
_AS_MANY_BYTES = "_bytes"
_MEMORIES = (_SET, *get_args(Memory))
_ROBUST = "robust_accuracy_"


def learning(found: Sequence[Curve]) -> list[Panel]:
    """Draw how accuracy falls as classes come, a line a memory: a panel for each set, with all the data in each."""
    ordered = sorted(found, key=lambda curve: _MEMORIES.index(curve.memory))
    sets = list(dict.fromkeys(curve.subject for curve in ordered if curve.subject != "full"))
    title = "Accuracy over the classes seen"
    if len(sets) < 2:
        return [_learning(title, ordered)] if found else []
    return [
        _learning(f"{title}, {SUBJECTS[own]}", [curve for curve in ordered if curve.subject in (own, "full")])
        for own in sets
    ]


def withstood(rows: Sequence[ProbeRow]) -> list[Panel]:
    """Draw what is left of accuracy under attack, and under every corruption.

    Returns:
        Panels for each regime of labels, with all the real data, whose labels are hard, in each.
    """
    known = [row for row in rows if row.count]
    of_sets = [row.labels for row in known if row.subject != "full"]
    regimes = list(dict.fromkeys(of_sets or [row.labels for row in known]))
    panels = []
    for labels in regimes:
        own = {row.subject: row.values for row in known if row.subject == "full" or row.labels == labels}
        suffix = f", {labels_in_words(labels)} labels" if len(regimes) > 1 else ""
        names = dict.fromkeys(name for values in own.values() for name in values)
        attacks = {name: f"ε = {name.removeprefix(_ROBUST)}/255" for name in names if name.startswith(_ROBUST)}
        mean = {"corrupted_accuracy": "corrupted, mean"} if "corrupted_accuracy" in names else {}
        corruptions = {f"{kind}_accuracy": kind.replace("_", " ") for kind in CORRUPTIONS}
        shown = {
            "Accuracy clean, under attack and corrupted": {"clean_accuracy": "clean"} | attacks | mean,
            "Accuracy under each corruption": {name: words for name, words in corruptions.items() if name in names},
        }
        panels += [_bars(f"{title}{suffix}", words, own) for title, words in shown.items() if words]
    return panels


def rankings(found: Sequence[Searched]) -> list[Panel]:
    """Draw each architecture's accuracy in truth against that on a proxy: a panel a proxy, draws together."""
    groups: dict[tuple[str, str, str], list[Searched]] = {}
    for one in found:
        groups.setdefault((one.proxy, one.subject, one.labels), []).append(one)
    return [_ranking(_ranking_title(key, list(groups)), key[0], own) for key, own in groups.items()]


def _learning(title: str, found: Sequence[Curve]) -> Panel:
    def draw(axes: Axes) -> None:
        for curve in found:
            colour, classes, means = COLOUR[_colour(curve)], np.array(curve.classes), np.array(curve.accuracy)
            if curve.accuracy_std is not None:
                spreads = np.array(curve.accuracy_std)
                axes.fill_between(classes, means - spreads, means + spreads, color=colour, alpha=0.12, linewidth=0)
            dashes = _DASHED if curve.memory.endswith(_AS_MANY_BYTES) else "solid"
            axes.plot(classes, means, color=colour, linewidth=1.8, linestyle=dashes, marker="o", markersize=4)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    counts = sorted({curve.count for curve in found})
    orders = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    caption = f"Means over {orders} orders of the classes; bands are one standard deviation." if counts[-1] > 1 else ""
    return panel(title, "Classes seen", draw, legend=_memories(found), height=2.8, caption=caption)


def _colour(curve: Curve) -> str:
    """The memory's, by the kind of its images."""
    return curve.subject if curve.memory == _SET else curve.memory.removesuffix(_AS_MANY_BYTES)


def _memories(found: Sequence[Curve]) -> dict[str, str]:
    """What the colours stand for, and where dashes are."""
    legend: dict[str, str] = {}
    for colour in dict.fromkeys(map(_colour, found)):
        is_dashed = {curve.memory.endswith(_AS_MANY_BYTES) for curve in found if _colour(curve) == colour}
        words = {True: " of as many bytes (dashed)", False: ""}[is_dashed == {True}]
        legend[colour] = f"{SUBJECTS[colour]}{' (dashed: of as many bytes)' if len(is_dashed) > 1 else words}"
    return legend


def _bars(
    title: str, words: Mapping[str, str], values: Mapping[str, Mapping[str, tuple[float, float | None]]]
) -> Panel:
    means = {subject: [own[name][0] if name in own else np.nan for name in words] for subject, own in values.items()}
    return figures.classes(list(words.values()), means, {subject: SUBJECTS[subject] for subject in means}, title)


def _ranking(title: str, proxy: str, found: Sequence[Searched]) -> Panel:
    colour = COLOUR["full" if proxy == EARLY else proxy]

    def draw(axes: Axes) -> None:
        for one in found:
            x, y = ([pair[place] for pair in one.pairs] for place in (1, 2))
            axes.scatter(x, y, s=20, color=colour, alpha=0.75, linewidths=0)
            at = [name for name, *_ in one.pairs].index(one.pick)
            axes.scatter(x[at], y[at], s=60, facecolors="none", edgecolors=COLOUR["ink"], linewidths=1.2)
        axes.set(ylabel="Test accuracy in truth")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    said = [
        f"{f'Draw {one.draw}: ' * (len(found) > 1)}Spearman {interval(one.spearman)}, "
        f"regret {signed(100 * one.regret, 2)} points."
        for one in found
    ]
    caption = " ".join([*said, f"A ring is about the one that is picked of {found[0].count} architectures."])
    return panel(title, "Accuracy by the proxy", draw, legend={}, height=2.8, caption=caption)


def _ranking_title(key: tuple[str, str, str], keys: Sequence[tuple[str, str, str]]) -> str:
    """Names the proxy, and the set and its labels where the proxy is there twice."""
    proxy, subject, labels = key
    others = [other for other in keys if other[0] == proxy]
    words = [f"Ranking: {'early stopping' if proxy == EARLY else SUBJECTS[proxy]}"]
    if len({other[1] for other in others}) > 1:
        words.append(f"steps of the {SUBJECTS[subject]}")
    if len({other[2] for other in others}) > 1:
        words.append(f"{labels_in_words(labels)} labels")
    return ", ".join(words)


def interval(found: Estimate) -> str:
    """A coefficient with its interval."""
    if found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return signed(found.value, 2)
    sure = f"{100 * CONFIDENCE:.0f}\N{NO-BREAK SPACE}%"
    return f"{signed(found.value, 2)} ({sure}: {signed(found.low, 2)} to {signed(found.high, 2)})"


def signed(value: float, digits: int) -> str:
    """A number with so many digits after the point, and a true minus sign."""
    return f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")
