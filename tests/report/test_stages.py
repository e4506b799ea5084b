"""The report of a run of several stages: what students reached after each, and the images stage by stage."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raydd import report
from raydd.evaluation import records
from raydd.evaluation.record import Record, record_id
from raydd.evaluation.tables.summary import summarise
from raydd.evaluation.tables.words import SUBJECTS as SUBJECT_NAMES
from raydd.report.gallery import stage_gallery
from raydd.report.stages import accuracy_by_stage
from raydd.sets.synthetic import SyntheticSet, union
from raydd.storage import Folder
from tests.evaluation.test_records import make_record
from tests.report.test_page import NAMES, outer_loop, synthetic_set, write_lines
from tests.support.pages import Page, needs_browser, require_self_contained, shown
from tests.support.small import finished_run

SIZES = (1, 3, 2)
"""Images per class of the stages."""
SO_FAR = (1, 4, 6)
WAYS = {
    ("chain", "matched"): ((0.40, 0.44), (0.50, 0.56), (0.60, 0.61)),
    ("chain", "reference"): ((0.41, 0.43), (0.52, 0.56), (0.62, 0.68)),
    ("new_only", "matched"): ((0.40, 0.42), (0.45, 0.46), (0.47, 0.49)),
    ("single_shot", "reference"): ((0.58, 0.60),),
}
"""The two students' test accuracies after each stage, of a single shot after the last."""
LEGEND = {
    "synthetic": "chain, matched budget",
    "ema": "chain, reference budget (dashed)",
    "k_center": "new images only, matched budget",
    "full": "single shot",
}


def student(mode: str, budget: str, stage: int, seed: int, accuracy: float, **changes: object) -> Record:
    """A record of a chain after a stage, or of a single shot."""
    images = SIZES[stage] if mode == "new_only" else SO_FAR[stage]
    name = record_id({"mode": mode, "budget": budget, "stage": stage, "seed": seed, **changes})
    values = {
        "record_id": name,
        "mode": mode,
        "budget": budget,
        "stage": stage,
        "student_seed": seed,
        "images_per_class": images,
        "num_images": 3 * images,
        "optimizer_steps": 100 * (stage + 1) if mode != "single_shot" else 300,
        "test_accuracy": accuracy,
    }
    return make_record(**values | changes)


def add_students(run: Folder, **changes: object) -> None:
    for (mode, budget), stages in WAYS.items():
        for stage, accuracies in enumerate(stages, start=len(SIZES) - len(stages)):
            for seed, accuracy in enumerate(accuracies):
                records.write(run / "results", student(mode, budget, stage, seed, accuracy, **changes))


