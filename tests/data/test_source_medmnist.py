"""MedMNIST: small npz files in the true layout through the package's own classes; the sizes of its sets."""

import sys
from pathlib import Path
from typing import Any

import medmnist
import numpy as np
import numpy.typing as npt
import pytest

from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, DataFacts, load, paths, signature, size_of
from tests.support.image_files import load_from, md5

KEY = Key.root(0)


def write_set(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch, size: int = 28
) -> dict[str, npt.NDArray[np.uint8]]:
    """Three images a class to train on, two to test on, one that is set aside; with the MD5 that is asked for."""
    suffix = "" if size == 28 else f"_{size}"
    info: dict[str, Any] = medmnist.INFO[name]
    colours = (3,) if info["n_channels"] == 3 else ()
    num_classes, random = len(info["label"]), np.random.default_rng(len(name))
    arrays = {}
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        shape = (count * num_classes, size, size, *colours)
        arrays[f"{split}_images"] = random.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(len(arrays[f"{split}_images"]), dtype=np.uint8)[:, None] % num_classes
    path = root / "medmnist" / f"{name}{suffix}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    monkeypatch.setitem(info, f"MD5{suffix}", md5(path))
    return arrays


FLAT = [name for name in medmnist.INFO if not name.endswith("3d") and name != "chestmnist"]


@pytest.mark.parametrize("name", FLAT)
def test_every_set_in_two_dimensions(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, info = write_set(tmp_path, name, monkeypatch), medmnist.INFO[name]
    splits = load_from(f"medmnist:{name}", tmp_path)
    assert splits.train.shape == (info["n_channels"], 28, 28)
    for images, split in ((splits.train, "train"), (splits.test, "test")):
        stored = arrays[f"{split}_images"]
        wanted = stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored[:, None]
        assert np.array_equal(images.images.numpy(), wanted)
        assert images.labels.tolist() == arrays[f"{split}_labels"][:, 0].tolist()
    assert splits.train.class_names == tuple(info["label"][str(label)] for label in range(len(info["label"])))
    assert splits.train.name == name


@pytest.mark.parametrize("size", [64, 128, 224])
def test_larger_images_are_another_file(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_set(tmp_path, "breastmnist", monkeypatch, size)
    config = DataConfig(source=f"medmnist:breastmnist:{size}", root=str(tmp_path))
    splits = load(config, KEY)
    assert np.array_equal(splits.train.images[:, 0].numpy(), arrays["train_images"])
    assert splits.train.name == f"breastmnist-{size}"
    assert paths(config, KEY)[4] == "medmnist/train#4"
    assert size_of(config) == DataFacts(6, 4, (1, size, size), 2)


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize(("suffix", "size"), [("", 28), (":64", 64), (":128", 128), (":224", 224)])
def test_published_sizes_are_those_of_the_package(tmp_path: Path, name: str, suffix: str, size: int) -> None:
    info = medmnist.INFO[name]
    shape = (info["n_channels"], size, size)
    counts = info["n_samples"]
    wanted = DataFacts(counts["train"], counts["test"], shape, len(info["label"]), published=True)
    assert size_of(DataConfig(source=f"medmnist:{name}{suffix}", root=str(tmp_path))) == wanted
    assert not (tmp_path / "medmnist").exists()


def test_a_file_that_is_damaged_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "bloodmnist", monkeypatch)
    path = tmp_path / "medmnist" / "bloodmnist.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"/medmnist/bloodmnist\.npz, and what is there is damaged: its MD5 .*Delete it"
    ):
        load_from("medmnist:bloodmnist", tmp_path)
    assert path.exists()


def test_a_file_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(medmnist.INFO["pathmnist"], "url", "http://127.0.0.1:9/pathmnist.npz")  # nobody listens there
    with pytest.raises(DataError) as error:
        load_from("medmnist:pathmnist", tmp_path)
    assert f"{tmp_path}/medmnist/pathmnist.npz, and downloading it failed: " in str(error.value)
    assert "data.root" in str(error.value) and "refused" in str(error.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(ConfigError, match=r"^data\.source: medmnist:pathmnist .* pip install 'raydd\[medmnist\]'$"):
        load_from("medmnist:pathmnist", tmp_path)


def test_signature_sees_the_file_of_its_set_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(source="medmnist:breastmnist", root=str(tmp_path))
    before = signature(config)
    write_set(tmp_path, "breastmnist", monkeypatch)
    after = signature(config)
    write_set(tmp_path, "retinamnist", monkeypatch)
    write_set(tmp_path, "breastmnist", monkeypatch, 64)
    assert before != after == signature(config)
