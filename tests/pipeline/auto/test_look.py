"""What is found in a folder, and what is not enough."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from raydd.core.errors import UserError
from raydd.core.progress import NoProgress
from raydd.data import DataConfig
from raydd.pipeline.auto.look import as_used, held_out_fraction, look, require_enough, sides_to_try
from tests.pipeline.auto.pictures import look_of, pictures
from tests.support.image_files import noise, write_folders


def test_a_folder_is_looked_through(tmp_path: Path) -> None:
    root = pictures(tmp_path / "things", (10, 20))
    write_folders(root, {"class0/broken.png": b"no image", "class1/wide.png": noise(1, 30, 50)})
    found = look(DataConfig(source="imagefolder", root=str(root)), NoProgress())
    assert (found.dataset, found.class_names) == ("things", ("class0", "class1"))
    assert found.num_train + found.num_test + found.undecodable == 32 and found.undecodable == 1
    assert (found.median_side, found.smallest_side, found.is_grey, found.leaked) == (16, 16, False, 0)


def test_the_median_side_is_that_of_most_images(tmp_path: Path) -> None:
    sizes = {"a": (40, 90), "b": (50, 60), "c": (70, 64)}
    for label in ("one", "two"):
        write_folders(
            tmp_path, {f"{label}/{name}.png": noise(hash_of(label, name), *size) for name, size in sizes.items()}
        )
    found = look(DataConfig(source="imagefolder", root=str(tmp_path)), NoProgress())
    assert (found.median_side, found.smallest_side) == (50, 40)


def hash_of(label: str, name: str) -> int:
    return sum(map(ord, label + name))


@pytest.mark.parametrize(("mode", "is_grey"), [("L", True), ("RGB", False)])
def test_grey_images_are_grey(tmp_path: Path, mode: str, is_grey: bool) -> None:
    files: dict[str, Image.Image | bytes] = {
        f"{label}/{number}.png": noise(number + 10 * place).convert(mode if number else "L")
        for place, label in enumerate(("a", "b"))
        for number in range(3)
    }
    write_folders(tmp_path, files)
    found = look(DataConfig(source="imagefolder", root=str(tmp_path)), NoProgress())
    assert found.is_grey == is_grey
    assert found.facts(8, 0.5).shape == ((1 if is_grey else 3), 8, 8)


def test_facts_count_what_is_held_out() -> None:
    facts = look_of((100, 50)).facts(32, 0.2)
    assert (facts.num_train, facts.num_validation, facts.num_test, facts.num_classes) == (120, 30, 37, 2)


@pytest.mark.parametrize(("count", "share"), [(100, 0.2), (5_000, 0.2), (7_000, 0.14), (100_000, 0.1)])
def test_of_many_images_a_smaller_share_is_held_out(count: int, share: float) -> None:
    data = DataConfig(source="imagefolder")
    assert held_out_fraction(data, look_of((count // 2, count // 2))) == share
    assert held_out_fraction(replace(data, validation_fraction=0.3), look_of()) == 0.3


@pytest.mark.parametrize(
    ("counts", "asked", "message"),
    [
        ((400,), 1, "there is one class, 'class0'; give a folder with two classes at least"),
        ((400, 3), 1, "class 'class1' has 3 images to learn from, and 5 are needed"),
        ((1, 1), 1, "class 'class0' has 1 images to learn from"),
        ((400, 10), 9, "--images-per-class: 9 asked for, but class 'class1' has 8 images to distil"),
    ],
)
def test_what_is_not_enough_is_named(counts: tuple[int, ...], asked: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_enough(look_of(counts), asked, 0.2)


def test_what_is_just_enough_is_taken() -> None:
    require_enough(look_of((400, 5)), 4, 0.2)


@pytest.mark.parametrize(
    ("source", "size", "median", "smallest", "sides"),
    [
        ("imagefolder", None, 128, 100, (128, 96, 64, 32)),
        ("imagefolder", None, 95, 60, (64, 32)),
        ("imagefolder", None, 32, 31, (32,)),
        ("imagefolder", None, 28, 28, (28,)),
        ("imagefolder", 48, 128, 100, (48,)),
        ("digits", None, 8, 8, (8,)),
    ],
)
def test_sizes_follow_from_the_images(
    source: str, size: int | None, median: int, smallest: int, sides: tuple[int, ...]
) -> None:
    data = DataConfig(source=source, image_size=size)
    assert sides_to_try(data, look_of(median=median, smallest=smallest)) == sides


def test_the_data_part_says_what_was_decided() -> None:
    found = look_of()
    used = as_used(DataConfig(source="imagefolder", root="/things"), found, 64, 0.2)
    assert (used.image_size, used.validation_fraction, used.on_error) == (64, 0.2, "raise")
    assert as_used(DataConfig(source="digits"), found, 8, 0.2).image_size is None
    with pytest.raises(UserError, match=r"data\.preprocess: whitened"):
        as_used(DataConfig(source="digits", preprocess="zca"), found, 8, 0.2)
