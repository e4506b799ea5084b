"""CIFAR-10, CIFAR-100, Tiny-ImageNet and ImageNet-1K from files in the layouts that users have; their sizes."""

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, DataFacts, load, paths, signature, size_of
from raydd.data.fit_preprocessing import literature_constants
from tests.support.image_files import (
    WNIDS,
    as_tensor,
    encoded,
    load_from,
    noise,
    write_folders,
    write_parquet,
    write_tiny,
)

KEY = Key.root(0)
TRAIN10K_SHA256 = "78b0adb6c9ddd83aaeef319aeb90848d310b5adbad91e5421d6cf3ea91002ce5"
TEST_SHA256 = "293041b61e3c5a8874312a1f902aa83a16c2a682f22faf4a58490448f9f98c95"

needs_cifar10 = pytest.mark.skipif("RAYDD_DATA" not in os.environ, reason="RAYDD_DATA is not set: no real CIFAR-10")


def sha256(images_NCHW: Tensor) -> str:
    return hashlib.sha256(images_NCHW.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).hexdigest()


# CIFAR-10


@needs_cifar10
def test_cifar10_has_the_published_bytes() -> None:
    splits = load(DataConfig(source="cifar10", train_limit_per_class=1000), KEY)
    assert splits.train.counts() == [1000] * 10
    assert splits.train.class_names[3] == "cat"
    assert sha256(splits.train.images) == TRAIN10K_SHA256
    assert sha256(splits.test.images) == TEST_SHA256


def test_cifar10_parquet_without_names_gets_the_standard_ones(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar10" / f"{split}-00000-of-00001.parquet", list(range(10)))
    splits = load_from("cifar10", tmp_path)
    assert splits.test.class_names[:2] == ("airplane", "automobile")
    assert splits.train.name == "cifar10"


def test_cifar10_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    labels = [row % 10 for row in range(20)]
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["?"] * 10}))
    # the true checksums are of the true batches
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None}
    )
    splits = load_from("cifar10", tmp_path, train_limit_per_class=1)
    assert splits.train.labels.tolist() == list(range(10))
    assert np.array_equal(splits.train.images.flatten(1).numpy(), rows[:10])
    assert np.array_equal(splits.test.images.flatten(1).numpy(), rows)
    config = DataConfig(source="cifar10", root=str(tmp_path), train_limit_per_class=1)
    assert paths(config, KEY)[9] == "cifar-10-batches-py/train#9"


def test_cifar10_damaged_in_torchvisions_layout(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="what is there is damaged"):
        load_from("cifar10", tmp_path)


def test_cifar10_nowhere_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")  # nobody listens there
    with pytest.raises(DataError) as error:
        load_from("cifar10", tmp_path)
    for part in (
        f"{tmp_path}/cifar10 ",
        "train.parquet",
        f"{tmp_path}/cifar-10-batches-py",
        "downloading it failed",
        "data.root",
    ):
        assert part in str(error.value)


# CIFAR-100


def test_cifar100_parquet_as_the_hub_has_it(tmp_path: Path) -> None:
    labels, names = [row % 100 for row in range(200)], [f"class {label:02}" for label in range(100)]
    for split, count in (("train", 200), ("test", 100)):
        file = tmp_path / "cifar100" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, labels[:count], names, columns=("img", "fine_label"))
        table = pq.read_table(file)
        pq.write_table(table.append_column("coarse_label", pa.array([0] * count, pa.int64())), file)
    splits = load_from("cifar100", tmp_path)
    assert splits.train.name == "cifar100"
    assert splits.train.labels.tolist() == labels
    assert splits.test.class_names == tuple(names)
    assert torch.equal(splits.train.images[:2], torch.stack([as_tensor(noise(seed)) for seed in (0, 1)]))


@pytest.mark.parametrize("column", ["fine_label", "label"])
def test_cifar100_parquet_without_names_gets_the_standard_ones(tmp_path: Path, column: str) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar100" / f"{split}.parquet", list(range(100)), columns=("img", column))
    names = load_from("cifar100", tmp_path).test.class_names
    assert len(set(names)) == 100 and list(names) == sorted(names)
    assert [names[label] for label in (0, 19, 39, 86, 99)] == ["apple", "cattle", "keyboard", "telephone", "worm"]


