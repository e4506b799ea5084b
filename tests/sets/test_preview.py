"""Names in the picture of a set: what the font can draw is drawn, and nothing else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.sets.preview import preview

PIXELS, LABELS = torch.zeros((3, 1, 8, 8), dtype=torch.uint8), torch.arange(3)


def margin(names: tuple[str, ...]) -> np.ndarray:
    """The columns to the left of the images."""
    named, plain = (
        np.asarray(Image.open(io.BytesIO(preview(PIXELS, LABELS, given))).convert("L")) for given in (names, ())
    )
    return named[:, : named.shape[1] - plain.shape[1]]


def test_each_row_has_its_name() -> None:
    rows = np.array_split(margin(("rose", "", "tulip")), 3)
    assert [bool((row < 128).any()) for row in rows] == [True, False, True]


@pytest.mark.parametrize("name", ["été", "роза", "τριαντάφυλλο", "Łąka"])
def test_letters_of_europe_are_drawn(name: str) -> None:
    assert not np.array_equal(margin(("", name, "")), margin(("", "class 1", "")))


@pytest.mark.parametrize("name", ["玫瑰", "a 玫", "🌹"])
def test_a_number_stands_for_a_name_of_letters_that_the_font_lacks(name: str) -> None:
    assert np.array_equal(margin(("", name, "")), margin(("", "class 1", "")))


def test_a_long_name_is_cut() -> None:
    assert margin(("a" * 200, "", "")).shape[1] < 500
