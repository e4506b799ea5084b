"""Exports, read by those they are made for: torch, torchvision, pyarrow, the datasets library and Ray Data."""

import argparse
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

import raydd
from raydd import api
from raydd.cli.export import arguments
from raydd.cli.export import export as command
from raydd.core.errors import ArtefactError, ConfigError, DataError, UserError
from raydd.data import DataConfig
from raydd.data.preprocessing import ZCA
from raydd.evaluation.tables.summary import summarise
from raydd.exchange.export import FORMATS
from raydd.exchange.whole_folder import new_folder
from raydd.networks.config import NetworkConfig
from raydd.sets.formation import Formation
from raydd.sets.synthetic import SyntheticSet, union
from raydd.storage import Folder
from raydd.training.recipe import Recipe
from tests.api.test_api import real_digits
from tests.reference import formation as by_hand
from tests.sets.test_synthetic import assert_bits, example, preprocessing
from tests.support.s3_server import BUCKET, client, keys
from tests.support.small import SmallRun, finished_run, flip, state
from tests.support.tiny import randn

MAPS = ("none", "standardise", "zca")


def staged(soft: bool = True, name: str = "standardise", channels: int = 3) -> SyntheticSet:
    """Twelve images of three classes in two stages, so not class after class."""
    return union([example(soft, name, channels, stage) for stage in range(2)])


ORDER = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
"""The images of `staged`, class after class."""


def many_classes() -> SyntheticSet:
    """Eleven images of each of twelve classes, in no order; by name, the classes would be in another one."""
    names = tuple(f"{12 - label}" for label in range(12))
    labels = torch.arange(12).repeat(11)
    pixels = (labels * 20)[:, None, None, None] + torch.arange(len(labels)).view(-1, 1, 1, 1) // 12
    chosen = preprocessing("standardise")
    return replace(
        example(soft=False),
        images=chosen.forward(pixels.to(torch.uint8).expand(-1, 3, 4, 5)),
        labels=labels,
        stage=torch.zeros(len(labels), dtype=torch.int32),
        class_names=names,
    )


def saved(synthetic: SyntheticSet, folder: Path) -> Path:
    synthetic.save(Folder.at(folder / "set"), "0123456789abcdef")
    return folder / "set"


def exported(synthetic: SyntheticSet, form: Any, folder: Path) -> Path:
    return api.export(saved(synthetic, folder), form, folder / form).path


def loaded(file: Path) -> Tensor:
    return torch.load(file, weights_only=True)


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def blocks_of(folder: Path) -> list[str]:
    """The programs in a README."""
    text = (folder / "README.md").read_text().replace("path/to/this/folder", str(folder))
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def programs(folder: Path) -> dict[str, Any]:
    """What the names of the README's programs stand for after all of them have run in its folder."""
    names: dict[str, Any] = {}
    for block in blocks_of(folder):
        exec(block, names)
    return names


