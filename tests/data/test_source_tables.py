"""Parquet files with columns of a user's own, and what the package `datasets` loads."""

import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load, paths, signature
from tests.support.image_files import as_tensor, encoded, load_from, noise, write_folders, write_parquet

KEY = Key.root(0)
ANIMALS = ["bee", "ant", "cat", "ant"]


def write_table(path: Path, labels: pa.Array, image: str = "image", label: str = "label") -> None:
    """Images as their bytes alone."""
    images = [encoded(noise(seed)) for seed in range(len(labels))]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: pa.array(images, pa.binary()), label: labels}), path, row_group_size=3)


# Parquet


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_that_are_text_become_classes_in_alphabetical_order(tmp_path: Path, kind: pa.DataType) -> None:
    write_table(tmp_path / "train-0.parquet", pa.array(ANIMALS).cast(kind))
    write_table(tmp_path / "train-1.parquet", pa.array(["dog", "ant"]).cast(kind))
    write_table(tmp_path / "test.parquet", pa.array(["dog", "cat", "bee", "ant"]).cast(kind))
    splits = load_from("parquet", tmp_path)
    assert splits.train.class_names == splits.test.class_names == ("ant", "bee", "cat", "dog")
    assert splits.train.labels.tolist() == [1, 0, 2, 0, 3, 0] and splits.test.labels.tolist() == [3, 2, 1, 0]
    assert torch.equal(splits.train.images[3], as_tensor(noise(3)))
    assert torch.equal(splits.train.images[5], as_tensor(noise(1)))


