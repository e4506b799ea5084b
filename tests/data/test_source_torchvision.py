"""SVHN, MNIST and Fashion-MNIST, and archives: small files in the true layouts through torchvision's own readers."""

import gzip
import pickle
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from scipy.io import savemat

from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, paths, signature
from tests.support.image_files import as_tensor, encoded, load_from, md5, noise, write_idx, write_parquet

SETS = {"mnist": torchvision.datasets.MNIST, "fashion-mnist": torchvision.datasets.FashionMNIST}
LAYOUTS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
SPLITS = {"train": "train", "test": "t10k"}


def grey(count: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def labels_of(count: int) -> npt.NDArray[np.uint8]:
    """Every digit, and not in order."""
    return (np.arange(count, dtype=np.uint8) * 7 + 3) % 10


def write_mnist(folder: Path) -> None:
    for seed, (count, prefix) in enumerate(((30, "train"), (20, "t10k"))):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", grey(count, seed))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels_of(count))


@pytest.mark.parametrize("source", SETS)
def test_mnist_and_fashion_mnist_as_torchvision_unpacks_them(tmp_path: Path, source: str) -> None:
    write_mnist(tmp_path / LAYOUTS[source])
    splits = load_from(source, tmp_path)
    assert (splits.train.name, splits.train.shape) == (source, (1, 28, 28))
    assert np.array_equal(splits.train.images[:, 0].numpy(), grey(30, 0))
    assert np.array_equal(splits.test.images[:, 0].numpy(), grey(20, 1))
    assert splits.train.labels.tolist() == labels_of(30).tolist()
    assert splits.test.labels.tolist() == labels_of(20).tolist()
    listed = paths(DataConfig(source=source, root=str(tmp_path), train_limit_per_class=1), Key.root(0))
    assert listed[9] == f"{LAYOUTS[source]}/train#9"


def test_names_of_the_classes(tmp_path: Path) -> None:
    for layout in LAYOUTS.values():
        write_mnist(tmp_path / layout)
    assert load_from("mnist", tmp_path).train.class_names == tuple("0123456789")
    fashion = load_from("fashion-mnist", tmp_path).train.class_names
    assert list(fashion) == torchvision.datasets.FashionMNIST.classes


@pytest.mark.parametrize("source", SETS)
def test_mnists_archives_are_unpacked_when_their_checksums_match(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, resources = tmp_path / LAYOUTS[source], []
    write_mnist(folder)
    for path in sorted(folder.iterdir()):
        archive = path.with_name(f"{path.name}.gz")
        archive.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        resources.append((archive.name, md5(archive)))
    monkeypatch.setattr(SETS[source], "resources", resources)
    monkeypatch.setattr(SETS[source], "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    assert np.array_equal(load_from(source, tmp_path).train.images[:, 0].numpy(), grey(30, 0))
    for path in folder.glob("*-ubyte"):
        path.unlink()
    (folder / resources[0][0]).write_bytes(b"not the archive")
    with pytest.raises(DataError, match="downloading it failed"):
        load_from(source, tmp_path)


def test_mnist_that_is_damaged(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"^MNIST was looked for in .*/mnist .*/MNIST/raw .*what is there is damaged"):
        load_from("mnist", tmp_path)


def test_mnist_nowhere_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError) as error:
        load_from("fashion-mnist", tmp_path)
    for part in ("Fashion-MNIST", f"{tmp_path}/fashion-mnist ", f"{tmp_path}/FashionMNIST/raw", "data.root"):
        assert part in str(error.value)


def test_mnist_in_parquet_files(tmp_path: Path) -> None:
    images = [noise(seed).convert("L") for seed in range(10)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "mnist" / f"{split}.parquet", list(range(10)), images=list(map(encoded, images)))
    splits = load_from("mnist", tmp_path)
    assert splits.train.shape == (1, 6, 6) and splits.train.class_names == tuple("0123456789")
    assert torch.equal(splits.test.images[7], as_tensor(images[7]))


# SVHN


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, npt.NDArray[np.uint8]]:
    """Files of 20 images each, as Matlab stores them: [H, W, C, N], and the digit 0 is called 10."""
    (root / "svhn").mkdir()
    images, known = {}, {}
    for seed, split in enumerate(("train", "test")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
        path = root / "svhn" / f"{split}_32x32.mat"
        savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": (np.arange(20, dtype=np.uint8) % 10 + 1)[:, None]})
        images[split] = pixels
        known[split] = ["http://127.0.0.1:9/", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)
    return images


def test_svhn_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_svhn(tmp_path, monkeypatch)
    splits = load_from("svhn", tmp_path)
    assert np.array_equal(splits.train.images.numpy(), images["train"])
    assert np.array_equal(splits.test.images.numpy(), images["test"])
    assert splits.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert (splits.train.name, splits.train.class_names) == ("svhn", tuple("0123456789"))


def test_svhn_whose_checksum_does_not_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch)
    path = tmp_path / "svhn" / "test_32x32.mat"
    path.write_bytes(path.read_bytes() + b"?")
    with pytest.raises(DataError, match=r"^SVHN was looked for in .*, and what is there is damaged: .*corrupted"):
        load_from("svhn", tmp_path)


# an archive of CIFAR-10


def test_cifar10_is_unpacked_from_an_archive_that_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = tmp_path / "made", tmp_path / "cifar-10-python.tar.gz"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    for name in (*batches, "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["?"] * 10}))
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "cifar-10-batches-py")
    whole, cifar10 = archive.read_bytes(), torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar10, "url", "http://127.0.0.1:9/cifar.tar.gz")  # nobody listens there
    monkeypatch.setattr(cifar10, "tgz_md5", md5(archive))
    monkeypatch.setattr(cifar10, "train_list", [[name, md5(folder / name)] for name in batches])
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(cifar10, "meta", meta)
    archive.write_bytes(whole + b"?")
    with pytest.raises(DataError, match="downloading it failed"):
        load_from("cifar10", tmp_path)
    archive.write_bytes(whole)
    splits = load_from("cifar10", tmp_path)
    assert splits.train.labels.tolist() == list(range(10)) * 5
    assert np.array_equal(splits.test.images.flatten(1).numpy(), rows)
    damaged = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes() + b"?")
    with pytest.raises(DataError, match="what is there is damaged"):
        load_from("cifar10", tmp_path)


def test_signature_sees_torchvisions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signature(DataConfig(source=source, root=str(tmp_path))) for source in ("svhn", "mnist")]
    write_svhn(tmp_path, monkeypatch)
    write_mnist(tmp_path / "MNIST" / "raw")
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    after = [signature(DataConfig(source=source, root=str(tmp_path))) for source in ("svhn", "mnist")]
    assert before[0] != after[0] != before[1] != after[1]
