"""The formats of sets that raydd reads, and how their papers train students on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange import image_folders, kip, mosaics, own_exports, rat_bptt, res_files, stage_folders, triples
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign, synthetic_set
from raydd.sets.synthetic import SyntheticSet

FormatReader = Callable[[Path, PreparedData, Answers], list[Foreign]]


@dataclass(frozen=True)
class SetFormat:
    """One family of files."""

    read: FormatReader
    hard: str
    """The recipe, of `LEGACY`, where labels are classes."""
    soft: str
    """The recipe where there are soft labels."""
    asks_space: bool = True
    """Whether the images' value space has to be answered, as they are not pixels."""

    def recipe_name(self, synthetic: SyntheticSet) -> str:
        """The recipe of a set's students: that of the method which its files name, or else the format's."""
        said = synthetic.card.get("source", {}).get("method")
        return said or (self.hard if synthetic.soft_labels is None else self.soft)


FORMATS: Final[Mapping[str, SetFormat]] = {
    "pt": SetFormat(triples.read, "mtt", "datm"),
    "res": SetFormat(res_files.read, "dsa", "dsa"),
    "kip": SetFormat(kip.read, "dc-bench", "dc-bench"),
    "rat_bptt": SetFormat(rat_bptt.read, "dc-bench", "dc-bench"),
    "idc": SetFormat(mosaics.read, "idc", "idc", asks_space=False),
    "imagefolder": SetFormat(image_folders.read, "rethinkdc", "rethinkdc", asks_space=False),
    "parquet": SetFormat(own_exports.read, "dsa", "mtt", asks_space=False),
    "pdd": SetFormat(stage_folders.read, "pdd", "pdd"),
}


def read(name: str, source: Path, data: PreparedData, answers: Answers) -> SyntheticSet:
    """The set of a format, checked against a dataset.

    Raises:
        DataError: something is missing, is not what it says, or is not answered; names file and field.
    """
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    return synthetic_set(FORMATS[name].read(source, data, answers), data, answers, name)
