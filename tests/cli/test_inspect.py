"""`raydd inspect`: what it finds in a dataset, prints and writes."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from raydd.cli import inspect as command
from raydd.core.errors import DataError
from raydd.core.progress import NoProgress
from raydd.data import DataConfig
from raydd.data.inspection import Inspection, inspect
from tests.support.damaged import changed, undecodable
from tests.support.image_files import encoded, noise, write_folders, write_parquet

COLOURS = {"cat": (200, 30, 90), "dog": (10, 220, 50), "eel": (20, 40, 250)}


def run(*arguments: object) -> tuple[int, str]:
    """The exit code of the command, and what it prints."""
    parser = argparse.ArgumentParser(add_help=False)
    command.arguments(parser)
    known, rest = parser.parse_known_args([str(argument) for argument in arguments])
    printed = io.StringIO()
    code = command.inspect(known, rest, Console(file=printed, width=200, highlight=False))
    return code, printed.getvalue()


def found_in(root: Path, **fields: Any) -> Inspection:
    return inspect(DataConfig(source="imagefolder", root=str(root), **fields), NoProgress())


def good(size: tuple[int, int] = (9, 9)) -> dict[str, Image.Image | bytes]:
    """Three classes of 4 training and 2 test images, all of one colour but for a pixel."""
    files: dict[str, Image.Image | bytes] = {}
    for name, colour in COLOURS.items():
        for number in range(6):
            image = Image.new("RGB", size, colour)
            image.putpixel((0, 0), (number, 0, 0))
            files[f"{'train' if number < 4 else 'test'}/{name}/{number}.png"] = image
    return files


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_good_dataset(tmp_path: Path) -> None:
    write_folders(tmp_path / "pets", good())
    code, printed = run("imagefolder", "--root", tmp_path / "pets", "--to", tmp_path / "seen", "--quiet")
    assert code == 0
    for words in ("pets", "3 classes", "9x9 RGB", "100.0", "all images can be decoded"):
        assert words in printed
    assert not rows(tmp_path / "seen" / "problems.csv") and not rows(tmp_path / "seen" / "duplicates.csv")
    summary = json.loads((tmp_path / "seen" / "summary.json").read_text())
    train, test = (
        {"decoded": n * 3, "undecodable": 0, "copies": 0, "per_class": [[name, n] for name in COLOURS]} for n in (4, 2)
    )
    assert summary == {
        "dataset": "pets",
        "splits": {"train": train, "test": test},
        "stored": {"9x9 RGB": 18},
        "test_images_in_train": 0,
        "images_in_several_classes": 0,
        "problems": 0,
    }


def test_the_grid_has_a_row_of_images_for_each_class(tmp_path: Path) -> None:
    write_folders(tmp_path / "pets", {**good((90, 30)), "train/eel/bad.png": b"rubbish"})
    run("imagefolder", "--root", tmp_path / "pets", "--to", tmp_path / "seen", "--quiet")
    pixels = np.asarray(Image.open(tmp_path / "seen" / "grid.png").convert("RGB")).astype(int)
    heights, areas = [], []
    for colour in COLOURS.values():
        places = np.argwhere(np.abs(pixels - colour).max(axis=2) < 12)
        heights.append(places[:, 0].mean())
        areas.append(len(places))
    assert heights == sorted(heights)
    assert all(4 * 64 * 21 * 0.9 < area < 4 * 64 * 22 * 1.1 for area in areas)  # 90x30 is shrunk to 64x21
    names = pixels[:, : pixels.shape[1] - 4 * 66]
    assert (names.sum(axis=2) < 300).any()


def test_every_problem_is_listed_whatever_on_error_says(tmp_path: Path) -> None:
    bad = dict(enumerate((undecodable() | changed()).items()))
    files = {f"train/dog/bad{number:02}.png": data for number, (_, data) in bad.items()}
    write_folders(tmp_path / "pets", {**good(), **files, "test/eel/cut.png": b""})
    code, printed = run("imagefolder", "--root", tmp_path / "pets", "--to", tmp_path / "seen")
    assert code == 0
    listed = {row["where"]: row for row in rows(tmp_path / "seen" / "problems.csv")}
    assert len(listed) == len(files) + 1
    for number, (what, _) in bad.items():
        row = listed[str(tmp_path / "pets" / "train" / "dog" / f"bad{number:02}.png")]
        assert what in row["problem"] and row["split"] == "train"
        assert row["kept"] == ("no" if what in undecodable() else "yes")
    assert listed[str(tmp_path / "pets" / "test" / "eel" / "cut.png")]["split"] == "test"
    lost = len(undecodable()) + 1
    assert f"{lost} images cannot be decoded, {len(changed())} images not decoded as stored" in printed
    summary = json.loads((tmp_path / "seen" / "summary.json").read_text())
    assert summary["splits"]["train"]["per_class"][1] == ["dog", 4 + len(changed())]
    assert [summary["splits"][split]["undecodable"] for split in ("train", "test")] == [lost - 1, 1]
    assert summary["stored"]["6x6 CMYK"] == 1 and sum(summary["stored"].values()) == 18 + len(changed())
    skipping = run("imagefolder", "--root", tmp_path / "pets", "--to", tmp_path / "again", "--on-error", "skip")
    assert skipping[0] == 0
    for name in ("problems.csv", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "seen" / name).read_bytes()


def test_duplicates_within_and_between_splits(tmp_path: Path) -> None:
    photograph = noise(1, 20, 30)
    files = {
        "train/cat/a.png": photograph,
        "train/cat/b.bmp": encoded(photograph, "BMP"),
        "train/dog/c.png": photograph,
        "test/cat/d.png": photograph,
        "test/cat/e.png": photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "test/dog/f.png": noise(2),
        "test/dog/g.png": noise(2),
        "test/dog/h.png": noise(2, 12, 3),
        "train/eel/i.png": noise(3),
        "test/eel/j.png": noise(4),
    }
    write_folders(tmp_path / "pets", files)
    found = found_in(tmp_path / "pets")
    assert found.duplicates == (
        (("train", 0, "train/cat/a.png"), ("train", 0, "train/cat/b.bmp"), ("train", 1, "train/dog/c.png"))
        + (("test", 0, "test/cat/d.png"),),
        (("test", 1, "test/dog/f.png"), ("test", 1, "test/dog/g.png")),
    )
    assert (found.repeated("train"), found.repeated("test"), found.leaked()) == (2, 1, 1)
    assert found.contradicting() == [found.duplicates[0]]
    _, printed = run("imagefolder", "--root", tmp_path / "pets", "--to", tmp_path / "seen", "--quiet")
    assert "copies of another image: 2 in train, 1 in test" in printed
    assert "test images that are training images, too: 1" in printed
    assert "images in several classes: 1" in printed
    written = [tuple(row.values()) for row in rows(tmp_path / "seen" / "duplicates.csv")]
    assert written[3:5] == [("0", "test", "cat", "test/cat/d.png"), ("1", "test", "dog", "test/dog/f.png")]


def test_pixels_are_compared_upright(tmp_path: Path) -> None:
    upright, exif = noise(5, 4, 7), Image.Exif()
    exif[0x0112] = 6
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    write_parquet(tmp_path / "train.parquet", [0, 1], images=[encoded(upright), encoded(noise(6).convert("L"))])
    write_parquet(tmp_path / "test.parquet", [0, 1], images=[lying, encoded(noise(7))])
    found = inspect(DataConfig(source="parquet", root=str(tmp_path)), NoProgress())
    assert found.duplicates == ((("train", 0, "train.parquet#0"), ("test", 0, "test.parquet#0")),)
    assert found.stored == {"7x4 RGB": 2, "6x6 L": 1, "6x6 RGB": 1}


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    labels = [label for label in range(30) for _ in range(2 + label // 10)] + [7] * 5
    write_parquet(tmp_path / "train.parquet", labels, [f"[{label}]" for label in range(30)])
    write_parquet(tmp_path / "test.parquet", list(range(30)), [f"[{label}]" for label in range(30)])
    _, printed = run("parquet", "--root", tmp_path, "--to", tmp_path / "seen", "--quiet", "--train-limit-per-class", 3)
    for words in ("30 classes", "fewest", "2 ([0])", "median", "most", "3 ([7])", "1 ([0])"):
        assert words in printed


def test_only_the_images_that_are_asked_for(tmp_path: Path) -> None:
    write_folders(tmp_path, {**good(), "train/cat/z.png": b"rubbish"})
    limited = found_in(tmp_path, train_limit_per_class=2)
    assert limited.counts == {"train": [2, 2, 2], "test": [2, 2, 2]} and limited.problems == ()


def test_what_is_no_dataset_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no class folders"):
        run("imagefolder", "--root", tmp_path, "--to", tmp_path / "seen")
    with pytest.raises(SystemExit, match="2"):
        run("imagefolder", "--no-such-field", "--to", tmp_path / "seen")
    assert not (tmp_path / "seen").exists()
