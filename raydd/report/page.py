"""The report: one HTML page with everything in it, made from what a run left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from raydd.evaluation.tables.collection import leaves
from raydd.evaluation.tables.summary import final_stages
from raydd.evaluation.tables.verdict import verdict
from raydd.evaluation.tables.words import SUBJECTS
from raydd.report import curves, figures, probes
from raydd.report.confusion import ConfusionTable, confusion_table
from raydd.report.contents import Recovery, RunContents, read
from raydd.report.cost import run_cost
from raydd.report.diversity import Similarity, similarities
from raydd.report.drawing import Panel
from raydd.report.figures import Lane
from raydd.report.gallery import SHOWN_PIXELS, Gallery, gallery, stage_gallery
from raydd.report.losses import has_teacher, loss_of
from raydd.report.stages import accuracy_by_stage
from raydd.report.tables import Results, results
from raydd.report.templates import duration, percent, rendered
from raydd.report.usage import usage_of
from raydd.sets.preview import preview
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


def build(run: Folder, flops: Mapping[str, int] | None = None) -> str:
    """Make the report of a run folder as one HTML document that needs nothing outside itself.

    Args:
        run: the folder.
        flops: of each work of the run's plan, by its name, where that is known.

    Raises:
        ArtefactError: the folder holds no record, or something in it is damaged.
    """
    return _render(read(run), flops or {})


def write(run: Folder, flops: Mapping[str, int] | None = None) -> None:
    """Write `report.html` into a run folder and, where there is a distilled set, its picture `preview.png`.

    Args:
        run: the folder.
        flops: as for `build`.

    Raises:
        ArtefactError: as for `build`; then nothing is written.
    """
    found = read(run)
    run.write("report.html", _render(found, flops or {}).encode())
    if found.after is not None:
        run.write("preview.png", preview(found.after.pixels(), found.after.labels, found.after.class_names))


def _render(run: RunContents, flops: Mapping[str, int]) -> str:
    found, similar = results(run.table, run.network), similarities(run.table)
    rows = [entry.row for entry in found.entries]
    return rendered(
        "page.html",
        name=run.table["run"][0].as_py(),
        finished=max(filter(None, run.table["time"].to_pylist()), default=None),
        names=SUBJECTS,
        results=found,
        students=[_students(found), *_classes(run, found)] if found.tiles else [],
        confusion=_confusion(run, found),
        similarities=similar,
        is_taught=found.has_teacher or has_teacher(_method(run)),
        similarity=_similarity(similar),
        by_stage=accuracy_by_stage(rows, SUBJECTS),
        stages=stage_gallery(run.after) if run.after else None,
        probes=probes.sections(run.probes, run.pictures),
        verdict=verdict(final_stages(rows)),
        shown_pixels=SHOWN_PIXELS,
        sections=_sections(run),
        gallery=_gallery(run),
        usage=usage_of(run.folder, run.after) if run.after else None,
        cost=run_cost(run.events, flops),
        after=run.after,
        config=run.config,
        card=leaves(run.after.card) if run.after else {},
    )


def _sections(run: RunContents) -> list[FigureSection]:
    distilling = {
        stage: FigureSection("Distilling", curves.distillation(lines, loss_of(_method(run))))
        for stage, lines in run.distillation.items()
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
        [Lane(e.row.subject, SUBJECTS[e.row.subject], e.conditions, e.row.accuracies) for e in finished]
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
    return [figures.classes(names, measured, {subject: SUBJECTS[subject] for subject in measured})]


def _method(run: RunContents) -> str:
    """The name of the method that made the set."""
    return str(run.table["method"][0].as_py())


def _confusion(run: RunContents, found: Results) -> ConfusionTable | None:
    """Of the students of the headline."""
    if run.after is None or not found.tiles:
        return None
    return confusion_table(run.folder / "results", run.table, found.tiles[0].entry.row, run.after.class_names)


def _similarity(found: Sequence[Similarity]) -> list[Panel]:
    measured = {one.subject: one.classes for one in found if one.classes}
    return [figures.similarity(measured, {subject: SUBJECTS[subject] for subject in measured})] if measured else []


def _gallery(run: RunContents) -> Gallery | None:
    """The images, and what they were before, in all stages, where that is something else."""
    if run.after is None:
        return None
    unchanged = run.before and torch.equal(torch.cat([start.images for start in run.before]), run.after.images)
    return gallery([] if unchanged else run.before, run.after)
