"""The report of a run that distilled a teacher: how images were recovered, how diverse they are, what labels take."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raydd import report
from raydd.evaluation import records
from raydd.evaluation.tables.words import SUBJECTS as SUBJECT_NAMES
from raydd.evaluation.tables.words import labels as regime
from raydd.report import drawing, figures
from raydd.report.contents import read
from raydd.storage import Folder
from tests.evaluation.test_records import make_record
from tests.report.test_page import NAMES, synthetic_set, write_lines
from tests.support.pages import Page, needs_browser, require_self_contained, shown

TAUGHT = {
    ("synthetic", "hard"): (0.3, 21_500, 0),
    ("synthetic", "online"): (0.6, 44_800_000, 9_000),
    ("synthetic", "replayed"): (0.58, 81_500, 3_000),
    ("init", "hard"): (0.28, 21_000, 0),
    ("init", "online"): (0.5, 44_799_500, 9_000),
    ("random", "hard"): (0.29, 18_432, 0),
    ("random", "online"): (0.45, 44_797_000, 9_000),
    ("full", "hard"): (0.9, 18_432_000, 0),
}
"""Test accuracy, bytes and teacher forwards of the students that a run with a teacher trains."""
SIMILARITIES = {"synthetic": (0.8, 0.7), "init": (0.84, 0.75), "random": (0.85, 0.77)}
"""Cosines to the centroid and of two images, the means over classes."""


def similarity(subject: str, draw: int) -> dict[str, float]:
    """What a record says: the mean over classes, and every class, a hundredth apart; draws differ by two hundredths."""
    kinds = zip(("centroid", "pairwise"), SIMILARITIES[subject], strict=True)
    means = {f"{kind}_similarity": value + 0.02 * draw for kind, value in kinds}
    return means | {f"{kind}.{name}": means[kind] + 0.01 * (k - 1) for kind in means for k, name in enumerate(NAMES)}


def add_taught_students(run: Folder) -> None:
    for (subject, labels), (accuracy, size, forwards) in TAUGHT.items():
        for draw in range(2 if subject == "random" else 1):
            for seed in (0, 1):
                student = make_record(
                    method="delt",
                    recipe="delt",
                    subject=subject,
                    labels=labels,
                    student_seed=seed,
                    distill_seed=draw,
                    test_accuracy=accuracy + 0.01 * seed,
                    bytes_total=size,
                    teacher_forwards=forwards,
                    metrics={} if subject == "full" else similarity(subject, draw),
                )
                records.write(run / "results", student)


def pack(iterations: int, images: int, scale: float) -> list[dict[str, float | None]]:
    """The metrics of a pack of class groups whose images join in two halves."""
    active = [images // 2 if i < iterations // 2 else images for i in range(iterations)]
    return [
        {
            "iteration": i,
            "loss": scale * (2 + np.cos(i)),
            "ce": scale,
            "bn_loss": 100.0,
            "bn_share": 0.5 / scale,
            "lr": 0.25,
            "crop_scale": 0.5,
            "active": active[i],
            "image_iterations": sum(active[: i + 1]),
            "seconds": 0.25,
        }
        for i in range(iterations)
    ]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A finished run of a method that distils a teacher, in three packs of class groups."""
    run = Folder.at(tmp_path_factory.mktemp("taught"))
    add_taught_students(run)
    start, result = (replace(synthetic_set(seed), soft_labels=None, learned_lr=(None,)) for seed in (0, 1))
    start.save(run / "stages" / "000" / "init", "0" * 16)
    counted = {"image_iterations": 115_500, "uniform_iterations": 200_000}
    replace(result, card={**result.card, **counted}).save(run / "synthetic", "0123456789abcdef")
    for group, lines in {0: pack(40, 100, 1), 8: pack(40, 100, 2), 16: pack(30, 50, 4)}.items():
        write_lines(run / "metrics", f"recover-000-{group:05d}.jsonl", lines)
    return run


@pytest.fixture(scope="module")
def html(taught: Folder) -> str:
    return report.build(taught)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_recovering_is_the_mean_over_packs(taught: Folder, page: Page) -> None:
    found = read(taught).recovery["000"]
    packs = [pack(40, 100, 1), pack(40, 100, 2), pack(30, 50, 4)]
    for line in found.lines:
        there = [lines[line["iteration"]] for lines in packs if line["iteration"] < len(lines)]
        for name in ("loss", "ce", "bn_share", "active"):
            assert line[name] == pytest.approx(np.mean([one[name] for one in there]))
    assert [line["iteration"] for line in found.lines] == list(range(40))
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert titles[-3:] == ["Recovery loss", "Share of the batch norm term", "Images that take part"]
    assert "Averaged over 3 packs of class groups" in page.text


