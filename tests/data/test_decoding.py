"""Decoding: order, place and memory, whatever single images are like; and every bad file of a dataset told by name."""

import csv
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raydd.core.errors import DataError, UserError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, Splits, load, paths, problems, undecoded
from raydd.data.decoding import Decoded, decode, decode_all, in_threads
from raydd.data.listing import Item, open_encoded
from raydd.storage import Folder
from tests.support.damaged import changed, undecodable
from tests.support.image_files import as_tensor, encoded, load_from, noise, write_folders, write_parquet

KEY = Key.root(3)


def item(name: str, data: bytes) -> Item:
    return Item(name, partial(open_encoded, data))


def decoded(*files: bytes, image_size: int | None = None) -> Decoded:
    return decode_all([item(f"file {number}", data) for number, data in enumerate(files)], len(files), image_size)


def pixels(files: list[bytes]) -> Tensor:
    """What Pillow alone makes of RGB files."""
    return torch.stack([as_tensor(Image.open(io.BytesIO(data))) for data in files])


# the tensor


def test_images_keep_their_order_over_all_threads() -> None:
    files = [encoded(noise(seed), ("PNG", "JPEG")[seed % 2]) for seed in range(1000)]
    found = decoded(*files)
    assert torch.equal(found.images, pixels(files))
    assert found.is_kept.all() and found.problems == ()


@pytest.mark.parametrize("late", [0, 1, 99, 199])
def test_one_coloured_image_makes_all_coloured(late: int) -> None:
    images = [noise(seed) if seed == late else noise(seed).convert("L") for seed in range(200)]
    expected = torch.stack([as_tensor(image.convert("RGB")) for image in images])
    assert torch.equal(decoded(*map(encoded, images)).images, expected)


def test_what_cannot_be_decoded_leaves_no_gap() -> None:
    files = [encoded(noise(seed)) if seed % 3 else b"rubbish" for seed in range(200)]
    found = decoded(*files)
    good = [seed for seed in range(200) if seed % 3]
    assert found.is_kept.nonzero().flatten().tolist() == good
    assert torch.equal(found.images, pixels([files[seed] for seed in good]))
    assert [(number, what) for number, _, what in found.problems] == [(n, "not an image") for n in range(0, 200, 3)]


