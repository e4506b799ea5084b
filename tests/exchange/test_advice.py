"""Whoever names a folder without a set reads what it is, and what to do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import raydd
from raydd.core.errors import ArtefactError
from tests.support.small import SmallRun, finished_run, image_folder, small_run


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def said_of(folder: Path) -> str:
    with pytest.raises(ArtefactError) as refused:
        raydd.load(folder)
    before, _, advice = str(refused.value).partition("there is no synthetic set here; ")
    assert before == f"{folder}: "
    return advice


@pytest.mark.parametrize("form", ["pt", "imagefolder"])
def test_an_export(digits: SmallRun, tmp_path: Path, form: str) -> None:
    raydd.export(digits.out, form, tmp_path / "out")  # type: ignore[arg-type]
    said = said_of(tmp_path / "out")
    assert f"an export as {form}, for use without raydd" in said and "load the run (small)" in said
    assert f"`raydd import {tmp_path / 'out'} --format {form} ...`" in said


def test_the_export_of_a_student(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"format": "student"}))
    assert "which is a network: torch.export.load" in said_of(tmp_path)


def test_folders_of_runs(digits: SmallRun, tmp_path: Path) -> None:
    assert said_of(tmp_path) == f"this folder holds runs; name {digits.out}"
    for number in range(6):
        (tmp_path / f"more-{number}" / "synthetic").mkdir(parents=True)
        (tmp_path / f"more-{number}" / "synthetic" / "manifest.json").touch()
    named = ", ".join(f"{tmp_path}/more-{number}" for number in range(5))
    assert said_of(tmp_path) == f"this folder holds runs; name one of them: {named} and 2 more"


def test_folders_of_folders_of_runs(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    run = finished_run(tmp_path / "all")
    assert said_of(tmp_path) == f"this folder holds runs; name {run.out}"


def test_runs_that_are_not_finished(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run.out.mkdir()
    (run.out / "config.yaml").write_text(run.file.read_text())
    assert f"no distilled set yet; `raydd run {run.out}/config.yaml`" in said_of(run.out)
    assert said_of(tmp_path) == "this folder holds runs, of which none has a distilled set yet"


def test_a_sweep(digits: SmallRun) -> None:
    sweep = digits.out / "sweeps" / "lr"
    sweep.mkdir(parents=True)
    (sweep / "points.json").write_text("[]")
    (sweep / "config.yaml").touch()
    assert said_of(sweep) == f"this is a sweep; its distilled set is that of the run {digits.out}"
    (sweep / "best.yaml").touch()
    assert f"{sweep}/best.yaml is the config of the best point" in said_of(sweep)


def test_what_auto_wrote(digits: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "auto"
    folder.mkdir()
    (folder / "auto.json").touch()
    assert said_of(folder) == "`raydd auto` has not finished here"
    (folder / "best.yaml").write_text(digits.file.read_text())
    assert said_of(folder) == f"this is what `raydd auto` wrote; name {digits.out}, which it chose"


def test_images(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pictures", 1, 1)
    for folder in (root, root / "train", root / "train" / "rows"):
        assert f"`raydd run configs/own_images.yaml --data.root {folder}`" in said_of(folder)
    Image.new("L", (4, 4)).save(tmp_path / "alone.png")
    assert said_of(tmp_path / "alone.png") == "this is a file; name the folder of a run"


def test_files_of_others(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros(2))
    assert said_of(tmp_path).startswith("images.npy alone is no set that raydd knows")
    np.savez(tmp_path / "set.npz", images=np.zeros(2))
    assert f"`raydd import {tmp_path} --format kip ...`" in said_of(tmp_path)
    torch.save(torch.zeros(2), tmp_path / "images_best.pt")
    assert f"`raydd import {tmp_path} --format kip ...` takes over" in said_of(tmp_path / "set.npz")
    (tmp_path / "set.npz").unlink()
    assert "--format pt ..." in said_of(tmp_path)


def test_nothing_and_anything_else(tmp_path: Path) -> None:
    assert said_of(tmp_path / "nowhere") == "there is no such folder"
    assert said_of(tmp_path) == "name a run's folder, or what `raydd export --format parquet` wrote"
    (tmp_path / "card.json").write_text("{")
    assert said_of(tmp_path).startswith("name a run's folder")
    (tmp_path / "card.json").write_text("[]")
    assert said_of(tmp_path).startswith("name a run's folder")
