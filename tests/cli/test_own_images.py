"""A folder of somebody's photographs: what goes wrong ends with one message, and what is only unusual does not."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raydd
from tests.support import ROOT
from tests.support.small import raydd as command

Captured = pytest.CaptureFixture[str]
OWN = ROOT / "configs" / "own_images.yaml"
LITTLE = {
    "data.image-size": 8,
    "network.depth": 2,
    "network.width": 8,
    "method.iterations": 1,
    "method.inner-loops": 1,
    "method.num-real": 8,
    "evaluate.num-students": 1,
    "evaluate.random-draws": 1,
    "evaluate.full-epochs": 1,
    "evaluate.recipe.epochs": 2,
}
QUICKLY = [*(str(part) for name, value in LITTLE.items() for part in (f"--{name}", value)), "--no-ray", "--quiet"]


def folder(root: Path, counts: Mapping[str, int], sides: tuple[int, int] = (20, 12)) -> Path:
    """So many photographs of each class, every second one grey."""
    for kind, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw = np.random.default_rng([kind, number])
            pixels = (draw.random((*sides, 3)) * (100 + 50 * kind)).astype(np.uint8)
            Image.fromarray(pixels).convert("L" if number % 2 else "RGB").save(root / name / f"{number}.png")
    return root


def ends(root: Path, *flags: str) -> tuple[int, Path]:
    """The exit code of the README's command, with little to do, and where it writes."""
    out = root.parent / "run"
    return command("run", OWN, "--data.root", root, "--out", out, *QUICKLY, *flags), out


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 10}, "there is one class folder, cat, and nothing to tell it from"),
        ({"cat": 2, "dog": 2}, "class cat has a single training image, which cannot be on both sides: set"),
        ({"cat": 1, "dog": 9}, "cat: there is one image, but one is needed to train on and one to test on"),
        ({}, "there are no class folders"),
    ],
    ids=["one class", "two images a class", "one image", "nothing"],
)
def test_too_little_is_one_message(counts: dict[str, int], words: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "photos").mkdir()
    code, out = ends(folder(tmp_path / "photos", counts))
    printed = capsys.readouterr().err
    assert code == 2 and words in printed and len(printed.splitlines()) == 1
    assert not (out / "synthetic").exists() and not (out / "config.yaml").exists()


def test_too_large_is_one_message(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 million pixels, which Pillow takes for an attack; 10,000 x 10,000 are read."""
    photos = folder(tmp_path / "photos", {"cat": 6, "dog": 6})
    Image.new("1", (20_000, 10_000)).save(photos / "cat" / "0.png")
    code, out = ends(photos)
    printed = capsys.readouterr().err
    assert code == 2 and "cannot decode 1 image(s)" in printed and "cat/0.png" in printed
    assert len(printed.splitlines()) == 1 and not (out / "config.yaml").exists()


def test_one_small_class_and_grey_among_colour_make_a_set(tmp_path: Path) -> None:
    """3 images of a class give 2 to train with, one of them held out: its mosaic has the same image four times."""
    code, out = ends(folder(tmp_path / "photos", {"cat": 3, "dog": 30, "emu": 25}))
    assert code == 0
    rows = raydd.results(out).to_pylist()
    assert {row["subject"] for row in rows} == {"synthetic", "init", "random", "full"}
    assert all(row["status"] == "ok" for row in rows)
    made = raydd.load(out).synthetic
    assert made.images.shape == (3, 3, 8, 8) and made.images.isfinite().all()
