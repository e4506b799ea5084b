"""The report: one HTML page with everything in it, made from what a run left behind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from raydd.report import figures
from raydd.report.figures import Lane, Panel
from raydd.report.gallery import Gallery, gallery
from raydd.report.reading import Run, read
from raydd.report.tables import NAMES, Results, results
from raydd.storage import Folder
from raydd.synthetic import preview

__all__ = ["build", "write"]

_COMPARED = ("synthetic", "imported", "random", "full")


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    title: str
    panels: list[Panel]


def build(run: Folder) -> str:
    """Make the report of a run folder as one HTML document that needs nothing outside itself.

    Raises:
        ArtefactError: the folder holds no record, or something in it is damaged.
    """
    return _render(read(run))


def write(run: Folder) -> None:
    """Write `report.html` into a run folder and, where there is a synthetic set, its picture `preview.png`.

    Raises:
        ArtefactError: as for `build`; then nothing is written.
    """
    found = read(run)
    run.write("report.html", _render(found).encode())
    if found.after is not None:
        run.write("preview.png", preview(found.after.pixels(), found.after.labels))


def _render(run: Run) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "duration": _duration}
    found = results(run.table, run.network)
    return environment.get_template("page.html").render(
        name=run.table["run"][0].as_py(),
        finished=max(filter(None, run.table["time"].to_pylist()), default=None),
        names=NAMES,
        results=found,
        students=[_students(found), *_classes(run, found)] if found.tiles else [],
        sections=_sections(run),
        gallery=_gallery(run),
        after=run.after,
        config=run.config,
        card=_flat(run.after.card) if run.after else {},
    )


def _sections(run: Run) -> list[Section]:
    many = len(run.distillation) > 1
    stages = [
        Section(f"Distilling, stage {stage.lstrip('0') or 0}" if many else "Distilling", figures.distillation(lines))
        for stage, lines in run.distillation.items()
    ]
    experts = Section("Experts", [figures.experts(run.experts)] if run.experts else [])
    return [section for section in (*stages, experts) if section.panels]


def _students(found: Results) -> Panel:
    finished = [entry for entry in found.entries if entry.row.n]
    return figures.students(
        [Lane(e.row.subject, NAMES[e.row.subject], e.conditions, e.row.accuracies) for e in finished]
    )


def _classes(run: Run, found: Results) -> list[Panel]:
    rows = [tile.entry.row for tile in found.tiles if tile.entry.row.subject in _COMPARED]
    measured = {row.subject: row.class_accuracy for row in rows if row.class_accuracy}
    if not measured:
        return []
    count = len(next(iter(measured.values())))
    names = run.after.class_names if run.after else tuple(str(k) for k in range(count))
    return [figures.classes(names, measured, {subject: NAMES[subject] for subject in measured})]


def _gallery(run: Run) -> Gallery | None:
    return gallery(run.before, run.after) if run.after else None


def _flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A card's leaves by dotted path."""
    leaves: dict[str, Any] = {}
    for name, value in card.items():
        leaves |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def _percent(fraction: float | None, digits: int = 2, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}{unit}"


def _number(value: float | None) -> str:
    """Whole numbers with separators, others to four digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value % 1 == 0 else f"{value:.4g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds % 60:.0f} s"
