"""Datasets as people really have them, one row each: what becomes of them, by the real writers where there are any."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydd.core.errors import UserError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load
from raydd.data.division import AS_PUBLISHED
from raydd.data.passed_over import division, passed_over
from tests.support.image_files import encoded, noise, write_parquet

Write = Callable[[Path], object]


@dataclass(frozen=True)
class Found:
    """What is read of a dataset."""

    train: dict[str, int]
    """Images of each class that are trained on."""
    test: dict[str, int]
    passed_over: tuple[str, ...] = ()
    """Words of the reasons why files are not read, with their numbers in front."""
    said: str = ""
    """Words on the division."""


def images(root: Path, *folders: str, count: int = 5, suffix: str = ".png") -> None:
    """So many images in each folder, of which no two are alike."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03}{suffix}").write_bytes(
                encoded(noise(zlib.crc32(f"{folder} {number}".encode())))
            )


def splits_called(train: str, test: str) -> Write:
    def write(root: Path) -> None:
        images(root, f"{train}/cat", f"{train}/dog")
        images(root, f"{test}/cat", f"{test}/dog", count=2)

    return write


def and_said(found: Found, passed_over: tuple[str, ...], said: str = "") -> Found:
    return replace(found, passed_over=passed_over, said=said)


GIVEN = Found({"cat": 5, "dog": 5}, {"cat": 2, "dog": 2})
DIVIDED = Found({"cat": 4, "dog": 4}, {"cat": 1, "dog": 1})


def without_labels(root: Path) -> None:
    images(root, "train/cat", "train/dog")
    images(root, "test", count=7)


def without_labels_beside_validation(root: Path) -> None:
    without_labels(root)
    images(root, "valid/cat", "valid/dog", count=2)


def classes_called_as_splits(root: Path) -> None:
    images(root, "apple", "test", "train", "val")


def class_in_a_split_called_train(root: Path) -> None:
    images(root, "train/train", "train/bus")
    images(root, "test/train", "test/bus", count=2)


def two_training_folders(root: Path) -> None:
    splits_called("train", "test")(root)
    images(root, "training/cat", "training/dog", count=3)


def dangling(root: Path) -> None:
    images(root, "cat", "dog")
    for number in range(15):
        for name in ("cat", "dog"):
            (root / name / f"annexed{number}.png").symlink_to(f"../.git/annex/objects/{name}{number}")


def strange_files(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "cat" / "notes.txt").write_text("of no use")
    (root / "cat" / "labels").write_text("of no use")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "dog" / "more").mkdir()
    (root / "dog" / "more" / "1.png").write_bytes(encoded(noise(1)))
    Path(os.fsdecode(os.fsencode(root / "dog") + b"/caf\xe9.png")).write_bytes(encoded(noise(2)))


def without_suffix(root: Path) -> None:
    images(root, "cat", suffix="")
    images(root, "dog")
    for number, form in enumerate(("JPEG", "GIF", "BMP", "WEBP", "TIFF")):
        (root / "dog" / f"photo {number}").write_bytes(encoded(noise(number), form))
    (root / "dog" / "README").write_text("five more photographs")


def heic(root: Path) -> None:
    import pillow_heif

    images(root, "cat", "dog")
    pillow_heif.register_heif_opener()
    for number in range(5):
        noise(number, 64, 64).save(root / "cat" / f"IMG_{number}.HEIC")


def archive_of_macos(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "note.png").write_bytes(b"\0\5\x16\7" * 30)
    for name in (".DS_Store", "cat/.DS_Store", "cat/._000.png"):
        (root / name).write_bytes(b"Mac OS X")


def link_to_itself(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "cat" / "again").symlink_to(root)


def unlabelled_in_one_folder(root: Path) -> None:
    images(root, "train/cat", "train/dog")
    images(root, "test/unknown", count=4)


def classes_apart(root: Path) -> None:
    images(root, "train/cat", "train/dog")
    images(root, "test/cat", count=2)


def packed(root: Path) -> None:
    images(root / "inside", "cat", "dog")
    shutil.make_archive(str(root / "train"), "zip", root / "inside")
    shutil.rmtree(root / "inside")


