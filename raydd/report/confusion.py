"""What students take images for: a table of few classes, of many the pairs that are confused most.

Letters: K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydd.evaluation.records import read_confusion
from raydd.evaluation.tables.summary import CONDITIONS, SummaryRow
from raydd.report.wording import class_title
from raydd.storage import Folder

_MOST_CLASSES: Final = 15
_MOST_PAIRS: Final = 8
_ALIKE: Final = (*CONDITIONS, "stage", "images_per_class", "epochs")


@dataclass(frozen=True)
class Mistake:
    """Two classes that are confused."""

    true: str
    taken: str
    share: float
    """Of the images of the first, those that are taken for the second, in 0..1."""


@dataclass(frozen=True)
class ConfusionTable:
    """What students of one set took the test images for, all together."""

    students: int
    names: tuple[str, ...]
    """Of the classes; empty where there are too many for a table."""
    shares: list[list[float]]
    """A row for each true class: the shares of its images that are taken for each."""
    mistakes: list[Mistake]
    """The most frequent, the worst first."""


def confusion_table(
    folder: Folder, table: pa.Table, row: SummaryRow, class_names: Sequence[str]
) -> ConfusionTable | None:
    """Add up what the students of one group of a run took test images for; None where nobody kept it.

    Args:
        folder: with the records' files.
        table: the same records.
        row: the group.
        class_names: of K classes.

    Raises:
        ArtefactError: a record is damaged.
    """
    own = table.filter(_is_of(table, row))["record_id"].to_pylist()
    found = [counts for name in own if (counts := read_confusion(folder, name)) is not None]
    found = [counts for counts in found if len(counts) == len(class_names)]
    if not found:
        return None
    counts_KK = np.sum([np.asarray(counts, dtype=np.int64) for counts in found], axis=0)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    few = len(class_names) <= _MOST_CLASSES
    return ConfusionTable(
        students=len(found),
        names=tuple(class_names) if few else (),
        shares=shares_KK.tolist() if few else [],
        mistakes=_mistakes(shares_KK, class_names),
    )


def _is_of(table: pa.Table, row: SummaryRow) -> pa.ChunkedArray:
    """Which records are of students of a group that finished, bool [rows]."""
    found = pc.equal(table["status"], "ok")
    for name in _ALIKE:
        found = pc.and_(found, pc.fill_null(pc.equal(table[name], getattr(row, name)), False))
    return found


def _mistakes(shares_KK: NDArray[np.float64], class_names: Sequence[str]) -> list[Mistake]:
    """The largest shares beside the diagonal, without those that are nothing."""
    beside = shares_KK.copy()
    np.fill_diagonal(beside, 0.0)
    order = np.argsort(-beside, axis=None, kind="stable")[:_MOST_PAIRS]
    places = [divmod(int(place), len(class_names)) for place in order]
    titles = [class_title(name) for name in class_names]
    return [Mistake(titles[i], titles[j], float(beside[i, j])) for i, j in places if beside[i, j] > 0]
