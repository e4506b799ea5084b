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
from raydd.core.errors import DataError, UserError
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
        "stored_by_class": {name: {"9x9 RGB": 6} for name in COLOURS},
        "told_by": {what: {"accuracy": 0.0, "chance": 1 / 3} for what in ("size", "shape", "colour mode")},
        "passed_over": {},
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
    assert f"{lost} images cannot be decoded, {len(changed())} images changed, or read with a warning" in printed
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


def pets(below: str = "", inner: str = "") -> dict[str, Image.Image | bytes]:
    """Two classes of twelve images."""
    return {
        f"{below}{name}{inner}/{number:02}.png": noise(100 * label + number)
        for label, name in enumerate(("cat", "dog"))
        for number in range(12)
    }


def seen(tmp_path: Path, *flags: str) -> str:
    """What the command prints of the folder alone."""
    code, printed = run(tmp_path / "pets", "--to", tmp_path / "seen", "--quiet", *flags)
    assert code == 0
    return printed


def test_a_folder_alone_is_taken_for_what_it_is(tmp_path: Path) -> None:
    write_folders(
        tmp_path / "pets", {**pets(), "cat/notes.txt": b"tabby", "labels.csv": b"", "dog/old/a.png": noise(1)}
    )
    printed = seen(tmp_path)
    for words in (
        f"{tmp_path}/pets is read as a folder of images, of class folders",
        "dog in " + str(tmp_path / "pets") + ": images inside folders of a class folder are passed over",
        "raydd keeps one in five of every class for testing, drawn by chance, the same ones for every seed",
        "1 no image by its name (.txt)",
        "1 in folders inside class folders",
        "1 no image by its name (.csv)",
        f"a run reads it with --data.source imagefolder --data.root {tmp_path}/pets",
    ):
        assert words in printed
    passed = json.loads((tmp_path / "seen" / "summary.json").read_text())["passed_over"]
    assert sum(passed.values()) == 3


def test_splits_that_are_not_read_are_named(tmp_path: Path) -> None:
    splits = {name: image for split in ("train", "test", "val", "extra") for name, image in pets(f"{split}/").items()}
    write_folders(tmp_path / "pets", splits)
    printed = seen(tmp_path)
    assert "with train and test\n" in printed
    assert "test images are those of test/, as given; val/ is not read: raydd holds out images of its own" in printed
    assert "24 in extra/, which is not read; 24 in val/, which is not read" in printed


def test_what_raydd_made_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "run" / "synthetic").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(
        "name: mine\nmethod: {name: dm, images_per_class: 3}\nevaluate: {recipe: {lr: 0.01}}\n"
    )
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto" / "auto.json").write_text("{}")
    code, printed = run(tmp_path / "run", "--to", tmp_path / "seen")
    assert code == 0 and "the folder of a run, not of images: mine, dm with 3 images per class of digits" in printed
    assert f"raydd report {tmp_path}/run" in printed and "in it: synthetic" in printed
    assert "what raydd auto has made" in run(tmp_path / "auto")[1]
    assert not (tmp_path / "seen").exists()


def test_what_gives_the_class_away_is_said(tmp_path: Path) -> None:
    grey = {name: image.convert("L") for name, image in pets().items() if isinstance(image, Image.Image)}
    write_folders(tmp_path / "pets", {**grey, **{f"eel/{number}.png": noise(number, 30, 40) for number in range(12)}})
    printed = seen(tmp_path)
    assert "24 of 36 images are grey, and become coloured among the others" in printed
    assert "careful: size gives classes away" in printed and "careful: colour mode gives classes away" in printed
    assert "where 50% would be chance: eel (100%)" in printed
    assert "6x6" in printed.partition("sizes by class")[2] and "L 12" in printed
    told = json.loads((tmp_path / "seen" / "summary.json").read_text())["told_by"]
    assert told["size"]["chance"] == pytest.approx(1 / 3)


def test_two_images_a_class_are_too_few_and_still_looked_at(tmp_path: Path) -> None:
    write_folders(
        tmp_path / "pets", {name: image for name, image in pets().items() if name.endswith(("00.png", "01.png"))}
    )
    printed = seen(tmp_path)
    assert "careful: 2 of 2 classes have fewer than 10 training images, cat has 1" in printed
    assert "gives classes away" not in printed


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pets/cat/1.png": noise(1)}, "there is one class folder, cat"),
        ({"pets/1.png": noise(1)}, "holds 1 image and no folders; put the images of each class into a folder"),
        ({"pets/cat/1.png": noise(1), "pets/cat/2.png": noise(2), "pets/dog/a.txt": b""}, "dog: there is no image"),
        (
            {"pets/Train/cat.png": noise(1), "pets/valid/cat.png": noise(1)},
            r"its folders are called splits \(Train, valid\) and hold no folders of classes",
        ),
    ],
)
def test_folders_that_are_no_dataset(tmp_path: Path, files: dict[str, Image.Image | bytes], words: str) -> None:
    write_folders(tmp_path, files)
    with pytest.raises(DataError, match=words):
        run(tmp_path / "pets", "--to", tmp_path / "seen")
    assert not (tmp_path / "seen").exists()


def test_what_is_neither_a_name_nor_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nor is there a folder nowhere here"):
        run("nowhere")
    with pytest.raises(UserError, match="there is no such folder"):
        run(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(encoded(noise(1)))
    with pytest.raises(UserError, match=r"a\.png: is a file; give the folder"):
        run(tmp_path / "a.png")
