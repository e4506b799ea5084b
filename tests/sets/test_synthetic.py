"""SyntheticSet: what is written is what is read, bit by bit, and in the format that others are promised."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.preprocessing import ZCA, Identity, Preprocessing, Standardise
from raydd.sets import synthetic
from raydd.sets.preview import preview
from raydd.sets.synthetic import SyntheticSet, union
from raydd.storage import Folder, new_artefact
from tests.support.tiny import randn

CLASSES = ("ant", "bee", "cat")


def preprocessing(name: str, channels: int = 3) -> Preprocessing:
    if name == "none":
        return Identity()
    if name == "standardise":
        mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.2, 0.15])
        return Standardise(mean[:channels].double(), std[:channels].double())
    return fit_zca((64 * randn(9, 50, channels, 8, 8) + 128).clamp(0, 255).to(torch.uint8))


def example(soft: bool = True, name: str = "standardise", channels: int = 3, stage: int = 0) -> SyntheticSet:
    """Six images, some of whose pixels lie outside of what can be shown."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    return SyntheticSet(
        images=randn(1 + stage, 6, channels, 8, 8, dtype=torch.float32),
        labels=labels,
        soft_labels=randn(2 + stage, 6, 3, dtype=torch.float32) if soft else None,
        stage=torch.full((6,), stage, dtype=torch.int32),
        learned_lr=(0.0123456789,) if soft else (None,),
        class_names=CLASSES,
        preprocessing=preprocessing(name, channels),
        card={"method": "datm", "seed": 3, "recipe": {"epochs": 300, "lr": None}},
    )


def assert_bits(found: Tensor | None, wanted: Tensor | None) -> None:
    if found is None or wanted is None:
        assert found is wanted
        return
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert found.contiguous().numpy().tobytes() == wanted.contiguous().numpy().tobytes()


def assert_same(found: SyntheticSet, wanted: SyntheticSet) -> None:
    for field in ("images", "labels", "soft_labels", "stage"):
        assert_bits(getattr(found, field), getattr(wanted, field))
    assert found.learned_lr == wanted.learned_lr and found.class_names == wanted.class_names
    assert type(found.preprocessing) is type(wanted.preprocessing)
    assert found.preprocessing.digest == wanted.preprocessing.digest
    assert found.card.items() >= wanted.card.items()


def test_a_set_in_a_line() -> None:
    assert repr(example()) == "SyntheticSet(6 images, 3x8x8, 3 classes, soft labels)"
    assert repr(example(soft=False, channels=1)) == "SyntheticSet(6 images, 1x8x8, 3 classes, hard labels)"


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", ["none", "standardise", "zca"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_bit_by_bit(tmp_path: Path, soft: bool, name: str, channels: int) -> None:
    written = example(soft, name, channels)
    written.save(Folder.at(tmp_path), "key")
    read = SyntheticSet.load(Folder.at(tmp_path))
    assert_same(read, written)
    assert_bits(read.pixels(), written.pixels())
    assert_bits(read.targets, written.soft_labels if soft else written.labels)


@pytest.mark.parametrize("name", ["none", "standardise"])
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_pixels_are_stored_once(tmp_path: Path, name: str, channels: int) -> None:
    written = example(False, name, channels)
    written = replace(written, images=written.preprocessing.forward(written.pixels()))
    written.save(Folder.at(tmp_path), "key")
    table = pq.read_table(tmp_path / "images-00000.parquet")
    assert table["tensor"].null_count == len(written) and table["image"].null_count == 0
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), written)


def test_a_preview_shows_some_of_many_classes() -> None:
    pixels, labels = torch.zeros(300, 3, 4, 4, dtype=torch.uint8), torch.arange(150).repeat(2)
    picture = Image.open(io.BytesIO(preview(pixels, labels, columns=1, rows=7)))
    assert picture.size == (16 * (4 + 2), 16 * (7 * 5 + 1))


def test_values_that_arithmetic_would_change(tmp_path: Path) -> None:
    odd = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3.4e38, 1 / 3])
    written = replace(example(), soft_labels=odd.repeat(3).view(6, 3))
    written.images[:, 0, 0, 0] = odd
    written.save(Folder.at(tmp_path), "key")
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), written)


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    written = example()
    written = replace(written, images=written.images.to(memory_format=torch.channels_last))
    assert not written.images.is_contiguous()
    written.save(Folder.at(tmp_path), "key")
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), written)


