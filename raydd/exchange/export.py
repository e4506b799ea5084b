"""Export a distilled set for use without raydd.

Three formats, each one folder that explains itself (README.md, card.json): `pt`, what the trajectory-matching papers'
code and DD-Ranking read, the exact values; `imagefolder`, PNG files for whatever reads those; `parquet`, a dataset for
the Hugging Face Hub. All hold the images that students see: mosaics (IDC) are decoded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from raydd.core.errors import ConfigError
from raydd.core.progress import NoProgress, Progress
from raydd.exchange.card import CARD, write_card
from raydd.exchange.imagefolder_out import write_imagefolder
from raydd.exchange.licence import checked, licence_of, remember
from raydd.exchange.measured import written_accuracy
from raydd.exchange.parquet_out import write_parquet
from raydd.exchange.source import ExportSource
from raydd.exchange.tensors_out import write_tensors
from raydd.exchange.whole_folder import new_folder
from raydd.storage import Folder

ExportFormat = Literal["pt", "imagefolder", "parquet"]

FORMATS: Final = get_args(ExportFormat)
_WRITERS: Final[Mapping[str, Callable[[ExportSource, Path], None]]] = {
    "pt": write_tensors,
    "imagefolder": write_imagefolder,
    "parquet": write_parquet,
}


@dataclass(frozen=True, kw_only=True)
class ExportTerms:
    """What else an export says, and how it comes to know it."""

    license: str | None = None
    """Of the images; what was said before, by default. It is kept beside the set."""
    measure: bool = True
    """Whether students are trained where nobody knows yet how good what is written is, as with images of 8 bit."""
    progress: Progress = field(default_factory=NoProgress)
    """Is told of the students."""


def export(folder: Folder, form: ExportFormat, to: Folder, terms: ExportTerms | None = None) -> ExportSource:
    """Write the set of a run, or of a folder that holds one, in a format for others.

    Args:
        folder: the run, or the set.
        form: see above.
        to: the folder to make, locally or in an object store; must not exist, or be empty. It appears as a whole, in
            an object store with its `card.json`.
        terms: licence, and whether to measure.

    Returns:
        What was exported.

    Raises:
        ArtefactError: there is no set, or it is damaged.
        UserError: `to` holds something or cannot be written, the licence is none, or the labels are not of the kind
            that others take those of the format for; nothing was written.
    """
    if form not in FORMATS:
        raise ConfigError("format", f"must be one of {', '.join(FORMATS)}, is {form}")
    terms = terms or ExportTerms()
    license = None if terms.license is None else checked(terms.license)
    with new_folder(to, last=CARD) as place:
        source = write(folder, form, place, replace(terms, license=license))
    if license is not None:
        remember(folder, license)
    return source


def write(folder: Folder, form: ExportFormat, place: Path, terms: ExportTerms) -> ExportSource:
    """Fill an empty folder of the local disk with an export; see `export`."""
    source = ExportSource.load(folder)
    if source.synthetic.soft_labels is not None and source.synthetic.label_kind == "regression" and form != "parquet":
        problem = f"{form}: whoever reads it takes soft labels for logits, and those of the set are regression targets"
        raise ConfigError("format", f"{problem}; take parquet")
    measured = written_accuracy(source, folder, quantised=form != "pt", measure=terms.measure, progress=terms.progress)
    source = replace(source, written=measured, license=terms.license or licence_of(folder))
    _WRITERS[form](source, place)
    write_card(source, form, place)
    return source
