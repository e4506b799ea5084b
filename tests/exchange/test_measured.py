"""What an export says of its accuracy is that of what it holds."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import raydd
from raydd import config as configs
from raydd.core.errors import ConfigError
from raydd.evaluation.tables.summary import summarise
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.api.test_api import Counting
from tests.support.small import SmallRun, finished_run


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def card_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return found


def said_of(folder: Path) -> str:
    """The paragraph on accuracy in a README."""
    parts = (folder / "README.md").read_text().split("\n\n")
    (found,) = (part for part in parts if part.startswith(("Networks that", "How accurate")))
    return found


def stored_accuracy(run: SmallRun) -> float:
    rows = summarise(raydd.results(run.out))
    (mean,) = (row.mean for row in rows if (row.subject, row.labels) == ("synthetic", "stored"))
    assert mean is not None
    return mean


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_of_images_of_8_bit_it_is_measured(digits: SmallRun, tmp_path: Path, form: Any) -> None:
    progress = Counting()
    folder = raydd.export(digits.out, form, tmp_path / form, progress=progress).path
    dataset, config = raydd.load(digits.out), configs.load(str(digits.file))
    written = replace(dataset.synthetic, images=dataset.preprocessing.forward(dataset.synthetic.pixels()))
    found = raydd.evaluate(raydd.DistilledDataset(written), config.data, network=config.network, num_students=1)
    accuracy = card_of(folder)["accuracy"]
    assert accuracy["mean"] == fmean(record.test_accuracy or 0.0 for record in found) != stored_accuracy(digits)
    assert accuracy["quantised"] and accuracy["labels"] == "stored" and accuracy["students"] == 1
    assert progress.updates == dataset.recipe.epochs
    exact = 100 * stored_accuracy(digits)
    reached = f"are right on {100 * accuracy['mean']:.1f} % of the test images (1 network convnet-d2-w8-instance)"
    how = "That was measured with the images as they are written here, rounded to 8 bit"
    beside = f"with the exact values it is {exact:.1f} %"
    assert said_of(folder) == f"Networks that are trained on it by the recipe below {reached}. {how}; {beside}."


def test_of_exact_values_it_is_that_of_the_run(digits: SmallRun, tmp_path: Path) -> None:
    progress = Counting()
    folder = raydd.export(digits.out, "pt", tmp_path / "pt", progress=progress).path
    assert progress.updates == 0 and card_of(folder)["accuracy"]["mean"] == stored_accuracy(digits)
    assert said_of(folder).endswith("of the test images (1 network convnet-d2-w8-instance).")


def test_it_may_be_left_out(digits: SmallRun, tmp_path: Path) -> None:
    progress = Counting()
    folder = raydd.export(digits.out, "imagefolder", tmp_path / "out", measure=False, progress=progress).path
    assert progress.updates == 0 and card_of(folder)["accuracy"]["mean"] is None
    what = "How accurate networks are that are trained on these images of 8 bit was not measured"
    exact = f"with the exact values it is {100 * stored_accuracy(digits):.1f} %"
    asked = "(it was asked not to measure it)"
    assert said_of(folder) == f"{what} {asked}; {exact}, and clipping costs some of it."


def test_without_the_run_or_its_data_it_is_not_known(digits: SmallRun, tmp_path: Path) -> None:
    folder = raydd.export(digits.out / "synthetic", "imagefolder", tmp_path / "alone").path
    assert "was not measured (the set was exported without its run, whose config names the test" in said_of(folder)
    config = digits.out / "config.yaml"
    config.write_text(
        config.read_text().replace("source: digits", "source: imagefolder").replace("root: null", "root: /nowhere")
    )
    folder = raydd.export(digits.out, "imagefolder", tmp_path / "moved").path
    assert "was not measured (data.root: there is no folder /nowhere" in said_of(folder)


def test_whole_pixels_lose_nothing(digits: SmallRun, tmp_path: Path) -> None:
    stored = SyntheticSet.load(Folder.at(digits.out / "synthetic"))
    whole = replace(stored, images=stored.preprocessing.forward(stored.pixels()))
    for file in (digits.out / "synthetic").iterdir():
        file.unlink()
    whole.save(Folder.at(digits.out / "synthetic"), "0123456789abcdef")
    assert torch.equal(raydd.load(digits.out).synthetic.images, whole.images)
    progress = Counting()
    folder = raydd.export(digits.out, "imagefolder", tmp_path / "out", progress=progress).path
    assert progress.updates == 0 and not card_of(folder)["accuracy"]["quantised"]


def test_a_licence_is_asked_for_once(digits: SmallRun, tmp_path: Path) -> None:
    def licence(name: str, **options: Any) -> str:
        folder = raydd.export(digits.out, "parquet", tmp_path / name, measure=False, **options).path
        text = (folder / "README.md").read_text()
        assert f"license: {card_of(folder)['license']}\n" in text
        return str(card_of(folder)["license"])

    assert licence("none") == "unknown" and not (digits.out / "license.txt").exists()
    with pytest.raises(ConfigError, match=r"^license: '\*' is no name of a licence; the Hub has mit"):
        raydd.export(digits.out, "parquet", tmp_path / "bad", license="*")
    assert not (tmp_path / "bad").exists() and not (digits.out / "license.txt").exists()
    assert licence("first", license="CC0-1.0") == licence("second") == "cc0-1.0"
    assert licence("third", license="mit") == licence("fourth") == "mit"
    again = raydd.export(tmp_path / "fourth", "pt", tmp_path / "again", measure=False).path
    assert card_of(again)["license"] == "mit"
    assert raydd.load(digits.out).synthetic.card == raydd.load(tmp_path / "fourth").synthetic.card
