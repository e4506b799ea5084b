"""What names a run or a set: a path, a URI, or what `run` and `auto` returned."""

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.errors import ConfigError, UserError
from raydd.data import DataConfig
from raydd.evaluation import records
from raydd.evaluation.students.trials import SETS
from raydd.evaluation.tables.summary import SummaryRow, final_stages, summarise
from raydd.exchange.source import ExportSource
from raydd.pipeline.auto.search import AutoResult
from raydd.pipeline.runs.run import CONFIG, REPORT
from raydd.storage import Folder


@dataclass(frozen=True)
class DistilledRun:
    """A run's folder, as `raydd.run` returns it; `load`, `export`, `results` and `probes` take it as it is."""

    folder: Folder

    @property
    def uri(self) -> str:
        """Its address."""
        return self.folder.uri

    @property
    def path(self) -> Path:
        """Its local path; ValueError in an object store."""
        return self.folder.path

    @property
    def report(self) -> str:
        """The address of its page."""
        return f"{self.uri}/{REPORT}"

    @cached_property
    def config(self) -> RunConfig:
        """The config that made it."""
        return configs.load(f"{self.uri}/{CONFIG}")

    @property
    def summary(self) -> list[SummaryRow]:
        """Its students after the last stage: a row, with mean and deviation, for those that differ in the seed."""
        return final_stages(summarise(records.read(self.folder / "results")))

    def __fspath__(self) -> str:
        """Its local path."""
        return str(self.path)

    def __dir__(self) -> list[str]:
        """The public names."""
        return [name for name in super().__dir__() if not name.startswith("_")]

    def __repr__(self) -> str:
        """Where it is, and what came of it."""
        try:
            said = _said(self)
        except (UserError, OSError):
            said = "nothing is finished yet"
        return f"DistilledRun({self.uri}: {said})"


RunPlace = str | PathLike[str] | Folder | DistilledRun | AutoResult
"""What functions take for a run, or for a folder that holds a set."""
Data = DataConfig | RunConfig | RunPlace
"""What functions take for real images: those of a config, of its file, or of a run."""


def folder_of(place: RunPlace) -> Folder:
    """The folder that is meant; of `auto` that of the set that was chosen."""
    match place:
        case Folder():
            return place
        case DistilledRun():
            return place.folder
        case AutoResult():
            return place.best
        case _:
            return Folder.at(place if isinstance(place, str) else Path(place))


def data_of(data: Data) -> DataConfig:
    """The dataset that is meant.

    Raises:
        UserError: there is no config where one was named.
    """
    match data:
        case DataConfig():
            return data
        case RunConfig():
            return data.data
        case str() | PathLike() if str(data).endswith((".yaml", ".yml")):
            return configs.load(str(data)).data
        case str() | PathLike() | Folder() | AutoResult():
            folder = folder_of(data)
            if not folder.has(CONFIG):
                problem = f"{folder.uri} is no run; give raydd.DataConfig(source=..., root=...), a run, or its config"
                raise ConfigError("data", problem)
            return DistilledRun(folder).config.data
        case _:
            raise ConfigError("data", f"is a {type(data).__name__}; give raydd.DataConfig(...), a run, or its config")


def _said(run: DistilledRun) -> str:
    source = ExportSource.load(run.folder)
    text = f"{len(source.stored)} images of {source.stored.card.get('dataset', 'unknown data')} by {source.method}"
    found = [row for row in source.results if row.subject in SETS and row.mean is not None]
    if not found:
        return f"{text}, not tested yet"
    best = max(found, key=lambda row: (row.labels == "stored", row.mean or 0.0))
    spread = "" if best.std is None else f" ± {100 * best.std:.1f}"
    return f"{text}, test accuracy {100 * (best.mean or 0.0):.1f}{spread} % ({best.labels} labels)"
