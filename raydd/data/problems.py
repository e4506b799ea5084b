"""What is wrong with images, one by one: what a message says of it, and the file that lists all."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raydd.core.csv_text import csv_text
from raydd.core.errors import DataError
from raydd.data.listing import some
from raydd.storage import Folder

FILE: Final = "problems.csv"
"""One line an image: split, where, problem, and whether the image is kept."""


@dataclass(frozen=True)
class ImageProblem:
    """An image that cannot be decoded, is not decoded as it is stored, or was read with a warning."""

    split: str
    """Train or test."""
    where: str
    """Its file, or the row of one."""
    what: str
    """What is wrong, what was changed, or what its reader warned of."""
    kept: bool
    """Whether there are pixels of it nevertheless."""


def write(problems: Sequence[ImageProblem], folder: Folder) -> None:
    """Write `problems.csv`: all of them, in order."""
    rows = [(one.split, one.where, one.what, "yes" if one.kept else "no") for one in problems]
    write_csv(folder, FILE, ("split", "where", "problem", "kept"), rows)


def write_csv(folder: Folder, file: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table of words."""
    folder.write(file, csv_text(header, rows).encode(errors="backslashreplace"))


def uri(folder: Folder) -> str:
    """Where `write` puts the list."""
    return (folder / FILE).uri


def count(folder: Folder) -> int:
    """How many images the list in a folder has; 0 where there is none."""
    return len(list(csv.DictReader(io.StringIO(folder.read(FILE).decode())))) if folder.has(FILE) else 0


def in_words(problems: Sequence[ImageProblem]) -> str:
    """How many there are of both kinds; empty for none."""
    lost = sum(not one.kept for one in problems)
    said = ((lost, "cannot be decoded"), (len(problems) - lost, "changed, or read with a warning"))
    return ", ".join(f"{count:,} image{'s' * (count != 1)} {what}" for count, what in said if count)


def undecodable(problems: Sequence[ImageProblem], list_of_all: str) -> DataError:
    """What is raised for images that cannot be decoded: how many there are, and the first of them by name.

    Args:
        problems: all of a dataset.
        list_of_all: where they are listed.
    """
    lost = [f"{one.where} ({one.what})" for one in problems if not one.kept]
    return DataError(
        f"cannot decode {len(lost)} image(s), replace or remove them, or set data.on_error to skip: {some(lost)}; "
        f"{list_of_all}"
    )
