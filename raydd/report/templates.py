"""Pages from templates, and how they write numbers."""

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from raydd.evaluation.tables.words import labels
from raydd.report.cost import flops_in_words

_UNITS = ("B", "kB", "MB", "GB", "TB")


def rendered(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "duration": duration, "size": size}
    environment.filters |= {"flops": flops_in_words, "regime": labels}
    return environment.get_template(template).render(values)


def percent(fraction: float | None, digits: int = 2, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    """A fraction in per cent."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}{unit}"


def number(value: float | None) -> str:
    """Whole numbers with separators, others to four digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value % 1 == 0 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Seconds in the units that one would say."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds % 60:.0f} s"


def size(count: float | None) -> str:
    """Bytes in decimal units, to three digits."""
    if count is None:
        return "–"
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    value = count / 1000**power
    return f"{value:.0f} {_UNITS[power]}" if value >= 100 or power == 0 else f"{value:.3g} {_UNITS[power]}"
