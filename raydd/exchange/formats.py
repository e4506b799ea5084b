"""The formats of sets that raydd reads, and how their papers train students on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raydd.errors import DataError
from raydd.exchange import image_folders, kip, rat_bptt, res_files, stage_folders, triples
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign, synthetic_set
from raydd.prepared import PreparedData
from raydd.synthetic import SyntheticSet

Reader = Callable[[Path, PreparedData, Answers], list[Foreign]]


@dataclass(frozen=True)
class Format:
    """One family of files."""

    read: Reader
    hard: str
    """The recipe, of `LEGACY`, where labels are classes."""
    soft: str
    """The recipe where there are soft labels."""
    asks_space: bool = True
    """Whether the images' value space has to be answered, as they are not pixels."""

    def recipe_name(self, synthetic: SyntheticSet) -> str:
        """The recipe of a set's students."""
        return self.hard if synthetic.soft_labels is None else self.soft


FORMATS: Final[Mapping[str, Format]] = {
    "pt": Format(triples.read, "mtt", "datm"),
    "res": Format(res_files.read, "dsa", "dsa"),
    "kip": Format(kip.read, "dc-bench", "dc-bench"),
    "rat_bptt": Format(rat_bptt.read, "dc-bench", "dc-bench"),
    "imagefolder": Format(image_folders.read, "rethinkdc", "rethinkdc", asks_space=False),
    "pdd": Format(stage_folders.read, "pdd", "pdd"),
}


def read(name: str, source: Path, data: PreparedData, answers: Answers) -> SyntheticSet:
    """The set of a format, checked against a dataset.

    Raises:
        DataError: something is missing, is not what it says, or is not answered; names file and field.
    """
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    return synthetic_set(FORMATS[name].read(source, data, answers), data, answers, name)
