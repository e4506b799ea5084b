"""The report: one HTML page with everything in it, made from what a run left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from raydd.evaluation.tables.collection import leaves
from raydd.evaluation.tables.summary import final_stages
from raydd.report import curves, figures, probes
from raydd.report.contents import Recovery, RunContents, read
from raydd.report.diversity import Similarity, similarities
from raydd.report.drawing import Panel
from raydd.report.figures import Lane
from raydd.report.gallery import Gallery, gallery, stage_gallery
from raydd.report.stages import accuracy_by_stage
from raydd.report.tables import NAMES, Results, results
from raydd.report.templates import duration, percent, rendered
from raydd.sets.synthetic import preview
from raydd.storage import Folder

_COMPARED = ("synthetic", "imported", "random", "full")


@dataclass(frozen=True)
class Fact:
    """A number above the figures."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class FigureSection:
    """Figures under one heading."""

    title: str
    panels: list[Panel]
    facts: Sequence[Fact] = ()


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


def _render(run: RunContents) -> str:
    found, similar = results(run.table, run.network), similarities(run.table)
    return rendered(
        "page.html",
        name=run.table["run"][0].as_py(),
        finished=max(filter(None, run.table["time"].to_pylist()), default=None),
        names=NAMES,
        results=found,
        students=[_students(found), *_classes(run, found)] if found.tiles else [],
        similarities=similar,
        similarity=_similarity(similar),
        by_stage=accuracy_by_stage(run.table, NAMES),
        stages=stage_gallery(run.after) if run.after else None,
        probes=probes.sections(run.probes, run.pictures),
        sections=_sections(run),
        gallery=_gallery(run),
        after=run.after,
        config=run.config,
        card=leaves(run.after.card) if run.after else {},
    )


def _sections(run: RunContents) -> list[FigureSection]:
    distilling = {
        stage: FigureSection("Distilling", curves.distillation(lines)) for stage, lines in run.distillation.items()
    }
    recovering = {
        stage: FigureSection("Recovering", curves.recovery(found), _costs(found, run.after.card if run.after else {}))
        for stage, found in run.recovery.items()
    }
    experts = FigureSection("Experts", [curves.experts(run.experts)] if run.experts else [])
    return [section for section in (*_numbered(distilling), *_numbered(recovering), experts) if section.panels]


def _numbered(stages: Mapping[str, FigureSection]) -> list[FigureSection]:
    """The sections of stages, which their titles name where there are many."""
    if len(stages) < 2:
        return list(stages.values())
    return [
        replace(section, title=f"{section.title}, stage {stage.lstrip('0') or 0}") for stage, section in stages.items()
    ]


def _costs(found: Recovery, card: Mapping[str, Any]) -> list[Fact]:
    """What recovering took, and what it saved."""
    costs = []
    if card.get("uniform_iterations"):
        done, uniform = card["image_iterations"], card["uniform_iterations"]
        note = f"{done:,} of {uniform:,} that the same images would take if all took part in every iteration"
        costs.append(Fact("Image-iterations", percent(1 - done / uniform), "saved", note))
    if found.seconds:
        note = f"{found.image_iterations:,} in {duration(found.seconds)}, the time of {found.in_words}"
        costs.append(Fact("Speed", f"{found.image_iterations / found.seconds:,.0f}", "image-iterations a second", note))
    return costs


def _students(found: Results) -> Panel:
    last = final_stages([entry.row for entry in found.entries])
    finished = [entry for entry in found.entries if entry.row.n and entry.row in last]
    return figures.students(
        [Lane(e.row.subject, NAMES[e.row.subject], e.conditions, e.row.accuracies) for e in finished]
    )


def _classes(run: RunContents, found: Results) -> list[Panel]:
    rows = [tile.entry.row for tile in found.tiles if tile.entry.row.subject in _COMPARED]
    measured: dict[str, tuple[float, ...]] = {}
    for row in filter(lambda row: row.class_accuracy, rows):
        measured.setdefault(row.subject, row.class_accuracy)
    if not measured:
        return []
    count = len(next(iter(measured.values())))
    names = run.after.class_names if run.after else tuple(str(k) for k in range(count))
    return [figures.classes(names, measured, {subject: NAMES[subject] for subject in measured})]


def _similarity(found: Sequence[Similarity]) -> list[Panel]:
    measured = {one.subject: one.classes for one in found if one.classes}
    return [figures.similarity(measured, {subject: NAMES[subject] for subject in measured})] if measured else []


def _gallery(run: RunContents) -> Gallery | None:
    """The images, and what they were before, in all stages, where that is something else."""
    if run.after is None:
        return None
    unchanged = run.before and torch.equal(torch.cat([start.images for start in run.before]), run.after.images)
    return gallery([] if unchanged else run.before, run.after)
