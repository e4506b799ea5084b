"""Training images before decoding: which file each is in, and that decoding some of them gives what loading gives."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from raydd.core.errors import DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, ImageSet, Undecoded, has_files, load, paths, undecoded
from tests.support.image_files import as_tensor, encoded, noise, write_folders, write_parquet, write_tiny

KEY = Key.root(5)


def both(source: str, root: Path, **fields: object) -> tuple[ImageSet, Undecoded]:
    """The training images of a source, decoded and not."""
    config = DataConfig(source=source, root=str(root), **fields)  # type: ignore[arg-type]
    return load(config, KEY).train, undecoded(config, KEY)


def require_same(images: ImageSet, listed: Undecoded) -> None:
    """Fail unless labels agree, and pixels of any of them."""
    assert len(listed) == len(images)
    assert torch.equal(listed.labels, images.labels)
    for step in (1, 3):
        index = torch.arange(0, len(images), step)
        assert torch.equal(listed.decode(index, images.shape[0]), images.images[index])


def folders(root: Path) -> None:
    """Two classes of 9 images of different sizes, every third of them grey."""
    for number in range(18):
        image = noise(number, 6 + number % 4, 7 + number % 5)
        name = f"train/{'cat' if number % 2 else 'dog'}/{number:02}.png"
        write_folders(root, {name: image.convert("L") if number % 3 == 0 else image})
    write_folders(root, {"test/cat/a.png": noise(100), "test/dog/a.png": noise(101)})


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_image_files(tmp_path: Path, fraction: float, limit: int | None) -> None:
    folders(tmp_path)
    images, listed = both(
        "imagefolder", tmp_path, image_size=6, validation_fraction=fraction, train_limit_per_class=limit
    )
    require_same(images, listed)
    found = listed.paths()
    kept = {(0.0, None): 18, (0.0, 5): 10, (0.3, None): 12, (0.3, 5): 6}
    assert len(set(found)) == len(images) == kept[fraction, limit]
    for row, path in enumerate(found):
        assert path.startswith(("train/cat/", "train/dog/")[int(images.labels[row])])
        stored = Image.open(tmp_path / path)
        if stored.size == (6, 6):
            assert torch.equal(as_tensor(stored.convert("RGB")), images.images[row])


def test_rows_of_parquet_files(tmp_path: Path) -> None:
    stored = [encoded(noise(seed)) for seed in range(8)]
    write_parquet(tmp_path / "train-00000-of-00003.parquet", [1, 0, 1, 0, 1], ["cat", "dog"], stored[:5])
    write_parquet(tmp_path / "train-00001-of-00003.parquet", [], ["cat", "dog"], [])
    write_parquet(tmp_path / "train-00002-of-00003.parquet", [0, 1, 1], ["cat", "dog"], stored[5:])
    write_parquet(tmp_path / "test.parquet", [1, 0], ["cat", "dog"])
    images, listed = both("parquet", tmp_path)
    require_same(images, listed)
    found = listed.paths()
    assert found[4:6] == ["train-00000-of-00003.parquet#4", "train-00002-of-00003.parquet#0"]
    for row, path in enumerate(found):
        file, _, number = path.partition("#")
        cell = pq.read_table(tmp_path / file)["image"][int(number)].as_py()["bytes"]
        assert torch.equal(as_tensor(Image.open(io.BytesIO(cell))), images.images[row])


def test_named_datasets_are_below_the_root(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar10" / f"{split}.parquet", list(range(10)))
    images, listed = both("cifar10", tmp_path)
    require_same(images, listed)
    assert listed.paths()[9] == "cifar10/train.parquet#9"
    stored = write_tiny(tmp_path)
    images, listed = both("tiny-imagenet", tmp_path)
    require_same(images, listed)
    assert listed.paths()[0] == "tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG"
    assert {Path(path).name for path in listed.paths()} < stored.keys()


def test_digits_are_in_no_files(tmp_path: Path) -> None:
    images, listed = both("digits", tmp_path)
    require_same(images, listed)
    pixels = load_digits().images
    for row, path in list(enumerate(listed.paths()))[::100]:
        name, _, number = path.partition("#")
        assert name == "digits"
        assert np.array_equal(images.images[row, 0], np.floor(pixels[int(number)] * 255 / 16 + 0.5))
    assert paths(DataConfig(), KEY) == listed.paths()
    assert [source for source in ("digits", "cifar10", "imagefolder", "parquet") if not has_files(source)] == ["digits"]


def test_unreadable_images_are_named_when_they_are_decoded(tmp_path: Path) -> None:
    folders(tmp_path)
    write_folders(tmp_path, {"train/cat/01.png": b"rubbish"})
    listed = undecoded(DataConfig(source="imagefolder", root=str(tmp_path), image_size=6), KEY)
    assert listed.decode(torch.tensor([1, 2]), 3).shape == (2, 3, 6, 6)
    with pytest.raises(DataError, match=r"cannot decode 1 image.*train/cat/01\.png \(not an image\)"):
        listed.decode(torch.tensor([0, 1]), 3)


def test_the_first_image_that_can_be_decoded_tells_the_size(tmp_path: Path) -> None:
    files = [b"rubbish", encoded(noise(1, 5, 7)), encoded(noise(2))]
    write_parquet(tmp_path / "train.parquet", [0, 1, 0], images=files)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    config = DataConfig(source="parquet", root=str(tmp_path))
    assert undecoded(config, KEY).first_size() == (5, 7)
    assert undecoded(replace(config, image_size=4), KEY).first_size() == (4, 4)
    write_parquet(tmp_path / "train.parquet", [0, 1], images=files[:1] * 2)
    with pytest.raises(DataError, match="train.*: no image can be decoded"):
        undecoded(config, KEY).first_size()