def test_cifar100_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (200, 3072), dtype=np.uint8)
    labels = [row % 100 for row in range(200)]
    for name in ("train", "test"):
        content = {"data": rows, "fine_labels": labels, "coarse_labels": [0] * 200}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["?"] * 100, "coarse_label_names": ["?"] * 20}))
    cifar100 = torchvision.datasets.CIFAR100  # the true checksums are of the true files
    monkeypatch.setattr(cifar100, "train_list", [["train", None]])
    monkeypatch.setattr(cifar100, "test_list", [["test", None]])
    monkeypatch.setattr(cifar100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": None})
    splits = load_from("cifar100", tmp_path)
    assert splits.train.labels.tolist() == labels and splits.train.num_classes == 100
    assert splits.train.name == "cifar100"
    assert np.array_equal(splits.test.images.flatten(1).numpy(), rows)


def test_cifar100_nowhere_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz")  # nobody listens
    with pytest.raises(DataError) as error:
        load_from("cifar100", tmp_path)
    for part in ("CIFAR-100", f"{tmp_path}/cifar100 ", "fine_label", f"{tmp_path}/cifar-100-python", "data.root"):
        assert part in str(error.value)


# Tiny-ImageNet


def decoded(image: Image.Image) -> Tensor:
    """What is left of an image in JPEG, as RGB."""
    return as_tensor(Image.open(io.BytesIO(encoded(image, "JPEG"))).convert("RGB"))


def test_tiny_imagenet_as_it_is_handed_out(tmp_path: Path) -> None:
    images = write_tiny(tmp_path)
    splits = load_from("tiny-imagenet", tmp_path)
    assert (splits.train.name, splits.train.class_names) == ("tiny-imagenet", WNIDS)
    assert splits.train.shape == splits.test.shape == (3, 64, 64)
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    in_order = [f"{wnid}_{index}.JPEG" for wnid in WNIDS for index in range(2)]
    assert torch.equal(splits.train.images, torch.stack([decoded(images[name]) for name in in_order]))
    validation = [
        name for wnid in WNIDS for name in sorted(images) if name.endswith(f"{wnid[-1]}.JPEG") and "val" in name
    ]
    assert torch.equal(splits.test.images, torch.stack([decoded(images[name]) for name in validation]))


@pytest.mark.parametrize("val", ["{wnid}", "{wnid}/images", "images/{wnid}"])
def test_tiny_imagenet_with_validation_in_class_folders(tmp_path: Path, val: str) -> None:
    write_tiny(tmp_path / "native")
    write_tiny(tmp_path / "sorted", val)
    (tmp_path / "sorted" / "tiny-imagenet-200" / "val" / "images").mkdir(exist_ok=True)  # left over from sorting
    native, in_folders = (load_from("tiny-imagenet", tmp_path / name) for name in ("native", "sorted"))
    assert native.test.fingerprint == in_folders.test.fingerprint
    assert native.train.fingerprint == in_folders.train.fingerprint


def test_tiny_imagenet_parquet(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        file = tmp_path / "tiny-imagenet" / f"{split}-00000-of-00001-1359597a978bc4fa.parquet"
        write_parquet(
            file, [0, 1, 2], list(WNIDS), [encoded(noise(0)), encoded(noise(1).convert("L")), encoded(noise(2))]
        )
    splits = load_from("tiny-imagenet", tmp_path)
    assert (splits.train.name, splits.test.class_names, len(splits.test)) == ("tiny-imagenet", WNIDS, 3)
    assert torch.equal(splits.train.images[1], as_tensor(noise(1).convert("L")).expand(3, -1, -1))


def break_annotations(val: Path) -> None:
    (val / "val_annotations.txt").unlink()


def break_wnid(val: Path) -> None:
    file = val / "val_annotations.txt"
    file.write_text(file.read_text().replace(WNIDS[0], "n99999999"))


def break_line(val: Path) -> None:
    file = val / "val_annotations.txt"
    file.write_text(file.read_text().replace("\t", " "))


def break_image(val: Path) -> None:
    sorted((val / "images").iterdir())[0].unlink()


def break_images(val: Path) -> None:
    for file in (val / "images").iterdir():
        file.unlink()


def break_train(val: Path) -> None:
    (val.parent / "train").rename(val.parent / "training")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_annotations, r"val_annotations\.txt: there is no such file, which tells the classes"),
        (break_wnid, r"val_annotations\.txt, line 5: expected a file and one of the 3 wnids.*n99999999"),
        (break_line, r"val_annotations\.txt, line 1: expected a file and one of the 3 wnids"),
        (break_image, r"val_annotations\.txt: these have only one of image and line: val_0\d\.JPEG; unpack"),
        (break_images, r"val: there are no class folders"),
        (break_train, r"train: there are no class folders"),
    ],
)
def test_tiny_imagenet_that_is_damaged(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_tiny(tmp_path)
    damage(tmp_path / "tiny-imagenet-200" / "val")
    with pytest.raises(DataError, match=message):
        load_from("tiny-imagenet", tmp_path)


def test_tiny_imagenet_nowhere_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_from("tiny-imagenet", tmp_path)
    for part in (f"{tmp_path}/tiny-imagenet ", f"{tmp_path}/tiny-imagenet-200 ", "data.root"):
        assert part in str(error.value)


# ImageNet-1K


def write_imagenet(root: Path) -> None:
    """Three classes of photographs of many sizes, as torchvision unpacks them."""
    for label, wnid in enumerate(WNIDS):
        for number in range(4):
            image = noise(10 * label + number, 40 + number, 50 - 7 * label)
            split = "val" if number == 3 else "train"
            write_folders(root, {f"imagenet/{split}/{wnid}/{wnid}_{number}.JPEG": encoded(image, "JPEG")})


def test_imagenet_in_torchvisions_layout(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    splits = load_from("imagenet", tmp_path, image_size=24)
    assert (splits.train.name, splits.train.class_names) == ("imagenet", WNIDS)
    assert splits.train.shape == splits.test.shape == (3, 24, 24)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and splits.test.labels.tolist() == [0, 1, 2]
    first = paths(DataConfig(source="imagenet", root=str(tmp_path), image_size=24), KEY)[0]
    assert first == f"imagenet/train/{WNIDS[0]}/{WNIDS[0]}_0.JPEG"


@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenet_that_is_not_unpacked(tmp_path: Path, split: str) -> None:
    write_imagenet(tmp_path)
    (tmp_path / "imagenet" / split).rename(tmp_path / "elsewhere")
    message = rf"ImageNet-1K was looked for in {tmp_path}/imagenet, .* {split}/n01440764 .* data\.root"
    with pytest.raises(DataError, match=message):
        load_from("imagenet", tmp_path, image_size=24)


def test_imagenet_needs_a_size() -> None:
    with pytest.raises(ConfigError, match=r"data\.image_size: must be given, .* 224"):
        DataConfig(source="imagenet")


# Sizes


@pytest.mark.parametrize(
    ("source", "fields", "facts"),
    [
        ("cifar10", {}, DataFacts(50_000, 10_000, (3, 32, 32), 10, published=True)),
        ("cifar100", {}, DataFacts(50_000, 10_000, (3, 32, 32), 100, published=True)),
        ("tiny-imagenet", {}, DataFacts(100_000, 10_000, (3, 64, 64), 200, published=True)),
        ("svhn", {}, DataFacts(73_257, 26_032, (3, 32, 32), 10, published=True)),
        ("mnist", {"image_size": 32}, DataFacts(60_000, 10_000, (1, 32, 32), 10, published=True)),
        ("fashion-mnist", {}, DataFacts(60_000, 10_000, (1, 28, 28), 10, published=True)),
        ("imagenet", {"image_size": 64}, DataFacts(1_281_167, 50_000, (3, 64, 64), 1_000, published=True)),
        (
            "cifar10",
            {"train_limit_per_class": 1000, "validation_fraction": 0.1},
            DataFacts(9_000, 10_000, (3, 32, 32), 10, 1_000, published=True),
        ),
        ("digits", {}, None),
        ("imagefolder", {}, None),
        ("huggingface:user/set", {}, None),
    ],
)
def test_size_of_a_dataset_that_is_not_there(
    source: str, fields: dict[str, int | float], facts: DataFacts | None, tmp_path: Path
) -> None:
    assert size_of(DataConfig(source=source, root=str(tmp_path), **fields)) == facts


@pytest.mark.parametrize("fields", [{}, {"validation_fraction": 0.4}, {"train_limit_per_class": 2}])
def test_size_of_a_dataset_that_is_there(tmp_path: Path, fields: dict[str, int | float]) -> None:
    write_imagenet(tmp_path)
    config = DataConfig(source="imagenet", root=str(tmp_path), image_size=24, **fields)
    splits = load(config, KEY)
    held_out = len(splits.validation) if splits.validation else 0
    assert size_of(config) == DataFacts(len(splits.train), len(splits.test), (3, 24, 24), 3, held_out)


@needs_cifar10
def test_published_size_of_cifar10() -> None:
    found, published = (size_of(DataConfig(source="cifar10", root=root)) for root in (None, "/nowhere"))
    assert found == DataFacts(50_000, 10_000, (3, 32, 32), 10)
    assert published == DataFacts(50_000, 10_000, (3, 32, 32), 10, published=True)


@pytest.mark.parametrize(
    ("source", "channels", "mean", "std"),
    [
        ("cifar10", 3, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        ("cifar100", 3, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),  # the papers' code, wrongly
        ("svhn", 3, [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
        ("mnist", 1, [0.1307], [0.3081]),
        ("fashion-mnist", 1, [0.2861], [0.3530]),
        ("fashion-mnist", 3, [0.2861] * 3, [0.3530] * 3),
        ("tiny-imagenet", 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("imagenet:imagenet-10", 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("medmnist:pathmnist:64", 3, [0.5] * 3, [0.5] * 3),
        ("medmnist:octmnist", 1, [0.5], [0.5]),
        ("huggingface:user/set", 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
)
def test_literature_statistics(source: str, channels: int, mean: list[float], std: list[float]) -> None:
    found = literature_constants(source, channels)
    assert found.describe() == {"name": "standardise", "mean": mean, "std": std}


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("cifar100", "cifar100/train.parquet"),
        ("tiny-imagenet", "tiny-imagenet-200/val/images/val_0.JPEG"),
        ("imagenet", "imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG"),
    ],
)
def test_signature_sees_the_files_of_every_source(tmp_path: Path, source: str, file: str) -> None:
    config = DataConfig(source=source, root=str(tmp_path), image_size=24)
    before = signature(config)
    write_folders(tmp_path, {file: b"one"})
    after = signature(config)
    write_folders(tmp_path, {"cifar10/train.parquet": b"of another dataset"})
    assert before != after == signature(config)