def test_same_set_same_bytes(tmp_path: Path) -> None:
    for number in range(2):
        example(name="zca").save(Folder.at(tmp_path / str(number)), "key")
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert names == ["card.json", "images-00000.parquet", "manifest.json", "preview.png", "whitening.safetensors"]
    for name in names:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_a_loaded_set_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    example(name="zca").save(Folder.at(tmp_path / "0"), "key")
    SyntheticSet.load(Folder.at(tmp_path / "0")).save(Folder.at(tmp_path / "1"), "key")
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes(), path.name


def table(folder: Path) -> pa.Table:
    return pq.read_table(folder / "images-00000.parquet")


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
def test_parquet_schema(tmp_path: Path, soft: bool) -> None:
    example(soft).save(Folder.at(tmp_path), "key")
    rows = table(tmp_path)
    types = {field.name: field.type for field in rows.schema}
    assert list(types) == ["tensor", "image", "label", "soft_label", "stage", "index"]
    assert types["tensor"] == pa.fixed_shape_tensor(pa.float32(), (3, 8, 8))
    assert types["image"] == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert types["label"] == pa.int64()
    assert pa.types.is_fixed_size_list(types["soft_label"])
    assert types["soft_label"].value_type == pa.float32() and types["soft_label"].list_size == 3
    assert types["stage"] == pa.int32() and types["index"] == pa.int64()
    assert rows["soft_label"].null_count == (0 if soft else 6)
    assert rows["index"].to_pylist() == list(range(6))
    np.testing.assert_array_equal(rows["tensor"].combine_chunks().to_numpy_ndarray(), example(soft).images.numpy())


@pytest.mark.parametrize("name", ["none", "standardise", "zca"])
@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_stored_pngs_are_the_pixels(tmp_path: Path, name: str, channels: int, mode: str) -> None:
    written = example(name=name, channels=channels)
    written.save(Folder.at(tmp_path), "key")
    for row, pixels in zip(table(tmp_path)["image"].to_pylist(), written.pixels(), strict=True):
        image = Image.open(io.BytesIO(row["bytes"]))
        assert image.format == "PNG" and image.mode == mode
        shown = np.asarray(image).reshape(8, 8, channels)
        np.testing.assert_array_equal(shown, pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["none", "standardise", "zca"])
def test_pixels(name: str) -> None:
    """By the definition of each map, pixel by pixel, in float64."""
    written, images = example(name=name), example().images.double()
    match written.preprocessing:
        case Standardise(mean_C=mean, std_C=std):
            images = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
        case ZCA(mean_D=mean, colour_DD=colour):
            images = (images.flatten(1) @ colour.double() + mean.double()).view_as(images)
    wanted = (255 * images).clamp(0, 255)
    found = written.pixels()
    assert found.dtype == torch.uint8 and found.shape == (6, 3, 8, 8)
    assert (found.double() - wanted).abs().max() <= 0.5 + 1e-3
    assert found.min() == 0 and found.max() == 255


def test_large_sets_are_split_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_per_image = 3 * 8 * 8 * 4
    monkeypatch.setattr(synthetic, "MAX_FILE_BYTES", 5 * bytes_per_image)
    written = replace(example(), images=randn(4, 6, 3, 8, 8, dtype=torch.float32))
    written.save(Folder.at(tmp_path), "key")
    names = sorted(path.name for path in tmp_path.glob("images-*"))
    assert names == [f"images-{number:05d}.parquet" for number in range(len(names))] and len(names) > 1
    tables = [pq.read_table(tmp_path / name) for name in names]
    assert [row for part in tables for row in part["index"].to_pylist()] == list(range(6))
    assert all(part["tensor"].nbytes < synthetic.MAX_FILE_BYTES for part in tables)
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), written)