def with_pointers(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "cat" / "x.png").write_bytes(POINTER)


def with_web_pages(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "cat" / "x.jpg").write_text("<html>404</html>")


def detections(root: Path) -> None:
    images(root, "train/images")
    (root / "train" / "labels").mkdir()
    (root / "train" / "labels" / "000.txt").write_text("0 .5 .5 .1 .1")


def empty_class(root: Path) -> None:
    images(root, "cat", "dog")
    (root / "emu").mkdir()


def every_mode(root: Path) -> None:
    images(root, "cat", "dog")
    for mode, name in (("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("LA", "png"), ("RGBA", "webp"), ("L", "tif")):
        noise(1).convert(mode).save(root / "cat" / f"{mode}.{name}")


def linked_class(root: Path) -> None:
    images(root.with_name(f"{root.name} elsewhere"), "cat")
    images(root, "dog")
    (root / "cat").symlink_to(root.with_name(f"{root.name} elsewhere") / "cat")


def left_by_notebooks(root: Path) -> None:
    images(root, "cat", "dog", "cat/.ipynb_checkpoints", ".ipynb_checkpoints")
    (root / "dog" / "Thumbs.db").write_text("of no use")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 130\n"

FOLDERS: dict[str, tuple[Write, Found | str]] = {
    **{
        f"folders {train}, {test}": (splits_called(train, test), GIVEN)
        for train, test in [
            *(("train", name) for name in ("valid", "validation", "dev", "eval", "Val", "testing", "Test", "test_set")),
            *((name, "test") for name in ("Train", "training", "TRAIN", "train-set", "train_images")),
            ("Training", "Validation"),
        ]
    },
    "test images without labels": (without_labels, and_said(DIVIDED, ("7 in test/",), "no test images are given")),
    "test images without labels beside a validation split": (
        without_labels_beside_validation,
        and_said(GIVEN, ("7 in test/",), "those of valid/, as given; there is no test split"),
    ),
    "classes called test, train and val": (
        classes_called_as_splits,
        Found(dict.fromkeys(("apple", "test", "train", "val"), 4), dict.fromkeys(("apple", "test", "train", "val"), 1)),
    ),
    "a class called train in a training split": (
        class_in_a_split_called_train,
        Found({"bus": 5, "train": 5}, {"bus": 2, "train": 2}),
    ),
    "two training folders": (two_training_folders, and_said(GIVEN, ("6 in training/",), "training/ is not read")),
    "a training split alone": (lambda root: images(root, "training/cat", "training/dog"), DIVIDED),
    "splits without classes": (lambda root: images(root, "train", "test"), "are called splits (test, train) and hold"),
    "links of git-annex": (dangling, and_said(DIVIDED, ("30 links to nothing",))),
    "files of all kinds": (
        strange_files,
        and_said(
            DIVIDED,
            (
                "1 no image by its name (.txt)",
                "1 no image by its name (no suffix)",
                "1 in folders inside",
                "1 under names",
            )
            + ("1 no files that can be read",),
        ),
    ),
    "names without suffix": (
        without_suffix,
        Found({"cat": 4, "dog": 8}, {"cat": 1, "dog": 2}, ("1 no image by its name (no suffix)",)),
    ),
    "an archive of macOS": (archive_of_macos, and_said(DIVIDED, ("1 in __MACOSX/, which no person has made",))),
    "a link to a folder above": (link_to_itself, and_said(DIVIDED, ("1 links to a folder that they lie in",))),
    "test images in one folder that is no class": (
        unlabelled_in_one_folder,
        and_said(DIVIDED, ("4 in test/, which is not read",), "test/ is not read"),
    ),
    "a test split that lacks a class": (classes_apart, "its classes are not those of"),
    "an archive that nobody unpacked": (packed, "holds no folders, but train.zip; unpack it"),
    "images alone": (lambda root: images(root, "."), "holds 5 images and no folders"),
    "arrays alone": (
        lambda root: np.save(root / "X.npy", np.zeros(3)),
        "holds X.npy and no folders, and there are no class folders",
    ),
    "a folder in a folder": (
        lambda root: images(root, "set/cat", "set/dog"),
        "it can be read with --data.source imagefolder --data.root",
    ),
    "pointers of Git LFS": (with_pointers, "a pointer of Git LFS, not the file; fetch it with git lfs pull"),
    "web pages in the place of images": (with_web_pages, "x.jpg (not an image)"),
    "boxes of objects": (detections, "class labels: there is no image"),
    "an empty class": (
        empty_class,
        "class emu: there is no image, but one is needed to train on and one to test on",
    ),
    "names that differ in a space": (
        lambda root: images(root, "cat", "cat ", "dog"),
        "classes are called 'cat' with and without spaces",
    ),
    "all modes of pixels": (every_mode, Found({"cat": 9, "dog": 4}, {"cat": 2, "dog": 1})),
    "a class behind a link": (linked_class, DIVIDED),
    "what notebooks and Windows leave": (left_by_notebooks, and_said(DIVIDED, ("1 no image by its name (.db)",))),
    "names of any script": (
        lambda root: images(root, "猫 с пробелом", "犬😀"),
        Found({"猫 с пробелом": 4, "犬😀": 4}, {"猫 с пробелом": 1, "犬😀": 1}),
    ),
    "photographs of a telephone": (heic, Found({"cat": 8, "dog": 4}, {"cat": 2, "dog": 1})),
}


def rows(labels: list[Any], seed: int = 0) -> dict[str, list[Any]]:
    return {"image": [encoded(noise(seed + row)) for row in range(len(labels))], "label": labels}


CATS = [0, 0, 1, 1, 1]


def files(**labels: list[int | None]) -> Write:
    """Files with the classes cat and dog, under names in which `__` stands for a hyphen."""

    def write(root: Path) -> None:
        for name, given in labels.items():
            write_parquet(root / f"{name.replace('__', '-')}.parquet", given, ["cat", "dog"])

    return write


def in_two_orders(root: Path) -> None:
    write_parquet(root / "train-0.parquet", [0, 0, 1], ["cat", "dog"])
    write_parquet(root / "train-1.parquet", [0, 0, 0, 1], ["dog", "cat"])
    write_parquet(root / "test.parquet", [0, 0, 1], ["dog", "cat"])


def of_another_set(root: Path) -> None:
    write_parquet(root / "train-0.parquet", [0, 1], ["cat", "dog"])
    write_parquet(root / "train-1.parquet", [0, 1], ["cat", "horse"])


def by_polars(root: Path) -> None:
    names = pl.Series(["cat", "cat", "dog", "dog", "dog"])
    for split in ("train", "test"):
        frame = pl.DataFrame({"image": pl.Series(rows(CATS)["image"], dtype=pl.Binary), "label": names})
        frame.write_parquet(root / f"{split}.parquet")


def views(root: Path) -> None:
    """Arrow's string and binary views, in which polars hands out its columns."""
    for split in ("train", "test"):
        columns = [
            pa.array(rows(CATS)["image"], pa.binary_view()),
            pa.array(["a", "a", "b", "b", "b"], pa.string_view()),
        ]
        pq.write_table(pa.table(columns, names=["image", "label"]), root / f"{split}.parquet")


def with_metadata(text: bytes) -> Write:
    def write(root: Path) -> None:
        for split in ("train", "test"):
            table = pa.table(rows(CATS)).replace_schema_metadata({"huggingface": text})
            pq.write_table(table, root / f"{split}.parquet")

    return write


def two_columns(root: Path) -> None:
    columns = rows(CATS)
    table = pa.Table.from_arrays([*columns.values(), columns["label"]], names=["image", "label", "label"])
    pq.write_table(table, root / "train.parquet")


def without_bytes(root: Path) -> None:
    table = pa.table({"image": [{"path": "a.png"}] * 5, "label": CATS})
    pq.write_table(table, root / "train.parquet")


def of_truth(root: Path) -> None:
    pq.write_table(pa.table(rows([False, False, True, True, True])), root / "train.parquet")


NAMED = Found({"cat": 2, "dog": 3}, {"cat": 1, "dog": 1})
HALVES = Found({"cat": 1, "dog": 2}, {"cat": 1, "dog": 1})
NUMBERED = Found({"0": 2, "1": 3}, {"0": 2, "1": 3})


def in_folders(*paths: str) -> Write:
    """Files of both splits at these paths."""

    def write(root: Path) -> None:
        for path, labels in zip(paths, (CATS, [0, 1]), strict=True):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            write_parquet(root / path, labels, names=["cat", "dog"])

    return write


def writes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut_off(root: Path) -> None:
    write_parquet(root / "train.parquet", CATS)
    writes(root / "train.parquet", (root / "train.parquet").read_bytes()[:-30])


def write_text_labels(root: Path, labels: list[Any], name: str = "train.parquet", kind: Any = None) -> None:
    cells = pa.array([encoded(noise(row)) for row in range(len(labels))])
    pq.write_table(pa.table({"image": cells, "label": pa.array(labels, kind)}), root / name)


def too_large_labels(root: Path) -> None:
    table = pa.table({"image": [encoded(noise(0))] * 3, "label": pa.array([2**63 + 1, 0, 1], pa.uint64())})
    pq.write_table(table, root / "train.parquet")


PARQUET: dict[str, tuple[Write, Found | str]] = {
    "a validation split": (files(train=CATS, validation=[0, 1]), and_said(NAMED, (), "validation.parquet, as given")),
    "other names": (files(Training__00000__of__00001=CATS, Testing__00000__of__00001=[0, 1]), NAMED),
    "a training split alone": (files(train=CATS), HALVES),
    "a split whose name begins alike": (
        files(train=CATS, train_val=[0] * 9, test=[0, 1]),
        and_said(NAMED, ("1 no file of the splits",), "train_val.parquet is not read"),
    ),
    "test labels of -1": (
        files(train=CATS, test=[-1, -1]),
        and_said(HALVES, ("1 no file of the splits",), "no test images are given"),
    ),
    "test labels of null beside a validation split": (
        files(train=CATS, test=[None, None], valid=[0, 1]),
        and_said(NAMED, ("1 no file of the splits",), "those of valid.parquet, as given; there is no test split; test"),
    ),
    "names in two orders": (in_two_orders, Found({"cat": 3, "dog": 4}, {"cat": 1, "dog": 2})),
    "names of two sets": (
        of_another_set,
        "train-1.parquet: has images of horse, and the dataset's first file knows no",
    ),
    "polars": (by_polars, Found({"cat": 2, "dog": 3}, {"cat": 2, "dog": 3})),
    "views": (views, Found({"a": 2, "b": 3}, {"a": 2, "b": 3})),
    **{
        f"metadata {text.decode()[:40]}": (with_metadata(text), NUMBERED)
        for text in [
            *(b"no JSON", b"null", b"[]", b'{"info": null}', b'{"info": {"features": [1]}}', b"{"),
            *(b'{"info": {"features": {"label": null}}}', b'{"info": {"features": {"label": {"names": 3}}}}'),
            b'{"info": {"features": {"label": {"names": [1, 2]}}}}',
        ]
    },
    "two classes of one name": (
        with_metadata(json.dumps({"info": {"features": {"label": {"names": ["cat", "cat"]}}}}).encode()),
        "its metadata call two classes cat",
    ),
    "two columns of one name": (two_columns, "has 2 columns called label; rename them"),
    "images without bytes": (without_bytes, "column image must be struct{bytes, path} or binary"),
    "a repository of the Hub": (
        in_folders("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        and_said(NAMED, (), "those of data/test-00000-of-00001.parquet, as given"),
    ),
    "as the Hub converts": (in_folders("default/train/0000.parquet", "default/test/0000.parquet"), NAMED),
    "a folder for each split": (
        in_folders("Training/a.parquet", "valid/a.parquet"),
        and_said(NAMED, (), "those of valid/a.parquet, as given; there is no test split"),
    ),
    "classes that differ in a space": (
        lambda root: write_text_labels(root, ["cat", " cat", "dog"]),
        "classes are called 'cat' with and without spaces at the end",
    ),
    "labels of -1 to train on": (files(train=[0, 0, 1, -1, 1]), "labels run from -1 to 1"),
    "labels beyond all numbers": (too_large_labels, "labels are no numbers of classes"),
    "a pointer of Git LFS": (
        lambda root: writes(root / "train.parquet", POINTER),
        "train.parquet: is a pointer of Git LFS, not the file",
    ),
    "a file that was cut off": (cut_off, "train.parquet: cannot be read as a Parquet file"),
    "labels that are lists": (lambda root: write_text_labels(root, [[0], [1], [0, 1]]), "must be integers from 0"),
    "labels that are fractions": (lambda root: write_text_labels(root, [0.0, 1.0, 1.0]), "must be integers from 0"),
    "labels of many widths": (
        lambda root: [
            write_text_labels(root, [0, 1], f"{split}-{bits}.parquet", kind)
            for split in ("train", "test")
            for bits, kind in ((8, pa.int8()), (16, pa.uint16()), (64, pa.int64()))
        ],
        Found({"0": 3, "1": 3}, {"0": 3, "1": 3}),
    ),
    "labels of dictionaries": (
        lambda root: [
            write_text_labels(root, ["cat", "dog"], f"{split}.parquet", pa.dictionary(pa.int32(), pa.string()))
            for split in ("train", "test")
        ],
        Found({"cat": 1, "dog": 1}, {"cat": 1, "dog": 1}),
    ),
    "labels that are true or false": (of_truth, Found({"0": 1, "1": 2}, {"0": 1, "1": 1})),
}


def by_datasets(features: datasets.Features, **labels: list[Any]) -> Write:
    def write(root: Path) -> None:
        for split, given in labels.items():
            cells = [{"bytes": encoded(noise(row)), "path": None} for row in range(len(given))]
            whole = datasets.Dataset.from_dict({"image": cells, "label": given}, features=features)
            (root / "data").mkdir(exist_ok=True)
            whole.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")

    return write


CLASSES = datasets.ClassLabel(names=["cat", "dog"])
FEATURES = datasets.Features({"image": datasets.Image(), "label": CLASSES})
PLAIN = datasets.Features(
    {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}, "label": CLASSES}
)
REVERSED = datasets.ClassLabel(names=["dog", "cat"])


def in_another_order(root: Path) -> None:
    by_datasets(FEATURES, train=CATS)(root)
    by_datasets(datasets.Features({"image": datasets.Image(), "label": REVERSED}), test=[0, 1])(root)


def without_an_image(root: Path) -> None:
    cells = [{"bytes": encoded(noise(0)), "path": None}, None] * 2
    (root / "data").mkdir()
    whole = datasets.Dataset.from_dict({"image": cells, "label": [0, 0, 1, 1]}, features=FEATURES)
    whole.to_parquet(root / "data" / "train-00000-of-00001.parquet")


HUB: dict[str, tuple[Write, Found | str]] = {
    "a validation split": (
        by_datasets(FEATURES, train=CATS, validation=[0, 1]),
        and_said(NAMED, (), "those of validation, as given; there is no test split"),
    ),
    "a training split alone": (by_datasets(FEATURES, train=CATS), and_said(HALVES, (), "one in five of every class")),
    "test labels of -1": (
        by_datasets(FEATURES, train=CATS, test=[-1, -1]),
        and_said(HALVES, (), "the same ones for every seed; test is not read"),
    ),
    "test labels of -1 beside a validation split": (
        by_datasets(FEATURES, train=CATS, validation=[0, 1], test=[-1, -1]),
        and_said(NAMED, (), "those of validation, as given; there is no test split; test is not read"),
    ),
    "a validation split beside a test split": (
        by_datasets(FEATURES, train=CATS, validation=[0, 1], test=[0, 1]),
        and_said(NAMED, (), "those of test, as given; validation is not read: raydd holds out images of its own"),
    ),
    "labels in another order": (
        in_another_order,
        "has the classes dog, cat in this order, and the package datasets reads its labels as cat, dog",
    ),
    "no image in a row": (
        without_an_image,
        "train, row 1 (no image, null)",
    ),
    "images that are not said to be": (by_datasets(PLAIN, train=CATS, test=[0, 1]), NAMED),
}


def require(config: DataConfig, expected: Found | str, count_files: bool = True) -> None:
    """That a dataset is read as expected, or refused with these words."""
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            load(config, Key.root(0))
        assert expected in str(error.value)
        return
    splits = load(config, Key.root(0))
    for split, wanted in ((splits.train, expected.train), (splits.test, expected.test)):
        counts = np.bincount(split.labels.numpy(), minlength=len(split.class_names)).tolist()
        assert dict(zip(split.class_names, counts, strict=True)) == wanted
    if not count_files:
        return
    counted = sorted(f"{count} {reason}" for reason, count in passed_over(config).items())
    assert len(counted) == len(expected.passed_over)
    assert all(any(line.startswith(words) for line in counted) for words in expected.passed_over), counted
    given = division(config)
    assert expected.said in (AS_PUBLISHED if given is None else given.in_words())


def test_classes_that_are_not_whole_can_be_left_out(tmp_path: Path) -> None:
    """Without images to train on, or to test on, or in the training split alone."""
    (tmp_path / "a").mkdir()
    empty_class(tmp_path / "a")
    images(tmp_path / "b", "train/cat", "train/dog", "train/emu")
    images(tmp_path / "b", "test/cat", "test/dog", "test/yak", count=2)
    for name, expected in (("a", DIVIDED), ("b", GIVEN)):
        config = DataConfig(source="imagefolder", root=str(tmp_path / name), image_size=6)
        with pytest.raises(UserError):
            load(config, Key.root(0))
        require(replace(config, classes=("cat", "dog")), replace(expected, passed_over=()), count_files=False)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    write, expected = FOLDERS[name]
    (tmp_path / "images").mkdir()
    write(tmp_path / "images")
    require(DataConfig(source="imagefolder", root=str(tmp_path / "images"), image_size=6), expected)


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_files(name: str, tmp_path: Path) -> None:
    write, expected = PARQUET[name]
    write(tmp_path)
    require(DataConfig(source="parquet", root=str(tmp_path)), expected)


@pytest.mark.parametrize("name", HUB)
def test_datasets_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write, expected = HUB[name]
    (tmp_path / "own").mkdir()
    write(tmp_path / "own")
    require(DataConfig(source="huggingface:./own", root=str(tmp_path)), expected)


@pytest.mark.parametrize("source", ["imagefolder", "parquet", "cifar10"])
def test_a_root_that_is_not_there_names_one_that_is(source: str, tmp_path: Path) -> None:
    images(tmp_path / "Photos" / "2024", "cat", "dog")
    for root, words in (
        ("photo/2024", f"there is no folder {tmp_path}/photo/2024; did you mean {tmp_path}/Photos?"),
        ("Photos/2042", f"did you mean {tmp_path}/Photos/2024?"),
        ("entirely different", "there is no folder"),
    ):
        require(DataConfig(source=source, root=str(tmp_path / root)), words)


@pytest.mark.parametrize("source", ["cifar10", "mnist", "tiny-imagenet"])
def test_a_published_dataset_is_never_divided(source: str, tmp_path: Path) -> None:
    """A download that is not complete would be another dataset under the same name."""
    write_parquet(tmp_path / source / "train.parquet", list(range(10)) * 3)
    require(
        DataConfig(source=source, root=str(tmp_path), image_size=6), "the test images of a published dataset are given"
    )


@pytest.mark.parametrize(
    ("classes", "names"),
    [((2, 3), ("2", "3")), (("10", 1), ("1", "10")), ((0, 1), "has no class 0; it has 5: 1, 10, 11, 2, 3")],
)
def test_numbers_are_names_where_all_names_are_numbers(
    classes: tuple[int | str, ...], names: tuple[str, ...] | str, tmp_path: Path
) -> None:
    images(tmp_path, "1", "2", "3", "10", "11")
    config = DataConfig(source="imagefolder", root=str(tmp_path), classes=classes)
    if isinstance(names, str):
        require(config, names)
    else:
        require(
            config, Found(dict.fromkeys(names, 4), dict.fromkeys(names, 1), ("15 of classes that are not asked for",))
        )