def test_a_test_label_that_no_training_image_has(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", pa.array(ANIMALS))
    write_table(tmp_path / "test.parquet", pa.array(["ant", "bee", "eel", "cat"]))
    with pytest.raises(DataError, match=r"test\.parquet in .*: labels that are none of the 3 classes: eel$"):
        load_from("parquet", tmp_path)


@pytest.mark.parametrize("file", ["train-1.parquet", "test.parquet"])
def test_labels_of_two_kinds(tmp_path: Path, file: str) -> None:
    for name in ("train-0.parquet", "train-1.parquet", "test.parquet"):
        write_table(tmp_path / name, pa.array([0, 1, 2, 0] if name == file else ANIMALS))
    with pytest.raises(DataError, match="labels are integers in some files and text in others"):
        load_from("parquet", tmp_path)


def test_columns_of_a_users_own(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [0, 1], ["x", "y"], columns=("scan", "finding"))
    splits = load_from("parquet", tmp_path, image_column="scan", label_column="finding")
    assert splits.train.class_names == ("x", "y") and torch.equal(splits.test.images[1], as_tensor(noise(1)))
    needed = r"needs columns image and finding, has scan, finding; name others in data\.image_column and data\.label_"
    with pytest.raises(DataError, match=needed):
        load_from("parquet", tmp_path, label_column="finding")


def test_a_named_column_holds_for_named_datasets(tmp_path: Path) -> None:
    for split in ("train", "test"):
        file = tmp_path / "cifar100" / f"{split}.parquet"
        write_parquet(file, list(range(20)), columns=("img", "coarse_label"))
        table = pq.read_table(file)
        pq.write_table(table.append_column("fine_label", pa.array([5] * 20)), file)
    with pytest.raises(DataError, match="no image of class"):
        load_from("cifar100", tmp_path)
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny-imagenet" / f"{split}.parquet", [0, 1], columns=("image", "kind"))
    assert load_from("tiny-imagenet", tmp_path, label_column="kind").train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": [b"?"], "label": [0.5]}, "column label must be integers from 0 or text, is double"),
        ({"image": ["a.png"], "label": [0]}, r"column image must be struct\{bytes, path\} or binary, is string"),
        ({"image": [{"path": "a"}], "label": [0]}, r"column image must be struct\{bytes, path\} or binary, is struct"),
        ({"image": [b"?", b"?"], "label": ["a", None]}, r"1 rows have no label \(null\)"),
    ],
)
def test_columns_that_cannot_be_read(tmp_path: Path, table: dict[str, list[Any]], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        load_from("parquet", tmp_path)


# Hugging Face


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares stays with the test, and it asks nobody for anything."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def write_hub(root: Path, label: Any, labels: list[Any], test: str = "test", **more: tuple[Any, list[Any]]) -> None:
    """A folder as `push_to_hub` fills it: Parquet files below data, with their features."""
    features = {"id": datasets.Value("string"), "picture": datasets.Image(), "kind": label}
    columns: dict[str, list[Any]] = {"id": [str(row) for row in range(len(labels))], "kind": labels}
    columns["picture"] = [{"bytes": encoded(noise(seed)), "path": None} for seed in range(len(labels))]
    for name, (feature, values) in more.items():
        features[name], columns[name] = feature, values
    whole = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (root / "data").mkdir(parents=True, exist_ok=True)
    whole.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    whole.select(range(len(labels) // 2)).to_parquet(root / "data" / f"{test}-00000-of-00001.parquet")


@pytest.mark.parametrize("test", ["test", "validation"])
def test_columns_are_found_by_their_types(tmp_path: Path, test: str) -> None:
    write_hub(tmp_path / "user" / "insects", datasets.ClassLabel(names=["bee", "ant"]), [1, 0, 1, 0], test)
    config = DataConfig(source="huggingface:./user/insects", root=str(tmp_path))
    splits = load(config, KEY)
    assert (splits.train.name, splits.train.class_names) == ("insects", ("bee", "ant"))
    assert splits.train.labels.tolist() == [1, 0, 1, 0] and splits.test.labels.tolist() == [1, 0]
    assert torch.equal(splits.train.images, torch.stack([as_tensor(noise(seed)) for seed in range(4)]))
    assert paths(config, KEY)[2] == "huggingface:./user/insects/train#2"


def test_labels_of_a_hub_dataset_that_are_text(tmp_path: Path) -> None:
    write_hub(tmp_path / "own", datasets.Value("string"), ["b", "a", "c", "a", "c", "b"])
    with pytest.raises(
        ConfigError,
        match=r"^data\.label_column: must be given, as no column has the type; columns are id, kind, picture$",
    ):
        load_from("huggingface:./own", tmp_path)
    splits = load_from("huggingface:./own", tmp_path, label_column="kind")
    assert splits.train.class_names == ("a", "b", "c") and splits.train.labels.tolist() == [1, 0, 2, 0, 2, 1]


def test_a_hub_dataset_with_several_columns_of_a_type(tmp_path: Path) -> None:
    coarse = (datasets.ClassLabel(names=["animal"]), [0, 0])
    write_hub(tmp_path / "own", datasets.ClassLabel(names=["x"]), [0, 0], coarse=coarse)
    with pytest.raises(ConfigError, match=r"^data\.label_column: must be given, as several columns may be meant"):
        load_from("huggingface:./own", tmp_path)
    splits = load_from("huggingface:./own", tmp_path, label_column="coarse", image_column="picture")
    assert splits.train.class_names == ("animal",)
    with pytest.raises(ConfigError, match=r"^data\.image_column: there is no 'x'; columns are"):
        load_from("huggingface:./own", tmp_path, image_column="x")
    with pytest.raises(ConfigError, match=r"^data\.image_column: 'id' must be of type Image"):
        load_from("huggingface:./own", tmp_path, image_column="id", label_column="kind")
    with pytest.raises(ConfigError, match=r"^data\.label_column: 'picture' must be classes, integers or text"):
        load_from("huggingface:./own", tmp_path, label_column="picture")


def test_a_local_folder_of_images(tmp_path: Path) -> None:
    names = [f"own/{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in (0, 1)]
    write_folders(tmp_path, {name: noise(seed, 6, 8) for seed, name in enumerate(names)})
    splits = load_from("huggingface:./own", tmp_path)
    assert splits.train.class_names == ("a", "b") and splits.train.shape == (3, 6, 8)
    assert torch.equal(splits.train.images, torch.stack([as_tensor(noise(seed, 6, 8)) for seed in range(4)]))
    before = signature(DataConfig(source="huggingface:./own"))
    write_folders(tmp_path, {"own/train/a/9.png": noise(9)})
    assert signature(DataConfig(source="huggingface:./own")) != before


def test_a_hub_dataset_without_a_test_split_is_divided(tmp_path: Path) -> None:
    write_hub(tmp_path / "own", datasets.ClassLabel(names=["x", "y"]), [0, 1] * 10, "train2")
    splits = load_from("huggingface:./own", tmp_path)
    counts = [split.labels.bincount().tolist() for split in (splits.train, splits.test)]
    assert counts == [[8, 8], [2, 2]]


def test_a_dataset_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^huggingface:nobody/nothing cannot be loaded: "):
        load_from("huggingface:nobody/nothing", tmp_path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"^data\.source: huggingface:user/set .* pip install datasets$"):
        load_from("huggingface:user/set", tmp_path)