@pytest.mark.parametrize(("last", "most"), [("L", 1.15), ("RGB", 1.5)])
def test_the_tensor_is_the_only_copy(last: str, most: float) -> None:
    grey, count = Image.new("L", (96, 96), 7), 3000
    items = [Item(str(number), grey.copy) for number in range(count - 1)] + [Item("last", grey.convert(last).copy)]
    decode(items[:40], 40, None)
    tracemalloc.start()
    try:
        images = decode(items, count, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most * images.numel()


def test_channels_that_are_given_hold() -> None:
    grey, coloured = (item(mode, encoded(noise(1).convert(mode))) for mode in ("L", "RGB"))
    assert decode([grey], 1, None, channels=3).shape == (1, 3, 6, 6)
    assert decode([grey], 1, None, channels=1).shape == (1, 1, 6, 6)
    with pytest.raises(DataError, match="RGB: is coloured, where grey images are needed"):
        decode([grey, coloured], 2, None, channels=1)


def test_threads_stop_when_nobody_asks_any_more() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = in_threads(lambda number: -number, numbers())
    assert [next(results) for _ in range(100)] == [(number, -number) for number in range(1, 101)]
    results.close()
    assert taken < 100 + 32 * (2 * 8 + 2)


@pytest.mark.parametrize("error", [UserError("pets/a.png: no permission"), DataError("row 3 is null")])
def test_what_the_disk_refuses_is_no_bad_image(error: UserError) -> None:
    def refused() -> Image.Image:
        raise error

    if isinstance(error, DataError):
        assert decode_all([Item("a.png", refused)], 1, None).problems == ((0, "a.png", "row 3 is null"),)
    else:
        with pytest.raises(UserError, match="no permission"):
            decode_all([Item("a.png", refused)], 1, None)


# single images


@pytest.mark.parametrize("what", undecodable())
def test_undecodable_files(what: str) -> None:
    found = decoded(undecodable()[what])
    assert len(found.images) == 0 and not found.is_kept[0]
    assert what in found.problems[0][2]


@pytest.mark.parametrize("what", changed())
def test_files_whose_pixels_are_changed(what: str) -> None:
    data = changed()[what]
    found = decoded(data)
    assert found.is_kept[0] and what in found.problems[0][2]
    image = Image.open(io.BytesIO(data))
    if image.mode == "I;16":
        expected = np.asarray(image)[None] // 256
    elif what.startswith("16"):
        expected = np.moveaxis(1 + np.arange(108).reshape(6, 6, 3), 2, 0)
    else:
        expected = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
    assert np.array_equal(found.images[0], expected)


def test_a_photograph_with_previews_is_one_image() -> None:
    photograph = encoded(noise(1), "MPO", save_all=True, append_images=[noise(2)])
    found = decoded(photograph)
    assert found.problems == ()
    assert torch.equal(found.images, pixels([encoded(noise(1), "JPEG")]))


# datasets


def write_mixed(root: Path, count: int, bad_share: int = 2) -> dict[str, str]:
    """Two classes of good files among which every so many are bad in turn; of the bad what is said of them."""
    kinds = [*undecodable().items(), *changed().items()]
    names: dict[str, str] = {}
    good = [encoded(noise(seed)) for seed in range(7)]
    originals: dict[bytes, Path] = {}
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (root / folder).mkdir(parents=True)
        for number in range(count // 4):
            name, data = f"{folder}/{number:05}.png", good[number % 7]
            if number % bad_share == 1:
                names[name], data = kinds[number // bad_share % len(kinds)]
            path = root / name
            if data in originals:
                os.link(originals[data], path)
            else:
                path.write_bytes(data)
                originals[data] = path
    return names


def listed(file: Path) -> dict[str, dict[str, str]]:
    """A report's lines by their images."""
    with file.open(newline="") as lines:
        return {line["where"]: line for line in csv.DictReader(lines)}


def require_all_named(folder: Path, count: int, report: Path) -> None:
    """Fail unless both ways of treating bad files name each of them once, and lose nothing else."""
    names = write_mixed(folder, count)
    lost = {name for name, what in names.items() if what in undecodable()}
    fields: dict[str, Any] = {"source": "imagefolder", "root": str(folder), "image_size": 6}
    with pytest.raises(DataError, match=f"cannot decode {len(lost)} image") as error:
        load(DataConfig(**fields), KEY, Folder.at(report))
    assert str(error.value).endswith(f"and {len(lost) - 10} more; all are in {report}/problems.csv")
    assert str(error.value).count(".png (") == 10
    raised = listed(report / "problems.csv")
    (report / "problems.csv").unlink()
    splits = load(DataConfig(**fields, on_error="skip"), KEY, Folder.at(report))
    assert listed(report / "problems.csv") == raised
    assert set(raised) == {str(folder / name) for name in names}
    for name, what in names.items():
        line = raised[str(folder / name)]
        assert line["split"] == name.split("/")[0]
        assert what in line["problem"] and line["kept"] == ("no" if name in lost else "yes")
    left = {split: count // 2 - sum(name.startswith(split) for name in lost) for split in ("train", "test")}
    assert {"train": len(splits.train), "test": len(splits.test)} == left
    assert len(splits.problems) == len(names) and len(splits.skipped) == count // 2 - left["train"]
    require_same_images(DataConfig(**fields, on_error="skip"), splits, lost, slice(None, None, max(1, count // 400)))


def require_same_images(config: DataConfig, splits: Splits, lost: set[str], some: slice) -> None:
    """Fail unless the list of undecoded training images is that of the decoded ones."""
    images = undecoded(config, KEY, splits.skipped)
    assert len(images) == len(splits.train)
    assert torch.equal(images.labels, splits.train.labels)
    assert not lost & set(images.paths())
    index = torch.arange(len(images))[some]
    assert torch.equal(images.decode(index, splits.train.shape[0]), splits.train.images[index])


def test_every_bad_file_is_named(tmp_path: Path) -> None:
    require_all_named(tmp_path / "pets", 400, tmp_path / "report")


@pytest.mark.slow
def test_every_one_of_20_000_bad_files_is_named(tmp_path: Path) -> None:
    require_all_named(tmp_path / "pets", 40_000, tmp_path / "report")


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize("limit", [None, 40])
def test_skipped_images_are_not_missed(tmp_path: Path, limit: int | None, fraction: float) -> None:
    names = write_mixed(tmp_path, 240, bad_share=3)
    lost = {name for name, what in names.items() if what in undecodable()}
    config = DataConfig(
        source="imagefolder",
        root=str(tmp_path),
        image_size=6,
        on_error="skip",
        train_limit_per_class=limit,
        validation_fraction=fraction,
    )
    splits = load(config, KEY)
    require_same_images(config, splits, lost, slice(None))
    listed = 60 if limit is None else limit
    for label, name in enumerate(("cat", "dog")):
        good = sum(f"train/{name}/{number:05}.png" not in lost for number in range(listed))
        held_out = 0 if splits.validation is None else splits.validation.counts()[label]
        assert held_out == (int(fraction * good + 0.5) if fraction else 0)
        assert splits.train.counts()[label] == good - held_out
    assert paths(config, KEY, splits.skipped) == undecoded(config, KEY, splits.skipped).paths()


def test_skipping_works_on_rows_of_parquet(tmp_path: Path) -> None:
    files = [encoded(noise(0)), b"", encoded(noise(2)), None, encoded(noise(4))]
    write_parquet(tmp_path / "train.parquet", [0, 0, 1, 1, 0], images=files)
    write_parquet(tmp_path / "test.parquet", [0, 1])
    splits = load_from("parquet", tmp_path, on_error="skip")
    assert splits.train.labels.tolist() == [0, 1, 0] and splits.skipped == (1, 3)
    assert torch.equal(splits.train.images, pixels([file for file in files if file]))
    assert [one.where.rpartition("/")[2] for one in splits.problems] == ["train.parquet, row 1", "train.parquet, row 3"]


@pytest.mark.parametrize(("folder", "split"), [("train/dog", "train"), ("test/cat", "test")])
def test_a_class_that_loses_all_images_is_refused(tmp_path: Path, folder: str, split: str) -> None:
    good = {f"{part}/{name}/a.png": noise(1) for part in ("train", "test") for name in ("cat", "dog")}
    write_folders(tmp_path, {**good, f"{folder}/a.png": b"rubbish"})
    message = f"{split}: no image of class {folder.rpartition('/')[2]} can be decoded"
    with pytest.raises(DataError, match=message):
        load_from("imagefolder", tmp_path, on_error="skip")


def test_a_report_of_the_past_goes_when_all_is_well(tmp_path: Path) -> None:
    report, config = tmp_path / "report", DataConfig(source="imagefolder", root=str(tmp_path / "pets"))
    good = {f"{part}/{name}/a.png": noise(1) for part in ("train", "test") for name in ("cat", "dog")}
    write_folders(tmp_path / "pets", {**good, "train/cat/b.png": b"rubbish"})
    with pytest.raises(DataError, match=r"raydd inspect imagefolder lists them all$"):
        load(config, KEY)
    with pytest.raises(DataError):
        load(config, KEY, Folder.at(report))
    assert (report / "problems.csv").exists()
    (tmp_path / "pets/train/cat/b.png").unlink()
    assert problems.count(Folder.at(report)) == 1
    assert load(config, KEY, Folder.at(report)).problems == ()
    assert problems.count(Folder.at(report)) == 0 and not (report / "problems.csv").exists()


def test_no_file_makes_another_program_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow has Ghostscript draw what begins as EPS does, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n"
    found = decoded(encoded(noise(1)), drawing)
    assert found.is_kept.tolist() == [True, False]
    assert [what for *_, what in found.problems] == ["not an image"]
    assert not (tmp_path / "started").exists()


def test_many_threads_ask_for_the_formats_at_once() -> None:
    """In a process that has not asked yet."""
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from raydd.data.image_files import formats, suffixes\n"
        "with ThreadPoolExecutor(16) as pool:\n"
        "    asked = [pool.submit(ask) for ask in (formats, suffixes) * 40]\n"
        "    assert all(one.result() for one in asked) and '.jpg' in suffixes() and 'EPS' not in formats()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
