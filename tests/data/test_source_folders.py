"""A user's own image folders, divided where there is no test split; which sources there are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load, paths, signature
from raydd.data.stratified import drawn_of
from tests.support.image_files import load_from, noise, write_folders


def photographs(counts: dict[str, int], below: str = "") -> dict[str, Image.Image | bytes]:
    """Photographs of different sizes in class folders."""
    return {
        f"{below}{name}/{number:02}.png": noise(1000 * label + number, 20 + number, 30 + label)
        for label, (name, count) in enumerate(counts.items())
        for number in range(count)
    }


def files_of(root: Path, seed: int = 0, fraction: float = 0.0) -> set[str]:
    config = DataConfig(source="imagefolder", root=str(root), validation_fraction=fraction)
    return set(paths(config, Key.root(seed)))


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_folder_without_test_images_is_divided(tmp_path: Path, below: str) -> None:
    counts = {"ant": 20, "bee": 2, "cat": 7, "dog": 13}
    write_folders(tmp_path / "own", photographs(counts, below))
    splits = load_from("imagefolder", tmp_path / "own")
    assert (splits.train.name, splits.train.class_names) == ("own", tuple(counts))
    assert splits.test.counts() == [4, 1, 1, 3] and splits.train.counts() == [16, 1, 6, 10]
    assert splits.train.shape == (3, 32, 32)
    pixels = [image.numpy().tobytes() for images in (splits.train, splits.test) for image in images.images]
    assert len(set(pixels)) == sum(counts.values())


def test_test_images_are_the_same_for_every_seed_and_every_other_setting(tmp_path: Path) -> None:
    write_folders(tmp_path, photographs({"ant": 12, "bee": 9}))
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    trained = files_of(tmp_path)
    assert len(trained) == 10 + 7 and trained < everything
    assert files_of(tmp_path, seed=5) == trained
    held_out = trained - files_of(tmp_path, seed=5, fraction=0.3)
    assert len(held_out) == 3 + 2
    tests = [load(DataConfig(source="imagefolder", root=str(tmp_path)), Key.root(seed)).test for seed in (0, 1)]
    assert tests[0].fingerprint == tests[1].fingerprint


def test_the_draw_is_not_that_of_the_first_images(tmp_path: Path) -> None:
    write_folders(tmp_path, photographs({name: 20 for name in "abcdef"}))
    everything = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    drawn = {name: {file for file in everything - files_of(tmp_path) if file.startswith(name)} for name in "abcdef"}
    assert len({frozenset(file[1:] for file in files) for files in drawn.values()}) > 3


@given(st.integers(2, 10_000), st.integers(1, 63))
def test_share_of_a_class(count: int, sixty_fourths: int) -> None:
    halves_up = (2 * count * sixty_fourths + 64) // 128
    assert drawn_of(count, sixty_fourths / 64) == min(max(halves_up, 1), count - 1)


@pytest.mark.parametrize(("files", "said"), [(["one.png"], "one image"), (["notes.txt"], "no image")])
def test_a_class_that_cannot_be_divided(tmp_path: Path, files: list[str], said: str) -> None:
    write_folders(tmp_path, photographs({"ant": 4}))
    write_folders(tmp_path, {f"bee/{name}": noise(1) for name in files})
    with pytest.raises(DataError, match=rf"^{tmp_path}, class bee: there is {said}, .* or give a test split"):
        load_from("imagefolder", tmp_path)


def test_a_test_folder_is_never_a_class(tmp_path: Path) -> None:
    write_folders(tmp_path, photographs({"ant": 4}, "test/"))
    with pytest.raises(DataError, match=rf"^{tmp_path}/train: there are no class folders"):
        load_from("imagefolder", tmp_path)


def test_image_size_is_32_unless_it_is_given(tmp_path: Path) -> None:
    write_folders(tmp_path, photographs({"ant": 5, "bee": 5}))
    assert load_from("imagefolder", tmp_path).test.shape == (3, 32, 32)
    assert load_from("imagefolder", tmp_path, image_size=10).test.shape == (3, 10, 10)
    assert (DataConfig(source="imagefolder").size, DataConfig().size, DataConfig(image_size=9).size) == (32, None, 9)


def test_signature_of_a_folder_that_is_divided(tmp_path: Path) -> None:
    write_folders(tmp_path / "plain", photographs({"ant": 4, "bee": 4}))
    config = DataConfig(source="imagefolder", root=str(tmp_path / "plain"))
    before = signature(config)
    write_folders(tmp_path / "plain", photographs({"ant": 5}))
    assert signature(config) != before
    write_folders(tmp_path / "split", photographs({"ant": 4, "bee": 4}, "train/"))
    config = DataConfig(source="imagefolder", root=str(tmp_path / "split"))
    before = signature(config)
    write_folders(tmp_path / "split", {"notes/a.png": noise(0)})
    assert signature(config) == before


# which sources there are


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("cifra10", "cifar10"),
        ("fashion_mnist", "fashion-mnist"),
        ("medmnist:pathmist", "medmnist:pathmnist"),
        ("imagenet:imagenete", "imagenet:imagenette"),
        ("imagewoof", "imagenet:imagewoof"),
        ("pathmnist", "medmnist:pathmnist"),
        ("medmnist:pathmnist:32", "medmnist:pathmnist"),
    ],
)
def test_a_source_that_is_not_there_names_the_nearest(source: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.source: '{source}' is not one of .*; did you mean {near}\?$"):
        DataConfig(source=source)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("medmnist", "medmnist:pathmnist, medmnist:dermamnist"),
        ("huggingface", "huggingface:<name>"),
        ("huggingface:", "huggingface:<name>"),
        ("cifar10:x", "digits, cifar10, cifar100, svhn, mnist, fashion-mnist, tiny-imagenet, imagenet\\[:<subset>\\]"),
        ("digits:x", "imagefolder, parquet"),
        ("imagenet:", "imagenet:imagenette, imagenet:imagewoof"),
        ("medmnist:organmnist3d", "medmnist:pathmnist, medmnist:dermamnist"),
    ],
)
def test_a_family_needs_a_name_and_others_take_none(source: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.source: '{source}' is not one of .*{named}"):
        DataConfig(source=source)


@pytest.mark.parametrize("source", ["medmnist:chestmnist", "medmnist:chestmnist:64"])
def test_chestmnist_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.source: '{source}' gives an image several labels at once"):
        DataConfig(source=source)
