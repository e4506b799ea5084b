"""What the report's figures share: SVG whose colours are variables of the page, and so follow its light or dark theme.

Letters: T iterations.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import get_args

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raydd.evaluation.record import Subject
from raydd.report.contents import JsonLine

Floats = NDArray[np.float64]

RUNS = tuple(f"run_{number}" for number in range(1, 9))
"""The variables of the colours that tell runs apart, in the order in which they are given away."""
_VARIABLES = ("ink", "muted", "rule", "skipped", *get_args(Subject), *RUNS)
COLOUR = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
"""Stand-ins that matplotlib can draw with; `panel` turns each into the page's variable of that name."""

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": COLOUR["rule"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": COLOUR["rule"],
    "grid.linewidth": 0.6,
    "text.color": COLOUR["ink"],
    "xtick.color": COLOUR["rule"],
    "ytick.color": COLOUR["rule"],
    "xtick.labelcolor": COLOUR["muted"],
    "ytick.labelcolor": COLOUR["muted"],
    "ytick.major.size": 0,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_MOST_POINTS = 1200


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of the page."""

    title: str
    svg: str
    legend: Mapping[str, str]
    """What each colour, by the name of its variable, stands for."""
    caption: str = ""


def panel(
    title: str,
    horizontal: str,
    draw: Callable[[Axes], None],
    *,
    legend: Mapping[str, str],
    width: float = 3.6,
    height: float = 2.4,
    caption: str = "",
) -> Panel:
    """Draw into fresh axes, with their labels `width` by `height` inches, and take the SVG."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser sets the letters, in fonts of its own
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot(xlabel=horizontal)
        draw(axes)
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return Panel(title=title, svg=_themed(text.getvalue(), title), legend=legend, caption=caption)


def column(lines: Sequence[JsonLine], name: str) -> Floats:
    """One quantity of metrics lines, float64 [T]; NaN where a line lacks it."""
    values = (line.get(name) for line in lines)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def thinned(x_T: Floats, y_T: Floats) -> tuple[Floats, Floats]:
    """Points at equal steps, few enough to draw."""
    step = -(-len(x_T) // _MOST_POINTS)
    return x_T[::step], y_T[::step]


def _themed(svg: str, label: str) -> str:
    """Make an SVG file part of a page: its size, fonts and colours the page's, no ids that repeat, no namespaces."""
    box = re.search(r'viewBox="[^"]+"', svg)
    body = re.search(r"<svg[^>]*>(.*)</svg>", svg, re.DOTALL)
    if box is None or body is None:
        raise ValueError("matplotlib wrote no SVG")
    drawing = re.sub(r'<defs>\s*<style.*?</defs>| id="[^"_]*_\d+"|font-family: [^;"]*;?', "", body[1], flags=re.DOTALL)
    for name, stand_in in COLOUR.items():
        drawing = drawing.replace(stand_in, f"var(--{name})")
    return f'<svg {box[0]} role="img" aria-label="{escape(label)}">{drawing}</svg>'