def test_the_saving_and_the_speed_are_told(page: Page) -> None:
    saved, speed = (" ".join(tile.replace("\N{NO-BREAK SPACE}", " ").split()) for tile in page.tiles[-2:])
    assert saved.startswith("Image-iterations 42.25 % saved 115,500 of 200,000")
    done = 2 * (20 * 50 + 20 * 100) + 15 * 25 + 15 * 50
    assert speed.startswith(f"Speed {done / (0.25 * 110):,.0f} image-iterations a second {done:,} in 27.5 s")
    assert "3 packs of class groups" in speed


def test_stages_that_were_recovered_have_a_section_each(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_record())
    for stage in (0, 1):
        write_lines(run / "metrics", f"recover-{stage:03d}-00000.jsonl", pack(4, 2, 1))
    write_lines(run / "metrics", "recover-002-00000.jsonl", [])
    text = Page(report.build(run)).text
    assert "Recovering, stage 0" in text and "Recovering, stage 1" in text and "stage 2" not in text
    assert "% saved" not in text


def test_long_curves_are_thinned() -> None:
    iterations = np.arange(4_001.0)
    at, values = drawing.thinned(iterations, -iterations)
    assert 1000 <= len(at) <= 1200 and at[0] == 0
    np.testing.assert_array_equal(values, -at)


def test_regimes_of_labels_are_not_mixed(page: Page) -> None:
    head, *rows = (row for row in page.rows if len(row) > 4)
    assert head[-3:-1] == ["Storage", "Teacher forwards"]
    assert len(rows) == len(TAUGHT)
    sizes = ["21.5 kB", "44.8 MB", "81.5 kB", "21 kB", "44.8 MB", "18.4 kB", "44.8 MB", "18.4 MB"]
    for row, size, ((subject, labels), (accuracy, _, forwards)) in zip(rows, sizes, TAUGHT.items(), strict=True):
        assert row[0].startswith(SUBJECT_NAMES[subject]) and f"{regime(labels)} labels" in row[0]
        assert row[1].startswith(f"{100 * accuracy + 0.5:.2f}")
        assert row[-3:-1] == [size, f"{forwards:,}"]
    best, random, init, full = (" ".join(tile.split()) for tile in page.tiles[:4])
    assert best.startswith("distilled set 60.5") and "online labels" in best
    assert "below by 15.0" in random and "online labels" in random
    assert "below by 10.0" in init and "online labels" in init
    assert "hard labels" in full
    assert "recipe delt" in page.text


def test_a_regime_that_nothing_else_has_is_compared_with_no_other(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    for subject, labels in (("synthetic", "replayed"), ("synthetic", "hard"), ("random", "hard"), ("full", "hard")):
        records.write(run / "results", make_record(subject=subject, labels=labels))
    best, full = (" ".join(tile.split()) for tile in Page(report.build(run)).tiles)
    assert "replayed labels" in best and full.startswith("full dataset")


def test_diversity_is_told_of_every_set(page: Page) -> None:
    rows = [row for row in page.rows if len(row) == 3]
    assert rows == [
        ["Images", "Cosine to the centroid", "Cosine of two images"],
        ["distilled set", "0.800", "0.700"],
        ["starting state", "0.840", "0.750"],
        ["random real images ± between 2 draws", "0.860 ± 0.014", "0.780 ± 0.014"],
    ]
    assert "Lower is more diverse" in page.text and "arXiv 2411.19946" in page.text
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert titles[2] == "Similarity within a class"


def test_nothing_is_said_of_how_alike_single_images_are(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    alone = {"centroid_similarity": 1.0} | {f"centroid_similarity.{name}": 1.0 for name in NAMES}
    records.write(run / "results", make_record(images_per_class=1, metrics=alone))
    page = Page(report.build(run))
    assert "Diversity" not in page.text
    assert "Similarity within a class" not in [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]


def test_of_many_classes_the_most_and_least_diverse_are_shown() -> None:
    values = {f"class {k:02d}": (k * 37 % 100) / 100 for k in range(100)}
    panel = figures.similarity({"synthetic": values, "random": values}, {})
    shown = set(re.findall(r"class \d\d", panel.svg))
    assert shown == {name for name, value in values.items() if not 0.115 < value < 0.875}
    assert panel.caption == "The 12 most diverse and the 12 least diverse of 100 classes."


def test_images_that_were_not_changed_are_shown_once(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_record(method="rded"))
    for folder in (run / "stages" / "000" / "init", run / "synthetic"):
        synthetic_set(0).save(folder, "0123456789abcdef")
    assert {attrs["alt"] for tag, attrs in Page(report.build(run)).tags if tag == "img"} == {
        f"{name}, image {number}" for name in NAMES for number in (1, 2)
    }


def test_nothing_is_loaded_from_outside(html: str) -> None:
    require_self_contained(html)


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_it_without_sideways_scrolling(html: str, tmp_path: Path, width: int) -> None:
    assert shown(tmp_path, html, width) == (width, 12)
