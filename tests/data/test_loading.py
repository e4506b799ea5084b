"""Sources, from files in their true layouts to tensors, and what a user reads when a dataset is not what it says."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow.fs import FileSystem, copy_files
from sklearn.datasets import load_digits
from torchvision.transforms import v2

from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, load, paths, signature
from tests.support.image_files import as_stored, as_tensor, encoded, load_from, noise, write_folders, write_parquet

KEY = Key.root(0)


def four_images() -> dict[str, Image.Image | bytes]:
    """The smallest good folder of images: two classes, one image of each in each split."""
    names = ("train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/dog/a.png")
    return {name: noise(seed) for seed, name in enumerate(names)}


# digits


def test_digits_are_the_default_and_split_by_index() -> None:
    splits = load(DataConfig(), KEY)
    data = load_digits()
    position, is_test = [0] * 10, []
    for label in data.target:
        position[label] += 1
        is_test.append(position[label] % 6 == 0)
    is_test = np.array(is_test)
    assert (len(splits.train), len(splits.test)) == (1501, 296)
    for images, rows in ((splits.train, ~is_test), (splits.test, is_test)):
        assert images.shape == (1, 8, 8)
        assert images.images.dtype == torch.uint8
        assert images.labels.tolist() == data.target[rows].tolist()
        assert np.array_equal(images.images[:, 0].numpy(), np.floor(data.images[rows] * 255 / 16 + 0.5))
    assert splits.train.images.max() == 255
    assert splits.validation is None
    assert splits.train.class_names == tuple("0123456789")


def test_image_size_holds_for_every_source() -> None:
    assert load(DataConfig(image_size=12), KEY).test.shape == (1, 12, 12)


# where data lie


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path, four_images())
    monkeypatch.setenv("RAYDD_DATA", str(tmp_path))
    assert len(load(DataConfig(source="imagefolder"), KEY).train) == 2
    monkeypatch.delenv("RAYDD_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/raydd/data/train")):
        load(DataConfig(source="imagefolder"), KEY)


# image folders


def test_imagefolder_keeps_names_order_and_pixels(tmp_path: Path) -> None:
    files = {**four_images(), "train/cat/b.JPG": encoded(noise(9), "JPEG")}
    write_folders(tmp_path / "pets", files)
    write_folders(
        tmp_path / "pets", {"train/cat/notes.txt": b"no image", "train/.cache/x.png": noise(8), "train/README": b"?"}
    )
    splits = load_from("imagefolder", tmp_path / "pets", image_size=6)
    assert (splits.train.name, splits.train.class_names) == ("pets", ("cat", "dog"))
    assert splits.train.labels.tolist() == [0, 0, 1]
    assert splits.train.shape == (3, 6, 6)
    assert torch.equal(splits.train.images[0], as_tensor(noise(0)))
    assert torch.equal(splits.train.images[1], as_tensor(Image.open(io.BytesIO(files["train/cat/b.JPG"]))))
    assert torch.equal(splits.test.images, torch.stack([as_tensor(noise(2)), as_tensor(noise(3))]))


def test_imagefolder_takes_val_for_test(tmp_path: Path) -> None:
    write_folders(tmp_path, {name.replace("test", "val"): image for name, image in four_images().items()})
    assert len(load_from("imagefolder", tmp_path).test) == 2


def test_grey_images_keep_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    grey = {name: image.convert("L") for name, image in four_images().items() if isinstance(image, Image.Image)}
    write_folders(
        tmp_path, {**grey, "train/cat/b.png": noise(5).convert("LA"), "train/cat/c.png": noise(6).convert("1")}
    )
    splits = load_from("imagefolder", tmp_path, image_size=6)
    assert splits.train.shape == splits.test.shape == (1, 6, 6)
    assert torch.equal(splits.train.images[0], as_tensor(grey["train/cat/a.png"]))
    assert torch.equal(splits.train.images[2], as_tensor(noise(6).convert("1").convert("L")))
    write_folders(tmp_path, {"test/cat/a.png": noise(7)})
    splits = load_from("imagefolder", tmp_path, image_size=6)
    assert splits.train.shape == splits.test.shape == (3, 6, 6)
    assert torch.equal(splits.train.images[0], as_tensor(grey["train/cat/a.png"]).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("mode", "image_format", "options"),
    [("P", "PNG", {"transparency": bytes([7, 9])}), ("PA", "TIFF", {}), ("RGBA", "PNG", {}), ("CMYK", "TIFF", {})],
)
def test_other_modes_become_rgb(tmp_path: Path, mode: str, image_format: str, options: dict[str, Any]) -> None:
    two_colours = Image.new("RGB", (6, 6), (200, 30, 90))
    two_colours.paste((10, 220, 50), (0, 0, 3, 6))
    stored = two_colours.quantize(2).convert(mode) if mode in ("P", "PA") else two_colours.convert(mode)
    splits = as_stored(tmp_path, {**four_images(), "train/cat/a.png": encoded(stored, image_format, **options)})
    assert torch.equal(splits.train.images[0], as_tensor(two_colours))


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    pixels = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800
    splits = as_stored(tmp_path, {name: Image.fromarray(pixels) for name in four_images()})
    assert torch.equal(splits.train.images[0, 0], torch.from_numpy((pixels // 256).astype(np.uint8)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright, exif = noise(5, 4, 7), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    files = {name: noise(seed, 4, 7) for seed, name in enumerate(four_images())}
    splits = as_stored(tmp_path, {**files, "train/cat/a.png": encoded(lying, exif=exif)})
    assert torch.equal(splits.train.images[0], as_tensor(upright))


def test_image_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    smooth = noise(5, 5, 4).resize((64, 96), Image.Resampling.BICUBIC)
    write_folders(tmp_path, {**four_images(), "train/cat/a.png": smooth})
    image = load_from("imagefolder", tmp_path, image_size=16).train.images[0]
    expected = v2.functional.center_crop(v2.functional.resize(as_tensor(smooth), [16], antialias=True), [16, 16])
    assert (image.int() - expected.int()).abs().max() <= 1


def test_mixed_sizes_ask_for_image_size(tmp_path: Path) -> None:
    files = {**four_images(), "test/dog/a.png": noise(3, 5, 8)}
    with pytest.raises(DataError, match=r"row 1 is 8x5, images before it are 6x6: set data\.image_size"):
        as_stored(tmp_path, files)
    assert load_from("parquet", tmp_path, image_size=4).train.shape == (3, 4, 4)


def test_unreadable_images_are_all_named(tmp_path: Path) -> None:
    bad = {f"train/cat/bad{number:02}.png": b"rubbish" for number in range(12)}
    write_folders(tmp_path, {**four_images(), "test/dog/cut.png": encoded(noise(1, 40, 40))[:-900]})
    with pytest.raises(DataError, match=r"cannot decode 1 image.*test/dog/cut\.png \(.*truncated"):
        load_from("imagefolder", tmp_path)
    write_folders(tmp_path, bad)
    with pytest.raises(
        DataError, match=r"cannot decode 13 image.*bad00\.png \(not an image\).*bad09\.png.* and 3 more"
    ) as error:
        load_from("imagefolder", tmp_path)
    assert "bad10" not in str(error.value)


def test_thirty_two_bit_pixels_are_refused(tmp_path: Path) -> None:
    depth = encoded(Image.fromarray(np.ones((6, 6), np.float32)), "TIFF")
    write_folders(tmp_path, {**four_images(), "train/cat/depth.tif": depth})
    with pytest.raises(DataError, match=r"depth\.tif \(32-bit pixels"):
        load_from("imagefolder", tmp_path)


def test_a_folder_without_classes_or_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders; data.root must hold"):
        load_from("imagefolder", tmp_path)
    write_folders(tmp_path, four_images())
    (tmp_path / "train" / "eel").mkdir()
    (tmp_path / "test" / "eel").mkdir()
    with pytest.raises(DataError, match="train: no image of class eel"):
        load_from("imagefolder", tmp_path)


def test_test_classes_must_be_the_training_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, {**four_images(), "test/fox/a.png": noise(4), "train/eel/a.png": noise(5)})
    with pytest.raises(DataError, match=r"only in train: eel; only in test: fox"):
        load_from("imagefolder", tmp_path)


# Parquet


def test_parquet_reads_files_in_order(tmp_path: Path) -> None:
    images = [encoded(noise(seed)) for seed in range(8)]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [1, 0, 1, 0, 1], ["cat", "dog"], images[:5])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [0, 1, 1], ["cat", "dog"], images[5:])
    write_parquet(tmp_path / "test.parquet", [1, 0], ["cat", "dog"])
    splits = load_from("parquet", tmp_path)
    assert (splits.train.name, splits.train.class_names) == (tmp_path.name, ("cat", "dog"))
    assert splits.train.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 1]
    assert torch.equal(splits.train.images, torch.stack([as_tensor(noise(seed)) for seed in range(8)]))
    limited = load_from("parquet", tmp_path, train_limit_per_class=2).train
    assert limited.labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(limited.images, splits.train.images[:4])


def test_parquet_decodes_only_the_kept_rows(tmp_path: Path) -> None:
    images = [encoded(noise(0)), encoded(noise(1)), b"rubbish", b"rubbish"]
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1], images=images)
    write_parquet(tmp_path / "validation.parquet", [0, 1])
    assert len(load_from("parquet", tmp_path, train_limit_per_class=1).train) == 2
    with pytest.raises(DataError, match=r"train\.parquet, row 2 \(not an image\), .*train\.parquet, row 3"):
        load_from("parquet", tmp_path)


def test_parquet_with_an_img_column(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [0, 1], columns=("img", "label"))
    assert load_from("parquet", tmp_path).train.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2, 0], None, "labels run from 0 to 2, but must be 0 to 1 for its 2 classes"),
        ([0, 1, -1], None, "labels run from -1 to 1"),
        ([0, 1, 2], ["cat", "dog"], "labels run from 0 to 2, but must be 0 to 1"),
        ([0, 2, 0], ["cat", "dog", "eel"], "no image of class dog"),
        ([0, None, 1], None, r"train\.parquet: 1 rows have no label \(null\)"),
        ([], None, "there are no images"),
    ],
)
def test_parquet_labels_must_be_complete(
    tmp_path: Path, labels: list[int | None], names: list[str] | None, message: str
) -> None:
    write_parquet(tmp_path / "train.parquet", labels, names)
    write_parquet(tmp_path / "test.parquet", [0, 1], names)
    with pytest.raises(DataError, match=message):
        load_from("parquet", tmp_path)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2], None, r"test\.parquet in .*: labels run from 0 to 2, but must be 0 to 1"),
        ([1, 1], None, r"test\.parquet in .*: no image of class 0"),
        (
            [0, 1],
            ["cat", "dog"],
            r"test\.parquet: has images of cat, dog, and the dataset's first file knows no such class",
        ),
    ],
)
def test_parquet_test_classes_must_be_the_training_classes(
    tmp_path: Path, labels: list[int], names: list[str] | None, message: str
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "test.parquet", labels, names)
    with pytest.raises(DataError, match=message):
        load_from("parquet", tmp_path)


def test_parquet_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\*\.parquet in .*: there is no such file"):
        load_from("parquet", tmp_path)
    train = tmp_path / "train.parquet"
    train.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as a Parquet file"):
        load_from("parquet", tmp_path)
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), train)
    with pytest.raises(DataError, match=r"needs columns image and label, has picture, label"):
        load_from("parquet", tmp_path)


def test_parquet_images_may_not_be_null(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 1], images=[encoded(noise(0)), encoded(noise(1)), None])
    write_parquet(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(DataError, match=r"train\.parquet, row 2 \(no image, null\)"):
        load_from("parquet", tmp_path)


# object stores


def test_sources_read_object_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "throwaway")
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    local = tmp_path / "pets"
    write_folders(local, four_images())
    for split, seeds in (("train", (0, 1)), ("test", (2, 3))):
        write_parquet(local / f"{split}.parquet", [0, 1], ["cat", "dog"], [encoded(noise(seed)) for seed in seeds])
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        store, bucket = FileSystem.from_uri(f"s3://data?{query}&allow_bucket_creation=true")
        store.create_dir(bucket)
        copy_files(str(local), f"{bucket}/pets", destination_filesystem=store)
        for source in ("imagefolder", "parquet"):
            config = DataConfig(source=source, root=f"s3://{bucket}/pets?{query}")
            remote = load(config, KEY)
            assert remote.train.name == "pets"
            assert remote.train.fingerprint == load_from(source, local).train.fingerprint
            assert paths(config, KEY) == paths(replace(config, root=str(local)), KEY)
    finally:
        server.stop()


# validation split


def test_validation_is_stratified_keyed_and_taken_from_train() -> None:
    whole = load(DataConfig(), KEY).train
    splits = load(DataConfig(validation_fraction=0.2), KEY)
    assert splits.validation is not None
    assert splits.validation.counts() == [int(0.2 * count + 0.5) for count in whole.counts()]
    parts = [images.tobytes() for part in (splits.train, splits.validation) for images in part.images.numpy()]
    assert sorted(parts) == sorted(images.tobytes() for images in whole.images.numpy())
    again, other = (load(DataConfig(validation_fraction=0.2), key) for key in (KEY, Key.root(1)))
    assert again.validation is not None and other.validation is not None
    assert again.validation.fingerprint == splits.validation.fingerprint
    assert other.validation.fingerprint != splits.validation.fingerprint
    assert splits.test.fingerprint == load(DataConfig(), KEY).test.fingerprint


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 1), (0.99, 2)])
def test_validation_leaves_an_image_on_each_side(fraction: float, size: int) -> None:
    splits = load(DataConfig(train_limit_per_class=3, validation_fraction=fraction), KEY)
    assert splits.validation is not None
    assert splits.validation.counts() == [size] * 10
    assert splits.train.counts() == [3 - size] * 10


def test_validation_needs_two_images_of_a_class() -> None:
    with pytest.raises(DataError, match=r"class 0 has a single training image.*data\.validation_fraction"):
        load(DataConfig(train_limit_per_class=1, validation_fraction=0.5), KEY)


# config, image sets


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", "emnist"), ("validation_fraction", 1.0), ("image_size", 0), ("train_limit_per_class", 0)],
)
def test_config_names_the_wrong_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^data.{field}: .*{value}"):
        DataConfig(**{field: value})


def test_fingerprint_covers_pixels_labels_and_names() -> None:
    images = load(DataConfig(), KEY).test
    copy = images.subset(torch.arange(len(images)))
    assert copy.fingerprint == replace(images, name="another").fingerprint == images.fingerprint
    turned = images.images.clone()
    turned[0, 0, 0, 0] ^= 1
    others = (
        replace(images, images=turned),
        replace(images, images=images.images.view(-1, 1, 4, 16)),
        replace(images, labels=images.labels.flip(0)),
        replace(images, class_names=tuple("abcdefghij")),
    )
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_signature_changes_with_the_files(tmp_path: Path) -> None:
    config = DataConfig(source="imagefolder", root=str(tmp_path))
    file = tmp_path / "train" / "cat" / "0.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    before = signature(config)
    (tmp_path / "notes.txt").write_text("not part of the dataset")
    assert signature(config) == before
    file.write_bytes(b"other")
    assert signature(config) != before
