"""What a run folder holds, as far as the report shows it."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raydd.errors import ArtefactError
from raydd.evaluation import records
from raydd.storage import Folder
from raydd.synthetic import SyntheticSet

Line = dict[str, Any]
"""One line of a metrics file."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder's contents; what is not there (yet) is None or empty."""

    table: pa.Table
    """The records; at least one."""
    config: str | None
    """The resolved config, YAML."""
    distillation: dict[str, list[Line]]
    """The metrics of each stage ("000", ...), a line per outer iteration in order."""
    experts: list[Line]
    """A line per expert and epoch, in order."""
    before: list[SyntheticSet]
    """Where each stage started from."""
    after: SyntheticSet | None
    """The result."""

    @property
    def network(self) -> str | None:
        """The label of the network that the set was distilled with."""
        return self.after.card.get("network") if self.after else None


def read(folder: Folder) -> Run:
    """Read a run folder.

    Raises:
        ArtefactError: it holds no record, or something in it is damaged.
    """
    table = records.read(folder / "results")
    if not table.num_rows:
        raise ArtefactError(
            f"{folder.uri}: nothing to report, there is no results/part-*.parquet; evaluate first (raydd evaluate)"
        )
    metrics = folder / "metrics"
    stages = folder / "stages"
    starts = [_synthetic(stages / stage / "init") for stage in stages.folders()]
    return Run(
        table=table,
        config=folder.read("config.yaml").decode() if folder.has("config.yaml") else None,
        distillation={
            name.removeprefix("distill-").removesuffix(".jsonl"): _lines(metrics, name, "iteration")
            for name in metrics.files()
            if name.startswith("distill-") and name.endswith(".jsonl")
        },
        experts=_lines(metrics, "experts.jsonl", "expert", "epoch"),
        before=[start for start in starts if start is not None],
        after=_synthetic(folder / "synthetic"),
    )


def _synthetic(folder: Folder) -> SyntheticSet | None:
    return SyntheticSet.load(folder) if folder.has("manifest.json") else None


def _lines(folder: Folder, name: str, *key: str) -> list[Line]:
    """Read a metrics file in the order of `key`; of lines with one key, written before and after a resume, the last.

    A run that was killed may leave a last line without an end: it is not read.
    """
    if not folder.has(name):
        return []
    complete = folder.read(name).decode().split("\n")[:-1]
    lines: dict[tuple[int, ...], Line] = {}
    for number, text in enumerate(complete, start=1):
        try:
            line = json.loads(text)
            lines[tuple(line[part] for part in key)] = line
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{folder.uri}/{name}, line {number}: damaged ({error!r}); delete the line") from error
    return [lines[place] for place in sorted(lines)]
