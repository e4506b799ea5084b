"""What probes found: a section each, with its tables, pictures and figures."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raydd.evaluation.probes import continual, search
from raydd.evaluation.record import Probe
from raydd.evaluation.tables import probe_tables
from raydd.evaluation.tables.probe_tables import TITLES, ProbeRow
from raydd.evaluation.tables.words import SUBJECTS
from raydd.report import probe_figures
from raydd.report.drawing import Panel
from raydd.report.gallery import Picture
from raydd.report.probe_figures import interval, signed
from raydd.report.tables import worded
from raydd.report.templates import duration, number, size

_EXPLAINED: Final[Mapping[Probe, str]] = {
    "copies": (
        "How many images of a set lie nearer to some training image than all but a few test images do: stored training "
        "images reach 100 %, images that have nothing to do with the training set evaluate.copies.quantile, 1 % unless "
        "set. n counts sets."
    ),
    "membership": (
        "Whether a student gives away which real images its set comes from, training images told from test images: an "
        "AUC of 0.5 means that these attacks find nothing, 1 that they find all; found at 1 % are the training images "
        "that are told while at most 1 % of the test images are taken for some. n counts students."
    ),
    "robustness": (
        "How much of a student's accuracy on clean test images is left when an attack that knows the student moves "
        "every value of a pixel by at most ε (PGD), and under common corruptions, in the mean over kinds and "
        "severities: the nearer to clean, the better. n counts students."
    ),
    "continual": (
        "Classes arrive a few at a time, and after each step a fresh student learns from the memory of those seen: a "
        "set is worth its place where its accuracy is above that of real images, as many of them or of as many bytes. "
        "Forgetting is what of the accuracy on earlier classes is lost in the end. n counts orders of the classes."
    ),
    "search": (
        "Whether students of a set rank architectures as training on all the data does: a rank correlation of 1 is the "
        "same order, 0 is chance, and regret is what the architecture that is picked lacks to the best; a set is worth "
        "its making where it does better than early stopping, which takes as many steps. n counts sets; of a single "
        "one, the 95 % interval over architectures is below."
    ),
    "realism": (
        "What a network trained on all the real data makes of a set, beside test images: confidence and accuracy are "
        "how well it knows the images, density how far they lie among real ones, coverage which part of the real ones "
        "has some near, and MMD how far the two lie apart, about 0 where nothing tells them apart. All of these depend "
        "on how many images there are: compare sets of one size. n counts sets."
    ),
}
_ABOUT: Final[Mapping[Probe, str]] = {
    "copies": "Images",
    "membership": "Trained on",
    "robustness": "Trained on",
    "continual": "Memory",
    "search": "Ranked by",
    "realism": "Images",
}
"""What the lines of a table are."""
_HEADS: Final = {
    "pixel_copies": "Copies in pixels, %",
    "feature_copies": "Copies in features, %",
    "moved_copies": "Copies, mirrored or shifted, %",
    "lira_auc": "Likelihood ratio, AUC",
    "lira_tpr_at_1_percent": "Likelihood ratio, % found at 1 %",
    "lira_tpr_at_0_1_percent": "Likelihood ratio, % found at 0.1 %",
    "loss_auc": "Loss threshold, AUC",
    "loss_tpr_at_1_percent": "Loss threshold, % found at 1 %",
    "loss_tpr_at_0_1_percent": "Loss threshold, % found at 0.1 %",
    "memory_bytes": "Size",
    "top_spearman": f"Spearman, best {100 * search.TOP:g} %",
    "mmd": "MMD",
    "mmd_p": "MMD, p-value",
}
"""Metrics that the page calls otherwise."""
_ROBUST: Final = "robust_accuracy_"
_PARTS: Final = ("accuracy", "copies", "confidence", "drop", "forgetting", "regret", "tpr")
"""Metrics with one of these in their names are told in per cent."""
_UNITS: Final[Mapping[str, Callable[[float | None], str]]] = {"memory_bytes": size, "seconds": duration}
_ENDS: Final = ("_low", "_high")
"""Of an interval, by the names of metrics."""
_KINDS: Final = {
    search.EARLY: ("full", "full dataset, stopped early"),
    "random_bytes": ("random", "random real images, of as many bytes"),
    "herding_bytes": ("herding", "herding selection, of as many bytes"),
}
"""Colours and names of what stands beside a set."""
_OF_ANSWERS: Final = ("record_id", "subject", "variant", "network", "distill_seed", "status", "error")
_WIDEST: Final = 1000
"""Pixels of a picture."""


@dataclass(frozen=True, kw_only=True)
class ProbeCell:
    """A number of a table."""

    mean: str
    std: str | None
    note: str = ""
    """The interval of a single ranking."""


@dataclass(frozen=True, kw_only=True)
class ProbeLine:
    """What was found of one training set, or of what stands beside it."""

    colour: str
    name: str
    note: str
    """What sets it apart from others of the name."""
    count: int
    failed: int
    cells: list[ProbeCell | None]


@dataclass(frozen=True, kw_only=True)
class ArchitectureRanking:
    """What one ranking of architectures is worth."""

    colour: str
    name: str
    picked: str
    best: str
    values: list[str]


@dataclass(frozen=True, kw_only=True)
class ProbeSection:
    """All that one probe found."""

    probe: Probe
    title: str
    explained: str
    about: str
    """What the lines are."""
    heads: list[str]
    lines: list[ProbeLine]
    others: list[tuple[str, list[ProbeCell | None]]]
    """Metrics that do not lead, with a number for each of the lines."""
    pictures: list[Picture] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    rankings: list[ArchitectureRanking] = field(default_factory=list)
    failures: list[dict[str, Any]]


def sections(table: pa.Table, pictures: Mapping[str, Sequence[bytes]]) -> list[ProbeSection]:
    """Make a section for every probe that has records.

    Args:
        table: as `records.read_probes` gives it, of one run.
        pictures: PNG files by the id of the record that they belong to.
    """
    found = probe_tables.rows(table)
    asked = set(table["probe"].to_pylist())
    return [
        _section(
            probe, table.filter(pc.equal(table["probe"], probe)), [row for row in found if row.probe == probe], pictures
        )
        for probe in get_args(Probe)
        if probe in asked
    ]


def _section(
    probe: Probe, table: pa.Table, rows: list[ProbeRow], pictures: Mapping[str, Sequence[bytes]]
) -> ProbeSection:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    leading = [name for name in probe_tables.shown(probe, names) if not name.endswith(_ENDS)]
    others = [name for name in names if name not in leading and not name.endswith(_ENDS)]
    answers = table.select(list(_OF_ANSWERS)).to_pylist()
    rankings = search.searched(table)
    panels = [
        *probe_figures.learning(continual.curves(table)),
        *probe_figures.withstood([row for row in rows if row.probe == "robustness"]),
        *probe_figures.rankings(rankings),
    ]
    return ProbeSection(
        probe=probe,
        title=TITLES[probe],
        explained=_EXPLAINED[probe],
        about=_ABOUT[probe],
        heads=[_called(name) for name in leading],
        lines=[_line(row, rows, leading) for row in rows],
        others=[(_called(name), [_cell(row, name) for row in rows]) for name in others],
        pictures=_pictures(answers, pictures),
        panels=panels,
        rankings=[_ranking(one) for one in rankings],
        failures=[row for row in answers if row["status"] != "ok"],
    )


def _line(row: ProbeRow, rows: Sequence[ProbeRow], leading: Sequence[str]) -> ProbeLine:
    colour, name = _KINDS.get(row.kind, (row.subject, SUBJECTS[row.subject]))
    same = [other for other in rows if (other.subject == "full") == (row.subject == "full")]
    varying = [fact for fact in ("labels", "images_per_class") if len({getattr(own, fact) for own in same}) > 1]
    return ProbeLine(
        colour=colour,
        name=name,
        note=", ".join(worded(fact, getattr(row, fact)) for fact in varying),
        count=row.count,
        failed=row.failed,
        cells=[_cell(row, name) for name in leading],
    )


def _cell(row: ProbeRow, name: str) -> ProbeCell | None:
    """A metric of a row; of a single ranking with its interval."""
    if name not in row.values:
        return None
    mean, std = row.values[name]
    ends = [row.values.get(f"{name}{end}") for end in _ENDS]
    note = " to ".join(_told(name, end[0]) for end in ends if end is not None) if row.count == 1 else ""
    is_count = std == 0 and mean > 1 and mean % 1 == 0
    return ProbeCell(mean=_told(name, mean), std=None if std is None or is_count else _told(name, std), note=note)


def _told(name: str, value: float) -> str:
    """A metric's value, in the unit that its column's head says."""
    if name in _UNITS:
        return _UNITS[name](value)
    if _is_part(name):
        return signed(100 * value, 2)
    return number(value) if value % 1 == 0 and abs(value) > 1 else signed(value, 3)


def _is_part(name: str) -> bool:
    return any(part in name for part in _PARTS)


def _called(name: str) -> str:
    """A metric in words, with its unit."""
    if name.startswith(_ROBUST):
        return f"Robust accuracy, ε = {name.removeprefix(_ROBUST)}/255, %"
    words = name.replace("_", " ").capitalize()
    return _HEADS.get(name, f"{words}{', %' * _is_part(name)}")


def _ranking(one: search.Searched) -> ArchitectureRanking:
    colour, name = _KINDS.get(one.proxy, (one.proxy, SUBJECTS.get(one.proxy, one.proxy)))
    return ArchitectureRanking(
        colour=colour,
        name=f"{name}{f', draw {one.draw}' * (one.proxy == 'random')}",
        picked=one.pick,
        best=one.best,
        values=[interval(one.spearman), interval(one.kendall), signed(100 * one.regret, 2), str(one.count)],
    )


def _pictures(answers: Sequence[Mapping[str, object]], pictures: Mapping[str, Sequence[bytes]]) -> list[Picture]:
    """Of each answer that has some, titled by its set, the distilled ones first."""
    order = list(SUBJECTS)
    known = [row for row in answers if row["record_id"] in pictures]
    known.sort(key=lambda row: (order.index(str(row["subject"])), row["distill_seed"]))
    draws = Counter(row["subject"] for row in known)
    return [
        Picture(
            _embedded(png),
            SUBJECTS[str(row["subject"])] + f", draw {row['distill_seed']}" * (draws[row["subject"]] > 1),
            "",
        )
        for row in known
        for png in pictures[str(row["record_id"])]
    ]


def _embedded(png: bytes) -> str:
    """A data URI, of a picture that is no wider than the page can show."""
    image = Image.open(io.BytesIO(png))
    if image.width > _WIDEST:
        image.thumbnail((_WIDEST, image.height), Image.Resampling.BOX)
        shrunk = io.BytesIO()
        image.save(shrunk, format="PNG")
        png = shrunk.getvalue()
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
