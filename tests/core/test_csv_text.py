"""CSV whose words no spreadsheet takes for formulas."""

import csv
import io

import pytest

from raydd.core.csv_text import csv_text


@pytest.mark.parametrize("word", ["=1+1", "+1", "-cat", "@SUM(A1)", "\tx", '=HYPERLINK("http://x","y")'])
def test_words_that_begin_as_formulas(word: str) -> None:
    ((header, *_), (cell, *_)) = csv.reader(io.StringIO(csv_text([word, "b"], [[word, "c"]])))
    assert header == cell == f"'{word}"


def test_numbers_and_other_words_stay() -> None:
    table = csv_text(["name", "change"], [["a, b", -0.5], ["it's", 3], ["", None]])
    assert table == 'name,change\n"a, b",-0.5\nit\'s,3\n,\n'