# Tensors


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", MAPS)
def test_tensors_are_those_of_the_set_class_after_class(tmp_path: Path, soft: bool, name: str) -> None:
    made = staged(soft, name)
    folder = exported(made, "pt", tmp_path)
    wanted = {"README.md", "card.json", "images_best.pt", "labels_best.pt"}
    wanted |= {"lr_best.pt"} if soft else set()
    wanted |= {"whitening.safetensors"} if name == "zca" else set()
    assert {path.name for path in folder.iterdir()} == wanted
    assert_bits(loaded(folder / "images_best.pt"), made.images[ORDER])
    labels = loaded(folder / "labels_best.pt")
    assert_bits(
        labels, made.soft_labels[ORDER] if made.soft_labels is not None else torch.arange(3).repeat(4, 1).T.flatten()
    )
    if soft:
        lr = loaded(folder / "lr_best.pt")
        assert lr.shape == () and lr.dtype == torch.float32 and lr.item() == np.float32(0.0123456789)
    batches = list(DataLoader(TensorDataset(loaded(folder / "images_best.pt"), labels), batch_size=5))
    assert [len(images) for images, _ in batches] == [5, 5, 2]


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", MAPS)
def test_the_readme_of_tensors_does_what_it_says(
    tmp_path: Path, soft: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = staged(soft, name)
    made = replace(made, card={**made.card, "recipe": {"lr": None, "batch_size": 8, "temperature": 2.0}})
    monkeypatch.chdir(exported(made, "pt", tmp_path))
    done = programs(Path())
    assert_bits(done["images"], made.images[ORDER])
    pixels = made.pixels()
    torch.testing.assert_close(done["prepare"](pixels), made.preprocessing.forward(pixels))
    logits = randn(4, 12, 3, dtype=torch.float32)
    wanted = (logits.double(), done["labels"])
    if soft:
        wanted = (logits.double() / 2, (done["labels"].double() / 2).softmax(1))
    torch.testing.assert_close(done["loss"](logits, done["labels"]).double(), cross_entropy(*wanted))
    assert done["loader"].batch_size == 8
    assert soft == ("lr" in done)
    assert soft != ("DATM's evaluation takes soft labels alone" in Path("README.md").read_text())


def test_the_accuracy_is_that_of_the_set(tmp_path: Path) -> None:
    recipe = Recipe(epochs=10, lr=None, momentum=0.9, batch_size=10, augmentation="none")
    made = real_digits(recipe, soft=True)
    folder = exported(made, "pt", tmp_path)
    said = card(folder)
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(said["images_of_class"]))
    again = SyntheticSet(
        images=loaded(folder / "images_best.pt"),
        labels=labels,
        soft_labels=loaded(folder / "labels_best.pt"),
        stage=torch.zeros(len(labels), dtype=torch.int32),
        learned_lr=(loaded(folder / "lr_best.pt").item(),),
        class_names=tuple(said["class_names"]),
        preprocessing=made.preprocessing,
        card={"recipe": said["set"]["recipe"]},
    )
    made = replace(made, learned_lr=again.learned_lr)
    mine, theirs = (
        raydd.evaluate(
            raydd.DistilledDataset(synthetic), DataConfig(), network=NetworkConfig(name="mlp"), num_students=2
        )
        for synthetic in (made, again)
    )
    assert [record.test_accuracy for record in mine] == [record.test_accuracy for record in theirs]
    assert mine[0].test_accuracy != mine[1].test_accuracy and (mine[0].test_accuracy or 0) > 0.4