def test_no_file_exceeds_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise, which nothing compresses, in images, pixels and labels."""
    monkeypatch.setattr(synthetic, "MAX_FILE_BYTES", 200_000)
    count = 40
    written = SyntheticSet(
        images=randn(1, count, 3, 32, 32, dtype=torch.float32),
        labels=torch.arange(count) % 10,
        soft_labels=randn(2, count, 10, dtype=torch.float32),
        stage=torch.zeros(count, dtype=torch.int32),
        learned_lr=(0.01,),
        class_names=tuple("abcdefghij"),
        preprocessing=preprocessing("standardise"),
    )
    written.save(Folder.at(tmp_path), "key")
    sizes = [path.stat().st_size for path in tmp_path.glob("images-*")]
    assert 3 <= len(sizes) <= 5 and max(sizes) <= 200_000
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), written)


def test_one_image_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_FILE_BYTES", 1)
    example().save(Folder.at(tmp_path), "key")
    assert len(list(tmp_path.glob("images-*"))) == 6
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), example())


@pytest.mark.parametrize("name", ["images-00000.parquet", "card.json", "whitening.safetensors", "preview.png"])
@pytest.mark.parametrize("damage", ["missing", "short", "altered"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    example(name="zca").save(Folder.at(tmp_path), "key")
    path, data = tmp_path / name, bytearray((tmp_path / name).read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(ArtefactError, match=name):
        SyntheticSet.load(Folder.at(tmp_path))


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    example().save(Folder.at(tmp_path), "key")
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"key"', b'"kex"', 1))
    with pytest.raises(ArtefactError, match=r"manifest\.json: damaged"):
        SyntheticSet.load(Folder.at(tmp_path))


def test_a_folder_without_a_set(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no synthetic set here"):
        SyntheticSet.load(Folder.at(tmp_path / "nothing"))
    with new_artefact(Folder.at(tmp_path), "teacher", "key"):
        pass
    with pytest.raises(ArtefactError, match="kind teacher, not synthetic"):
        SyntheticSet.load(Folder.at(tmp_path))


def test_card_and_manifest(tmp_path: Path) -> None:
    example().save(Folder.at(tmp_path), "key")
    card = json.loads((tmp_path / "card.json").read_bytes())
    assert (
        card.items()
        >= {
            "method": "datm",
            "class_names": list(CLASSES),
            "images_per_class": 2,
            "num_images": 6,
            "label_regime": "stored",
            "learned_lr": [0.0123456789],
            "preprocessing": example().preprocessing.describe(),
            "recipe": {"epochs": 300, "lr": None},
            "seed": 3,
        }.items()
    )
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest["kind"] == "synthetic" and manifest["key"] == "key"
    for entry in manifest["files"].values():
        data = (tmp_path / entry["file"]).read_bytes()
        assert entry["size"] == len(data) and entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_union_of_stages(tmp_path: Path) -> None:
    first, second = example(stage=0), replace(example(stage=1), learned_lr=(0.02,))
    both = union([first, second])
    assert_bits(both.images, torch.cat([first.images, second.images]))
    assert_bits(both.targets, torch.cat([first.targets, second.targets]))
    assert both.stage.tolist() == [0] * 6 + [1] * 6 and both.learned_lr == (0.0123456789, 0.02)
    assert both.images_per_class == 4 and len(both) == 12
    both.save(Folder.at(tmp_path), "key")
    assert_same(SyntheticSet.load(Folder.at(tmp_path)), both)
    assert union([example(soft=False), second]).soft_labels is None
    assert_same(union([first]), first)


def test_preview_has_a_row_for_each_class(tmp_path: Path) -> None:
    pixels = torch.zeros(7, 3, 64, 64, dtype=torch.uint8)
    pixels[:, 0] = torch.arange(10, 80, 10, dtype=torch.uint8).view(7, 1, 1)
    labels = torch.tensor([1, 0, 1, 2, 1, 1, 0])
    shown = np.asarray(Image.open(io.BytesIO(preview(pixels, labels, columns=3))))
    assert shown.shape == (1 + 3 * 65, 1 + 3 * 65, 3)
    corners = shown[1::65, 1::65, 0]
    assert corners.tolist() == [[20, 70, 255], [10, 30, 50], [40, 255, 255]]
    assert (shown[0] == 255).all() and (shown[:, 0] == 255).all() and (shown[65] == 255).all()
    assert (shown[1:65, 1:65] == [20, 0, 0]).all()
