"""What a run folder holds, as far as the report shows it."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.event_log import EVENTS, METRICS

JsonLine = dict[str, Any]
"""One line of a metrics file."""

_AVERAGED = ("loss", "ce", "bn_share", "active")


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How the images of one stage were recovered, in packs of class groups."""

    lines: list[JsonLine]
    """A line per iteration in order: the means over the packs that have come so far."""
    packs: int
    image_iterations: int
    """Those of all packs."""
    seconds: float
    """What the packs took, added up."""

    @property
    def in_words(self) -> str:
        """How many packs there were."""
        return "one pack of class groups" if self.packs == 1 else f"{self.packs:,} packs of class groups"


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """A run folder's contents; what is not there (yet) is None or empty."""

    folder: Folder
    """Where it lies."""
    table: pa.Table
    """The students' records; at least one."""
    events: bytes
    """The log of what happened, JSON lines."""
    probes: pa.Table
    """What probes found."""
    pictures: dict[str, list[bytes]]
    """PNG files of probes, by the id of the record that they belong to."""
    config: str | None
    """The resolved config, YAML."""
    distillation: dict[str, list[JsonLine]]
    """The metrics of each stage ("000", ...), a line per outer iteration in order."""
    recovery: dict[str, Recovery]
    """Of each stage ("000", ...) whose class groups are recovered independently."""
    experts: list[JsonLine]
    """A line per expert and epoch, in order."""
    before: list[SyntheticSet]
    """Where each stage started from."""
    after: SyntheticSet | None
    """The result."""

    @property
    def network(self) -> str | None:
        """The label of the network that the set was distilled with."""
        return self.after.card.get("network") if self.after else None


def read(folder: Folder) -> RunContents:
    """Read a run folder.

    Raises:
        ArtefactError: it holds no record, or something in it is damaged.
    """
    table = records.read(folder / "results")
    records.require_own(folder, table)
    if not table.num_rows:
        raise ArtefactError(
            f"{folder.uri}: nothing to report, there is no results/part-*.parquet; evaluate first (raydd evaluate)"
        )
    metrics = folder / METRICS
    stages = folder / "stages"
    starts = [_synthetic(stages / stage / "init") for stage in stages.folders()]
    return RunContents(
        folder=folder,
        events=metrics.read(EVENTS) if metrics.has(EVENTS) else b"",
        table=table,
        probes=records.read_probes(folder / "results"),
        pictures=_pictures(folder / "probes"),
        config=folder.read("config.yaml").decode(errors="replace") if folder.has("config.yaml") else None,
        distillation={
            name.removeprefix("distill-").removesuffix(".jsonl"): _lines(metrics, name, "iteration")
            for name in _named(metrics, "distill-")
        },
        recovery={
            stage: _recovery(_lines(metrics, name, "iteration") for name in names)
            for stage, names in groupby(_named(metrics, "recover-"), key=lambda name: name.split("-")[1])
        },
        experts=_lines(metrics, "experts.jsonl", "expert", "epoch"),
        before=[start for start in starts if start is not None],
        after=_synthetic(folder / "synthetic"),
    )


def _synthetic(folder: Folder) -> SyntheticSet | None:
    return SyntheticSet.load(folder) if folder.has("manifest.json") else None


def _pictures(folder: Folder) -> dict[str, list[bytes]]:
    """The files `<name>-<record id>.png`."""
    found: dict[str, list[bytes]] = {}
    for name in folder.files():
        stem, dot, ending = name.rpartition(".")
        if not dot or ending != "png":
            continue
        content = folder.read(name)
        try:
            Image.open(io.BytesIO(content), formats=["PNG"]).load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ArtefactError(f"{folder.uri}/{name}: damaged picture ({error}); delete it") from error
        found.setdefault(stem.rpartition("-")[2], []).append(content)
    return found


def _named(folder: Folder, prefix: str) -> list[str]:
    """The JSON lines files whose names begin so, in order."""
    return [name for name in folder.files() if name.startswith(prefix) and name.endswith(".jsonl")]


def _recovery(packs: Iterable[list[JsonLine]]) -> Recovery:
    """Average over packs, one after the other: there may be hundreds, of thousands of lines each."""
    sums: dict[int, NDArray[np.float64]] = {}
    count, image_iterations, seconds = 0, 0, 0.0
    for lines in filter(None, packs):
        count += 1
        image_iterations += lines[-1].get("image_iterations", 0)
        seconds += sum(line.get("seconds", 0.0) for line in lines)
        for line in lines:
            values = np.array([1.0, *(line.get(name, np.nan) for name in _AVERAGED)])
            sums[line["iteration"]] = sums.get(line["iteration"], 0.0) + values
    means = [
        {"iteration": at, **dict(zip(_AVERAGED, (sums[at][1:] / sums[at][0]).tolist(), strict=True))}
        for at in sorted(sums)
    ]
    return Recovery(lines=means, packs=count, image_iterations=image_iterations, seconds=seconds)


def _lines(folder: Folder, name: str, *key: str) -> list[JsonLine]:
    """Read a metrics file in the order of `key`; of lines with one key, written before and after a resume, the last.

    A run that was killed may leave a last line without an end: it is not read.
    """
    if not folder.has(name):
        return []
    complete = folder.read(name).split(b"\n")[:-1]
    lines: dict[tuple[int, ...], JsonLine] = {}
    for number, text in enumerate(complete, start=1):
        try:
            line = json.loads(text)
            if other := next((name for name, value in line.items() if not isinstance(value, int | float | None)), None):
                raise ValueError(f"{other} is no number")
            lines[tuple(line[part] for part in key)] = line
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtefactError(f"{folder.uri}/{name}, line {number}: damaged ({error!r}); delete the line") from error
    return [lines[place] for place in sorted(lines)]
