"""Export a distilled set for use without raydd.

Three formats, each one folder that explains itself (README.md, card.json): `pt`, what the trajectory-matching papers'
code and DD-Ranking read, the exact values; `imagefolder`, PNG files for whatever reads those; `parquet`, a dataset for
the Hugging Face Hub. All hold the images that students see: mosaics (IDC) are decoded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, get_args

from raydd.core.errors import ConfigError
from raydd.exchange.card import CARD, write_card
from raydd.exchange.imagefolder_out import write_imagefolder
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


def export(folder: Folder, form: ExportFormat, to: Folder) -> ExportSource:
    """Write the set of a run, or of a folder that holds one, in a format for others.

    Args:
        folder: the run, or the set.
        form: see above.
        to: the folder to make, locally or in an object store; must not exist, or be empty. It appears as a whole, in
            an object store with its `card.json`.

    Returns:
        What was exported.

    Raises:
        ArtefactError: there is no set, or it is damaged.
        UserError: `to` holds something or cannot be written; nothing was.
    """
    if form not in FORMATS:
        raise ConfigError("format", f"must be one of {', '.join(FORMATS)}, is {form}")
    with new_folder(to, last=CARD) as place:
        source = ExportSource.load(folder)
        _WRITERS[form](source, place)
        write_card(source, form, place)
    return source