def staged(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[SyntheticSet]:
    parts = [synthetic_set(seed + i, images_per_class=size) for i, size in enumerate(sizes)]
    return [replace(part, stage=torch.full_like(part.stage, i)) for i, part in enumerate(parts)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    run = Folder.at(tmp_path_factory.mktemp("staged"))
    add_students(run)
    records.write(run / "results", make_record(subject="random", stage=2, images_per_class=6, test_accuracy=0.3))
    for number, start in enumerate(staged(10)):
        start.save(run / "stages" / f"{number:03d}" / "init", "0" * 16)
        write_lines(run / "metrics", f"distill-{number:03d}.jsonl", outer_loop(40 + number))
    union(staged()).save(run / "synthetic", "0123456789abcdef")
    return run


@pytest.fixture(scope="module")
def html(run: Folder) -> str:
    return report.build(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def drawn(svg: str, colour: str) -> list[np.ndarray]:
    """The points of every line of a colour, in the figure's own coordinates."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--{colour}\); stroke-width: 1.8', svg)
    paths += re.findall(
        rf'<path d="([^"]+)"[^>]*style="fill: none; stroke-dasharray[^"]*stroke: var\(--{colour}\)', svg
    )
    return [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=np.float64) for path in paths]


def test_the_curve_goes_through_the_means_at_the_images_so_far(run: Folder) -> None:
    (panel,) = accuracy_by_stage(summarise(records.read(run / "results")), SUBJECT_NAMES)
    assert dict(panel.legend) == LEGEND
    colours = dict(zip(WAYS, LEGEND, strict=True))
    lines = {way: drawn(panel.svg, colour) for way, colour in colours.items() if way[0] != "single_shot"}
    assert all(len(found) == 1 and len(found[0]) == 3 for found in lines.values()), lines
    points = np.concatenate([found[0] for found in lines.values()])
    images = np.array(SO_FAR * len(lines), dtype=np.float64)
    means = np.array([np.mean(pair) for way in lines for pair in WAYS[way]])
    for pixels, values in ((points[:, 0], images), (points[:, 1], means)):
        slope, offset = np.polyfit(values, pixels, 1)
        np.testing.assert_allclose(slope * values + offset, pixels, atol=0.01)
        assert abs(slope) > 1


def test_the_band_is_one_standard_deviation_over_students(run: Folder) -> None:
    (panel,) = accuracy_by_stage(summarise(records.read(run / "results")), SUBJECT_NAMES)
    (line,) = drawn(panel.svg, "synthetic")
    place = r'<use xlink:href="#(\w+)" x="0" y="([\d.]+)" style="fill: var\(--synthetic\); fill-opacity: 0.18'
    ((name, below),) = re.findall(place, panel.svg)
    (outline,) = re.findall(rf'<path id="{name}" d="([^"]+)"', panel.svg)
    corners = np.array(re.findall(r"[ML] ([\d.]+) (-?[\d.]+)", outline), dtype=np.float64)
    corners[:, 1] += float(below)
    pairs = WAYS["chain", "matched"]
    scale = (line[2, 1] - line[0, 1]) / (np.mean(pairs[2]) - np.mean(pairs[0]))
    for x, pair in zip(line[:, 0], pairs, strict=True):
        at = corners[np.abs(corners[:, 0] - x) < 0.01, 1]
        spread = np.std(pair, ddof=1)
        assert np.ptp(at) == pytest.approx(abs(scale) * 2 * spread, abs=0.02)
        assert (at.min() + at.max()) / 2 == pytest.approx(
            line[0, 1] + scale * (np.mean(pair) - np.mean(pairs[0])), abs=0.02
        )


def test_networks_and_labels_have_panels_of_their_own(run: Folder, tmp_path: Path) -> None:
    other = Folder.at(tmp_path)
    add_students(other)
    add_students(other, network="resnet18")
    titles = [panel.title for panel in accuracy_by_stage(summarise(records.read(other / "results")), SUBJECT_NAMES)]
    assert titles == [f"Accuracy after each stage, {name}" for name in ("convnet-d1-w8-instance", "resnet18")]


def test_the_images_of_each_stage_stand_in_a_row_with_a_class_to_a_column(run: Folder, page: Page) -> None:
    synthetic = SyntheticSet.load(run / "synthetic")
    head = next(row for row in page.rows if row[:1] == ["Stage"])
    assert head[1:] == list(NAMES)
    named = [row[0] for row in page.rows if row and row[0].startswith("stage ")]
    notes = "1 image per class", "3 images per class, 4 so far", "2 images per class, 6 so far"
    assert named == [f"stage {number}{note}" for number, note in enumerate(notes)]
    for stage, size in enumerate(SIZES):
        for k, name in enumerate(NAMES):
            images = [a for tag, a in page.tags if tag == "img" and "alt" in a]
            sources = [a["src"] or "" for a in images if (a["alt"] or "").startswith(f"{name}, stage {stage}")]
            found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(",")[1])))) for s in sources]
            own = (synthetic.stage == stage) & (synthetic.labels == k)
            np.testing.assert_array_equal(np.stack(found), synthetic.pixels()[own].permute(0, 2, 3, 1).numpy())
            assert len(found) == size


def test_stages_are_told_by_the_images_and_not_by_their_order() -> None:
    mixed = union(staged())
    assert mixed.soft_labels is not None
    order = mixed.labels.argsort(stable=True)
    by_class = replace(
        mixed,
        images=mixed.images[order],
        labels=mixed.labels[order],
        soft_labels=mixed.soft_labels[order],
        stage=mixed.stage[order],
    )
    assert stage_gallery(by_class) is not None
    assert stage_gallery(by_class) == stage_gallery(mixed)


def test_many_images_and_classes_are_shown_in_part() -> None:
    gallery = stage_gallery(union(staged(sizes=(20, 20, 20, 20, 20))))
    assert gallery is not None
    assert {len(pictures) for row in gallery.rows for pictures in row.classes} == {4}
    assert gallery.across == 2 and gallery.note == "Shown: the first 4 of 20 images per class."


def test_one_stage_has_no_section_of_its_own() -> None:
    assert stage_gallery(synthetic_set(0)) is None


def test_every_stage_has_its_loss_curve(page: Page) -> None:
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert titles.count("Matching loss") == 3 and titles.count("Accuracy after each stage") == 1
    for number in range(3):
        assert f"Distilling, stage {number}" in page.text
        assert f"{40 + number} iterations, 1 of them skipped." in page.text


def test_the_table_names_stage_mode_and_budget(page: Page) -> None:
    rows = [row for row in page.rows if row and row[0].startswith("distilled set")]
    assert len(rows) == sum(len(stages) for stages in WAYS.values())
    (best,) = [row for row in rows if "stage 2, chain, reference budget" in row[0]]
    assert best[1] == f"65.00 ± {100 * np.std((0.62, 0.68), ddof=1):.2f}"
    assert "6 per class" in best[0]


def test_students_are_drawn_after_the_last_stage_alone(html: str) -> None:
    lanes = re.search(r'aria-label="Every student".*?</svg>', html, re.DOTALL)
    assert lanes is not None
    summaries = re.findall(r"(\d\d\.\d\d)(?: ± \d\.\d\d)? %", lanes[0])
    assert sorted(map(float, summaries)) == [30.0, 48.0, 59.0, 60.5, 65.0]


def test_a_chain_is_set_against_a_single_shot(page: Page) -> None:
    tiles = [" ".join(tile.replace("\N{NO-BREAK SPACE}", " ").split()) for tile in page.tiles]
    assert tiles[0].startswith("distilled set 65.0") and "chain, reference budget" in tiles[0]
    assert tiles[1].startswith("distilled set 59.0") and "single shot" in tiles[1]
    error = np.sqrt((np.var((0.62, 0.68), ddof=1) + np.var((0.58, 0.60), ddof=1)) / 2)
    assert f"below by 6.0 ± {100 * error:.1f} points" in tiles[1]
    assert tiles[2].startswith("random real images 30.0")


def test_starts_are_shown_stage_after_stage(run: Folder, page: Page) -> None:
    before = [a["src"] for tag, a in page.tags if tag == "img" and (a["alt"] or "").startswith(f"{NAMES[0]}, before")]
    after = [a["src"] for tag, a in page.tags if tag == "img" and (a["alt"] or "").startswith(f"{NAMES[0]}, after")]
    assert len(before) == len(after) == SO_FAR[-1] and not set(before) & set(after)


def test_starts_that_stayed_as_they_were_are_not_shown_twice(run: Folder, tmp_path: Path) -> None:
    same = Folder.at(tmp_path)
    records.write(same / "results", make_record())
    for number, start in enumerate(staged()):
        start.save(same / "stages" / f"{number:03d}" / "init", "0" * 16)
    union(staged()).save(same / "synthetic", "0123456789abcdef")
    alts = [attrs["alt"] or "" for tag, attrs in Page(report.build(same)).tags if tag == "img"]
    assert alts and not [alt for alt in alts if "before" in alt]


def test_the_page_of_one_stage_says_nothing_of_stages(tmp_path: Path) -> None:
    html = (finished_run(tmp_path).out / "report.html").read_text()
    assert "tages" not in Page(html).text.split("How it was made")[0]
    assert 'class="stages"' not in html and ".stages" not in html


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_it_without_sideways_scrolling(html: str, tmp_path: Path, width: int) -> None:
    require_self_contained(html)
    images = 3 * SO_FAR[-1]
    assert shown(tmp_path, html, width) == (width, 3 * images)
