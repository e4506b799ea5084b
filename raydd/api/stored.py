"""What is stored: sets are loaded, exported and joined; records of students and probes become tables."""

from pathlib import Path

import pyarrow as pa

from raydd.api.dataset import DistilledDataset
from raydd.api.places import RunPlace, folder_of
from raydd.api.shown import Shown, shown
from raydd.evaluation import records
from raydd.evaluation.record import SCHEMA
from raydd.evaluation.tables import probe_tables
from raydd.exchange import export as exporting
from raydd.exchange import hub
from raydd.exchange.export import ExportFormat, ExportTerms
from raydd.exchange.source import set_folder
from raydd.pipeline.imports.append import append as join
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder

RECORDS = SCHEMA
"""The columns of `results`."""
PROBES = probe_tables.SCHEMA
"""The columns of `probes`."""


def load(path: RunPlace) -> DistilledDataset:
    """The distilled set of a run, or of a folder that holds one.

    Args:
        path: a folder or its URI, or what `run` or `auto` returned.

    Raises:
        ArtefactError: there is none, or it is damaged.
    """
    return DistilledDataset(SyntheticSet.load(set_folder(folder_of(path))))


def export(
    path: RunPlace,
    format: ExportFormat,
    to: str | Path,
    *,
    license: str | None = None,
    measure: bool = True,
    progress: Shown = None,
) -> Folder:
    """Write the distilled set of a run, or of a folder that holds one, for use without raydd.

    Args:
        path: the run or the set; see `load`.
        format: `pt`, `imagefolder` or `parquet`; see `raydd.exchange.export`.
        to: the folder to make, which must not exist or be empty; on an error nothing is there.
        license: under which the images may be used, such as cc-by-4.0; kept beside the set for later exports.
        measure: whether students are trained on images of 8 bit where these are not exact: the README says then how
            good what was written is.
        progress: is told of these students; see `raydd.api.shown`.

    Returns:
        That folder.

    Raises:
        ArtefactError: there is no set, or it is damaged.
        UserError: the folder to make holds something, or cannot be written.
    """
    target = Folder.at(to)
    with shown(progress) as told:
        exporting.export(folder_of(path), format, target, ExportTerms(license=license, measure=measure, progress=told))
    return target


def push(
    path: RunPlace,
    repo: str,
    *,
    license: str | None = None,
    private: bool = False,
    measure: bool = True,
    progress: Shown = None,
) -> str:
    """Push the distilled set of a run to the Hugging Face Hub, as `export` writes it as parquet.

    Args:
        path: the run or the set; see `load`.
        repo: `NAME/DATASET` on the Hub.
        license: see `export`; without one, now or before, nothing is published.
        private: whether a new dataset is shown to its owner alone.
        measure: see `export`.
        progress: see `export`.

    Returns:
        The address of the dataset.

    Raises:
        ConfigError: name, licence, token (HF_TOKEN) or huggingface_hub is missing.
        ArtefactError: there is no set, or it is damaged.
        UserError: the Hub has other files under this name, or refuses.
    """
    with shown(progress) as told:
        terms = ExportTerms(license=license, measure=measure, progress=told)
        return hub.push(folder_of(path), repo, terms, private=private)


def append(*paths: RunPlace, to: str | Path) -> Folder:
    """Join distilled sets of disjoint classes of one dataset into one; nothing is distilled anew.

    Args:
        paths: runs, or folders that hold sets; two at least. See `load`.
        to: the folder that gets the set, as runs have theirs.

    Returns:
        That folder.

    Raises:
        ArtefactError: there is no set, or sets do not go together: they share a class, or their preprocessing differs.
        UserError: there is a set at `to` already.
    """
    target = Folder.at(to)
    join([folder_of(path) for path in paths], target)
    return target


def results(*paths: RunPlace) -> pa.Table:
    """The records of one or several runs, one row a student (see `raydd.evaluation.record.SCHEMA`).

    Raises:
        ArtefactError: a record is damaged, or is of students of another set than the run's.
    """
    folders = [folder_of(path) for path in paths]
    tables = [records.read(folder / "results") for folder in folders]
    for folder, table in zip(folders, tables, strict=True):
        records.require_own(folder, table)
    return tables[0] if len(tables) == 1 else records.read(*(folder / "results" for folder in folders))


def probes(*paths: RunPlace) -> pa.Table:
    """What probes found in one or several runs: one row a metric of each training set, over all runs of a method.

    The columns are those of `raydd.PROBES`, with the runs' names in `config`. Runs of one name are distillation seeds,
    numbered in the order of the paths.
    """
    found: dict[tuple[str, int], pa.Table] = {}
    for path in paths:
        folder = folder_of(path)
        table = records.read_probes(folder / "results")
        name = table["run"][0].as_py() if len(table) else folder.uri
        found[name, sum(known == name for known, _ in found)] = table
    return probe_tables.compare(found)
