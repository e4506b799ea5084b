"""What folders are taken for, classes inside folders, and files that are passed over."""

from pathlib import Path

import pytest

from raydd.core.errors import ConfigError, DataError, UserError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load, paths, signature
from raydd.data.folder_layout import flags_of, take
from raydd.data.passed_over import division, passed_over
from tests.support.image_files import encoded, load_from, noise, write_folders, write_parquet

NAMES = ("animals/cat", "animals/dog", "plants/rose")


def write(root: Path, names: tuple[str, ...] = NAMES, count: int = 4) -> None:
    write_folders(root, {f"{name}/{i}.png": noise(10 * k + i) for k, name in enumerate(names) for i in range(count)})


def test_folders_inside_class_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path / "things", tuple(f"train/{name}" for name in NAMES))
    write(tmp_path / "things", tuple(f"test/{name}" for name in NAMES), 2)
    taken = take(str(tmp_path / "things"))
    assert taken.data.nested == "classes" and "animals holds no images but folders (cat, dog)" in taken.said[1]
    splits = load(taken.data, Key.root(0))
    assert splits.train.class_names == NAMES and splits.train.counts() == [4, 4, 4] and splits.test.counts() == [2] * 3
    assert flags_of(taken.data, "--")[-2:] == ["--nested", "classes"]
    assert "train/animals/cat/0.png" in paths(taken.data, Key.root(0))


def test_or_their_images_are_those_of_the_class(tmp_path: Path) -> None:
    write(tmp_path, (*NAMES, "plants"))
    splits = load_from("imagefolder", tmp_path, nested="images")
    assert splits.train.class_names == ("animals", "plants") and len(splits.train) + len(splits.test) == 16


def test_folders_that_are_alike_in_every_class_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, ("cat/images", "dog/images"))
    taken = take(str(tmp_path))
    assert taken.data.nested == "images" and load(taken.data, Key.root(0)).train.class_names == ("cat", "dog")


def test_nobody_says_what_deeper_folders_are(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(
        DataError, match=r"animals: holds no images but folders \(cat, dog\); set data.nested to classes"
    ):
        load_from("imagefolder", tmp_path)
    with pytest.raises(ConfigError, match=r"^data\.nested: is for imagefolder; digits has no class folders"):
        DataConfig(nested="classes")


def test_a_field_that_came_later_changes_no_key() -> None:
    assert "nested" not in DataConfig().identity()
    assert DataConfig(source="imagefolder", nested="images").identity()["nested"] == "images"


@pytest.mark.parametrize("below", ["inner", "a/b"])
def test_a_folder_around_the_dataset_is_seen_through(tmp_path: Path, below: str) -> None:
    write(tmp_path / "things" / below, ("cat", "dog"))
    (tmp_path / "things" / "README.md").write_text("mine")
    taken = take(str(tmp_path / "things"))
    assert taken.data.root == str(tmp_path / "things" / below) and taken.data.nested == "skip"
    assert "holds nothing but the folder" in taken.said[0]
    assert signature(taken.data)


def test_parquet_files_and_one_of_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_parquet(tmp_path / "data" / f"{split}.parquet", [0, 1, 1])
    for where in (tmp_path, tmp_path / "data", tmp_path / "data" / "train.parquet"):
        taken = take(str(where))
        assert (taken.data.source, taken.data.root) == ("parquet", str(tmp_path / "data"))
    given = division(taken.data)
    assert given is not None and given.in_words() == (
        "test images are those of val.parquet, as given; there is no test split"
    )
    (tmp_path / "data" / "notes.txt").write_text("")
    assert passed_over(taken.data) == {"no file of the splits that are read": 1}
    write_parquet(tmp_path / "other" / "mine.parquet", [0, 1])
    with pytest.raises(DataError, match="does not say by its name which split it is; name it train.parquet"):
        take(str(tmp_path / "other" / "mine.parquet"))


def test_datasets_of_the_literature_are_known_by_their_layout(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cifar10" / "train.parquet", [0, 1])
    taken = take(str(tmp_path))
    assert (taken.data.source, taken.data.root) == ("cifar10", str(tmp_path))
    assert division(taken.data) is None and not passed_over(taken.data)
    write_parquet(tmp_path / "svhn" / "train.parquet", [0, 1])
    with pytest.raises(
        UserError, match="holds several datasets, cifar10, svhn; name one, as in: raydd inspect cifar10"
    ):
        take(str(tmp_path))


def test_one_that_is_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "tiny-imagenet-200" / "train", ("n1/images", "n2/images"))
    taken = take(str(tmp_path / "tiny-imagenet-200"))
    assert (taken.data.source, taken.data.root) == ("tiny-imagenet", str(tmp_path))


def test_every_file_is_read_or_passed_over(tmp_path: Path) -> None:
    write(tmp_path, ("train/cat", "train/dog", "test/cat", "test/dog", "old/cat", "train/dog/more"))
    write_folders(
        tmp_path, {"train/a.png": noise(1), "train/cat/b.txt": b"", "c": b"", "train/dog/d.JPG": encoded(noise(2))}
    )
    config = DataConfig(source="imagefolder", root=str(tmp_path))
    assert passed_over(config) == {
        "in old/, which is not read": 4,
        "in folders inside class folders": 4,
        "beside the class folders": 1,
        "no image by its name (.txt)": 1,
        "no image by its name (no suffix)": 1,
    }
