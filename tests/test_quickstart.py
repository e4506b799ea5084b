"""The quickstart does what the README says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import raydd
from raydd import config
from raydd import data as datasets
from raydd.cli.main import main
from raydd.core.keyed_random import Key
from raydd.evaluation.tables.summary import SummaryRow, difference, summarise
from tests.support import ROOT

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def quickstart(out: Path, **evaluate: int) -> dict[tuple[str, str], SummaryRow]:
    """The rows of its table, by subject and labels."""
    chosen = config.load(str(QUICKSTART))
    chosen = replace(chosen, out=str(out), evaluate=replace(chosen.evaluate, **evaluate))
    raydd.run(chosen, ray=False)
    return {(row.subject, row.labels): row for row in summarise(raydd.results(out))}


def test_distilled_digits_beat_random_ones(tmp_path: Path) -> None:
    """With fewer students than the table has."""
    rows = quickstart(tmp_path / "run", num_students=2, random_draws=2)
    for baseline in (rows["random", "hard"], rows["random", "stored"]):
        assert_clearly_above(rows["synthetic", "stored"], baseline)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_table_of_the_quickstart(tmp_path: Path) -> None:
    rows = quickstart(tmp_path / "run")
    distilled = rows["synthetic", "stored"]
    assert distilled.n == 5 and rows["random", "hard"].n == rows["random", "stored"].n == 15
    for baseline in (rows["random", "hard"], rows["random", "stored"], rows["init", "stored"]):
        assert_clearly_above(distilled, baseline)
    assert rows["full", "hard"].mean > distilled.mean


@pytest.mark.slow
def test_a_new_users_photographs_need_no_other_change(tmp_path: Path) -> None:
    """Three folders of twenty photographs, no two of one size, and no test folder: only source and root are said."""
    for number, name in enumerate(("grass", "sand", "sea")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for photo in range(20):
            _photograph(number, photo).save(tmp_path / "photos" / name / f"img {photo}.jpg")
    out = tmp_path / "run"
    where = ["--data.source", "imagefolder", "--data.root", str(tmp_path / "photos"), "--out", str(out)]
    assert main(["run", str(QUICKSTART), *where, "--no-ray", "--quiet"]) == 0
    rows = {(row.subject, row.labels): row for row in summarise(raydd.results(out))}
    assert {subject for subject, _ in rows} == {"synthetic", "init", "random", "full"}
    assert all(row.network == "convnet-d3-w32-instance" and not row.failed for row in rows.values())
    assert raydd.load(out).synthetic.images.shape == (3, 3, 32, 32)
    iterations = [json.loads(line) for line in (out / "metrics" / "distill-000.jsonl").read_text().splitlines()]
    assert len(iterations) == 100 and sum(row["skipped"] for row in iterations) < 10
    data = yaml.safe_load((out / "config.yaml").read_text())["data"]
    counts = [split.labels.bincount().tolist() for split in splits(datasets.DataConfig(**data))]
    assert counts == [[16, 16, 16], [4, 4, 4]]


def splits(data: datasets.DataConfig) -> tuple[datasets.ImageSet, datasets.ImageSet]:
    loaded = datasets.load(data, Key.root(0))
    return loaded.train, loaded.test


def _photograph(kind: int, number: int) -> Image.Image:
    """Stripes of a direction that tells the kind, under noise, in the colours of a random light."""
    draw = np.random.default_rng([kind, number])
    width, height = draw.integers(40, 200, 2)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.sin(2 * np.pi * (4 * [x, y, x + y][kind] + draw.random()))[..., None]
    light = draw.uniform(0.5, 1, 3) * (1 + waves) / 2 + 0.3 * draw.standard_normal((height, width, 3))
    return Image.fromarray((255 * light.clip(0, 1)).astype(np.uint8))


def assert_clearly_above(ours: SummaryRow, other: SummaryRow) -> None:
    found = difference(ours, other)
    assert found.standard_error is not None
    assert found.mean > 3 * found.standard_error, (ours.subject, other.subject, other.labels, found)
