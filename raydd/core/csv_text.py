"""Tables as CSV that a spreadsheet reads as words and numbers alone."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of words by which a spreadsheet takes them for a formula, and may run it."""


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a header; words that begin as formulas have an apostrophe in front, numbers stay.

    Source: OWASP, "CSV Injection".
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(map(_inert, row)) for row in (header, *rows)])
    return text.getvalue()


def _inert(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