def test_mosaics_are_exported_as_students_see_them(tmp_path: Path) -> None:
    made = replace(staged(soft=False), formation=Formation(factor=2))
    folder = exported(made, "pt", tmp_path)
    grey = made.preprocessing.forward(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist()
    wanted, rows = by_hand.decoded(made.images[ORDER], [[2]] * 12, grey)
    torch.testing.assert_close(loaded(folder / "images_best.pt"), wanted.float())
    assert loaded(folder / "labels_best.pt").tolist() == [rank // 4 for rank in rows] and len(rows) == 48
    said = card(folder)
    assert (said["num_images"], said["num_stored_images"], said["formation"]["factor"]) == (48, 12, 2)
    assert "The set stores 12 mosaics; here are the images that students see" in (folder / "README.md").read_text()


# Pictures


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", MAPS)
def test_an_image_folder_holds_the_nearest_pixels(tmp_path: Path, soft: bool, name: str) -> None:
    made = staged(soft, name)
    folder = exported(made, "imagefolder", tmp_path)
    found = ImageFolder(str(folder), PILToTensor())
    assert [label for _, label in found] == [0] * 4 + [1] * 4 + [2] * 4
    exact = made.preprocessing.inverse(made.images[ORDER].double())
    difference = torch.stack([image for image, _ in found]).double() / 255 - exact.clamp(0, 1)
    assert float(difference.abs().max()) <= 0.5 / 255 + 1e-6
    lost = card(folder)["quantisation"]
    outside = int(((exact < -0.5 / 255) | (exact > 255.5 / 255)).sum())
    assert (lost["values"], lost["clipped"], lost["exact"]) == (12 * 192, outside, False)
    assert outside > 0 and f"{lost['values']:,} values, {outside:,} (" in (folder / "README.md").read_text()
    assert (lost["lowest"], lost["highest"]) == pytest.approx((float(exact.min()), float(exact.max())), rel=1e-4)
    assert (folder / "soft_labels.npy").exists() == soft and (folder / "whitening.safetensors").exists() == (
        name == "zca"
    )
    if made.soft_labels is not None:
        assert_bits(torch.from_numpy(np.load(folder / "soft_labels.npy")), made.soft_labels[ORDER])


def test_classes_of_an_image_folder_are_those_of_the_set(tmp_path: Path) -> None:
    made = many_classes()
    folder = exported(made, "imagefolder", tmp_path)
    found = ImageFolder(str(folder), PILToTensor())
    assert [label for _, label in found] == [label for label in range(12) for _ in range(11)]
    assert [int(image[0, 0, 0]) for image, _ in found] == [20 * label + n for label in range(12) for n in range(11)]
    assert (folder / "classes.txt").read_text().split() == list(made.class_names) == [str(12 - n) for n in range(12)]
    assert card(folder)["quantisation"]["exact"] and "nothing is lost" in (folder / "README.md").read_text()


def test_the_readme_of_an_image_folder_of_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = staged(channels=1)
    monkeypatch.chdir(exported(made, "imagefolder", tmp_path))
    done = programs(Path())
    pixels = torch.stack([image for image, _ in done["dataset"]])
    assert_bits(pixels, made.pixels()[ORDER])
    torch.testing.assert_close(done["prepare"](pixels), made.preprocessing.forward(pixels))
    assert done["soft_labels"].shape == (12, 3)


def test_an_image_folder_needs_an_image_of_every_class(tmp_path: Path) -> None:
    made = replace(staged(), class_names=("ant", "bee", "cat", "dog"), soft_labels=None)
    with pytest.raises(DataError, match="the set has no image of dog"):
        exported(made, "imagefolder", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert card(exported(made, "pt", tmp_path))["images_of_class"] == [4, 4, 4, 0]


# Parquet


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
def test_parquet_by_pyarrow(tmp_path: Path, soft: bool) -> None:
    made = staged(soft)
    folder = exported(made, "parquet", tmp_path)
    table = pq.read_table(folder / "data" / "train-00000-of-00001.parquet")
    assert table.column_names == ["image", "label", *["soft_label"] * soft]
    assert table["label"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    assert np.array_equal(np.stack(images), made.pixels()[ORDER].permute(0, 2, 3, 1).numpy())
    if made.soft_labels is not None:
        assert_bits(torch.tensor(table["soft_label"].to_pylist()), made.soft_labels[ORDER])


def test_large_sets_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = many_classes()
    monkeypatch.setattr("raydd.exchange.parquet_out.FILE_BYTES", 50 * (60 + 48))
    folder = exported(made, "parquet", tmp_path)
    names = sorted(path.name for path in (folder / "data").iterdir())
    assert names == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    tables = [pq.read_table(folder / "data" / name) for name in names]
    assert [table.num_rows for table in tables] == [50, 50, 32]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["label"] for row in rows] == [label for label in range(12) for _ in range(11)]
    paths = [row["image"]["path"] for row in rows]
    assert paths[12] == "00001/00001.png" and len(set(paths)) == 132 and paths == sorted(paths)


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
def test_the_head_of_a_dataset_card(tmp_path: Path, soft: bool) -> None:
    folder = exported(staged(soft), "parquet", tmp_path)
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "unknown" and head["task_categories"] == ["image-classification"]
    assert head["size_categories"] == ["n<1K"] and head["tags"] == ["dataset-distillation", "raydd", "datm"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    features = {feature["name"]: feature for feature in head["dataset_info"]["features"]}
    assert features["label"]["dtype"]["class_label"]["names"] == {"0": "ant", "1": "bee", "2": "cat"}
    assert list(features) == ["image", "label", *["soft_label"] * soft]


@pytest.mark.parametrize("name", MAPS)
def test_a_parquet_export_is_a_set_that_raydd_loads(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(staged(name=name), card={**example().card, "recipe": {"epochs": 2, "augmentation": "none"}})
    folder = exported(made, "parquet", tmp_path)
    dataset = raydd.load(folder)
    assert_bits(dataset.synthetic.images, made.images)
    assert_bits(dataset.synthetic.soft_labels, made.soft_labels)
    assert dataset.preprocessing.digest == made.preprocessing.digest
    monkeypatch.chdir(folder)
    blocks = blocks_of(folder)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    before, done = network[1].weight.clone(), {"network": network}
    exec(blocks[0], done)
    assert not torch.equal(network[1].weight, before)
    exec(blocks[-1], done)
    torch.testing.assert_close(done["prepare"](made.pixels()), made.preprocessing.forward(made.pixels()))


def test_parquet_by_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    made = staged()
    assert made.soft_labels is not None
    folder = exported(made, "parquet", tmp_path)
    files, done = str(folder / "data" / "*.parquet"), {}
    exec(blocks_of(folder)[1], done)
    assert done["images"]["label"][:] == [0] * 4 + [1] * 4 + [2] * 4
    ways = {
        "folder": datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "a")),
        "files": datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "b")),
    }
    for found in ways.values():
        assert list(found) == ["train"] and len(found["train"]) == 12
        rows, features = found["train"], found["train"].features
        assert features["label"].names == ["ant", "bee", "cat"] and features["soft_label"].length == 3
        assert rows["label"][:] == [0] * 4 + [1] * 4 + [2] * 4
        pixels = np.stack([np.asarray(image) for image in rows["image"]])
        assert np.array_equal(pixels, made.pixels()[ORDER].permute(0, 2, 3, 1).numpy())
        assert_bits(torch.tensor(rows["soft_label"][:]), made.soft_labels[ORDER])


@pytest.mark.slow
def test_parquet_by_ray_data(two_cpus: None, tmp_path: Path) -> None:
    import ray.data

    made = staged()
    folder = exported(made, "parquet", tmp_path)
    rows = ray.data.read_parquet(str(folder / "data")).take_all()
    rows.sort(key=lambda row: row["image"]["path"])
    assert [row["label"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    assert np.array_equal(pixels, made.pixels()[ORDER].permute(0, 2, 3, 1).numpy())
    assert made.soft_labels is not None
    assert np.array_equal(np.stack([row["soft_label"] for row in rows]), made.soft_labels[ORDER].numpy())


# Cards


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_a_card_lists_every_file(tmp_path: Path, form: Any) -> None:
    made = staged(name="zca")
    folder = exported(made, form, tmp_path)
    said = card(folder)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(said["files"]) == set(files) - {"card.json"}
    for name, entry in said["files"].items():
        content = files[name].read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert said["class_names"] == ["ant", "bee", "cat"] and said["images_of_class"] == [4, 4, 4]
    assert said["source"]["key"] == "0123456789abcdef" and said["learned_lr"] == [0.0123456789] * 2
    assert said["preprocessing"] == {"name": "zca", "epsilon": 0.1} and said["set"]["recipe"]["epochs"] == 300
    assert isinstance(made.preprocessing, ZCA)
    assert "in 2 stages; the step size is that of the last one" in (folder / "README.md").read_text()


@pytest.mark.parametrize("form", FORMATS)
def test_results_are_told_apart_by_the_regime_of_labels(digits: SmallRun, form: Any) -> None:
    folder = api.export(digits.out, form, digits.out.parent / form).path
    text = (folder / "README.md").read_text()
    tables = dict(re.findall(r"### (.*?)\n\n(.*?)\n\nAll of them", text, re.DOTALL))
    headings = {"stored": "The set's own soft labels", "hard": "The classes as labels"}
    rows = summarise(raydd.results(digits.out))
    assert {row.labels for row in rows} == set(headings) and set(tables) == set(headings.values())
    for labels, heading in headings.items():
        found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[heading].splitlines()[2:]]
        wanted = [row for row in rows if row.labels == labels]
        numbers = [[row.subject, f"{100 * (row.mean or 0):.1f}", str(row.n)] for row in wanted]
        assert [[line[0], *line[-2:]] for line in found] == numbers
    said = card(folder)
    assert [(row["subject"], row["labels"], row["mean"]) for row in said["results"]] == [
        (row.subject, row.labels, row.mean) for row in rows
    ]
    assert said["source"]["run"] == "small" and "**" not in text


def test_a_set_alone_has_no_results(digits: SmallRun, tmp_path: Path) -> None:
    folder = api.export(digits.out / "synthetic", "pt", tmp_path / "pt").path
    assert card(folder)["results"] == [] and "No student's result was found" in (folder / "README.md").read_text()
    whole = api.export(digits.out, "pt", tmp_path / "whole").path
    for name in ("images_best.pt", "labels_best.pt", "lr_best.pt"):
        assert_bits(loaded(folder / name), loaded(whole / name))


def test_a_card_that_knows_little(tmp_path: Path) -> None:
    for form in FORMATS:
        folder = exported(replace(staged(), card={}), form, tmp_path)
        text = (folder / "README.md").read_text()
        assert "A dataset, distilled by an unknown method" in text
        assert "The set does not say how students were trained on it" in text


# Whole or not at all


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_is_not_touched(tmp_path: Path, form: Any) -> None:
    source = saved(staged(), tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / ".hidden").write_text("mine")
    before = state(tmp_path)
    with pytest.raises(UserError, match="taken: exists and is not empty; choose another folder, or delete this one"):
        api.export(source, form, tmp_path / "taken")
    with pytest.raises(UserError, match="is a file, not a folder"):
        api.export(source, form, tmp_path / "taken" / ".hidden")
    assert state(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "pt").mkdir()
    assert (exported(staged(), "pt", tmp_path) / "card.json").exists()
    assert (api.export(tmp_path / "set", "pt", tmp_path / "far" / "away").path / "card.json").exists()


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    source = saved(staged(), tmp_path)
    flip(source / "images-00000.parquet")
    before = state(tmp_path)
    with pytest.raises(ArtefactError, match="images-00000.parquet: the content is not what was written"):
        api.export(source, "pt", tmp_path / "out")
    with pytest.raises(ArtefactError, match="there is no synthetic set here"):
        api.export(tmp_path, "pt", tmp_path / "out")
    with pytest.raises(ConfigError, match="^format: must be one of pt, imagefolder, parquet, is zip"):
        api.export(source, "zip", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt), new_folder(Folder.at(tmp_path / "out"), last="card.json") as folder:
        (folder / "card.json").write_text("{}")
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt
    assert state(tmp_path) == before


def test_of_two_at_once_the_second_fails(tmp_path: Path) -> None:
    target = Folder.at(tmp_path / "out")
    with pytest.raises(UserError, match="out: "), new_folder(target, last="a") as slow:
        (slow / "a").write_text("slow")
        with new_folder(target, last="a") as fast:
            (fast / "a").write_text("fast")
    assert [(path.name, path.read_text()) for path in target.path.iterdir()] == [("a", "fast")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    yield f"s3://{BUCKET}"
    for key in keys(""):
        client().delete_object(Bucket=BUCKET, Key=key)
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name[0] != "."] == []


def test_in_an_object_store_the_card_comes_last(bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = saved(staged(), tmp_path)
    with caplog.at_level(logging.INFO, logger="werkzeug"):
        target = api.export(source, "imagefolder", f"{bucket}/sets/ants")
    appeared = re.findall(r"PUT /[^/]*/sets/ants/(\S*[^/\s]) HTTP", caplog.text)
    wanted = api.export(source, "imagefolder", tmp_path / "here").path
    names = sorted(path.relative_to(wanted).as_posix() for path in wanted.rglob("*") if path.is_file())
    assert sorted(keys("sets/ants/")) == names and sorted(appeared) == names
    assert appeared[-1] == "card.json"
    assert target.read("card.json") == (wanted / "card.json").read_bytes()
    with pytest.raises(UserError, match="sets/ants: exists and is not empty"):
        api.export(source, "pt", target.uri)


def test_of_an_upload_that_fails_nothing_stays(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(source: Path, target: Path) -> None:
        if source.name == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        target.write_bytes(source.read_bytes())

    target = Folder.at(f"{bucket}/broken")
    monkeypatch.setattr("raydd.exchange.whole_folder.shutil.copyfile", full_disk)
    with (
        pytest.raises(UserError, match="broken/b: the disk of .* is full"),
        new_folder(target, last="card.json") as folder,
    ):
        for name in ("a", "b", "card.json"):
            (folder / name).write_text(name)
    assert keys("broken/") == []


# The command


def test_the_command_says_what_it_made(digits: SmallRun) -> None:
    parser, out = argparse.ArgumentParser(), io.StringIO()
    arguments(parser)
    target = digits.out.parent / "pictures"
    known = parser.parse_args([str(digits.out), "--format", "imagefolder", "--to", str(target), "--quiet"])
    assert command(known, Console(file=out, highlight=False)) == 0
    first, second = out.getvalue().splitlines()
    assert first == f"exported 10 images as imagefolder: {target}"
    assert second.startswith("Networks that are trained on it by the set's recipe are right on ")
    assert len(ImageFolder(str(target))) == 10
    shutil.rmtree(target)
    with pytest.raises(SystemExit):
        parser.parse_args([str(digits.out), "--format", "zip", "--to", str(target)])
