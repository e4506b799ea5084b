"""The page of several runs says what their records say, regime by regime, and a browser can show it."""

import base64
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raydd.evaluation import records
from raydd.evaluation.record import Record
from raydd.evaluation.tables import collection, query
from raydd.evaluation.tables.collection import Collection
from raydd.evaluation.tables.pooling import pool
from raydd.evaluation.tables.words import labels as regime
from raydd.report import several_runs
from raydd.report.drawing import RUNS
from raydd.report.mosaic import mosaic
from raydd.report.names import names_of
from raydd.report.trends import spread_out
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure
from tests.support.browser import Seen, look
from tests.support.driven_browser import driven
from tests.support.pages import Page, needs_browser, require_self_contained
from tests.support.several_runs import CLASSES, METHODS, NETWORKS, SIZES, make_runs, student, students, synthetic_set

SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return collection.collect([make_runs(tmp_path_factory.mktemp("runs"))])


@pytest.fixture(scope="module")
def html(found: Collection) -> str:
    return several_runs.build(found, found.table)


@pytest.fixture(scope="module")
def blocks(html: str) -> dict[str, Page]:
    """The parts of the page about each label regime."""
    parts = re.split(r'<section id="block-\d+">', html.split('<section id="images">')[0])[1:]
    regimes = {"Hard": "hard", "Soft": "stored"}
    return {regimes[re.search(r"(\w+) labels</h3>", part)[1]]: Page(part) for part in parts}


def everyone(**wanted: object) -> list[Record]:
    every = [one for method in METHODS for size in SIZES for seed in (0, 1) for one in students(method, size, seed)]
    return [one for one in every if all(getattr(one, name) == value for name, value in wanted.items())]


def accuracies(**wanted: object) -> list[float]:
    return [one.test_accuracy for one in everyone(**wanted) if one.test_accuracy is not None]


def rows_of(page: Page, head: str) -> dict[tuple[str, str], list[str]]:
    """The rows of the table whose first column is called so, by group and name."""
    start = next(place for place, row in enumerate(page.rows) if row[0] == head)
    rows, group = {}, ""
    for row in page.rows[start + 1 :]:
        if row[0] in ("Scores", "Accuracy across networks, %"):
            break
        if len(row) == 1:
            group = row[0]
        else:
            rows[group, row[0].split(" ±")[0]] = row[1:]
    return rows


def per_class(size: int) -> str:
    return "1 image per class" if size == 1 else f"{size} images per class"


def spelled(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.2f} ± {100 * stdev(values):.2f}"


@pytest.mark.parametrize("labels", ["hard", "stored"])
def test_each_regime_has_a_table_of_its_own_students_alone(blocks: dict[str, Page], labels: str) -> None:
    expected = {}
    for network in NETWORKS:
        for size in SIZES:
            group = per_class(size)
            chosen = {"labels": labels, "network": network, "images_per_class": size}
            for method in (method for method, regimes in METHODS.items() if labels in regimes):
                own = accuracies(subject="synthetic", method=method, **chosen)
                expected[group, f"{method}-ipc{size}, {network}"] = spelled(own)
            expected[group, f"random real images, {network}"] = spelled(accuracies(subject="random", **chosen))
        if labels == "hard":
            expected["all the data", f"full dataset, {network}"] = spelled(accuracies(subject="full", network=network))
    rows = rows_of(blocks[labels], "Trained on")
    assert {name: row[0] for name, row in rows.items()} == expected
    for row in rows.values():
        mean = float(row[0].split()[0])
        assert float(row[3]) == pytest.approx(mean - 10, abs=0.011)
        assert float(row[5]) == pytest.approx(mean / 8, abs=0.011)
    assert blocks.keys() == {"hard", "stored"}


def test_the_best_stands_first_in_each_group(blocks: dict[str, Page]) -> None:
    for page in blocks.values():
        by_group: dict[str, list[float]] = {}
        for (group, _), row in rows_of(page, "Trained on").items():
            by_group.setdefault(group, []).append(float(row[0].split()[0]))
        assert all(means == sorted(means, reverse=True) for means in by_group.values())
        assert list(by_group)[: len(SIZES)] == [per_class(size) for size in SIZES]


def test_the_scores_are_differences_of_means_of_one_regime(blocks: dict[str, Page]) -> None:
    for labels, page in blocks.items():
        rows = rows_of(page, "Scores")
        assert len(rows) == len(SIZES) * len(NETWORKS) * sum(labels in regimes for regimes in METHODS.values())
        chosen = {"method": "datm", "network": NETWORKS[1], "images_per_class": SIZES[1]}
        own, random = (fmean(accuracies(subject=s, labels=labels, **chosen)) for s in ("synthetic", "random"))
        hard = fmean(accuracies(subject="synthetic", labels="hard", **chosen))
        full = fmean(accuracies(subject="full", method="datm", network=NETWORKS[1])[:2])
        row = rows[per_class(SIZES[1]), f"datm-ipc{SIZES[1]}, {NETWORKS[1]}"]
        advantage = (own - random - (full - hard)) / 2
        lrs = (np.exp(advantage) - np.exp(-1)) / (np.e - np.exp(-1))
        expected = [f"{100 * (own - random):+.1f}", f"{100 * (full - hard):+.1f}", f"{100 * lrs:.1f}"]
        assert [cell.split(" ±")[0] for cell in row] == expected


def test_the_matrix_has_every_network_and_the_drop(blocks: dict[str, Page]) -> None:
    for labels, page in blocks.items():
        rows = rows_of(page, "Accuracy across networks, %")
        for size in SIZES:
            row = rows[per_class(size), f"datm-ipc{size}"]
            chosen = {"method": "datm", "labels": labels, "images_per_class": size}
            for cell, network in zip(row[:2], NETWORKS, strict=True):
                own = fmean(accuracies(subject="synthetic", network=network, **chosen))
                full = fmean(accuracies(subject="full", method="datm", network=network)[:2])
                assert cell == f"{100 * own:.1f}−{100 * (full - own):.1f}"
            assert row[2] == row[1].split("−")[0]
        for network, random, full in zip(
            NETWORKS, rows[per_class(1), "random real images"], rows["all the data", "full dataset"], strict=False
        ):
            drawn = accuracies(subject="random", labels=labels, network=network, images_per_class=1)
            assert random == f"{100 * fmean(drawn):.1f}"
            assert full == f"{100 * fmean(accuracies(subject='full', network=network)):.1f}"


def test_figures_are_named_apart_and_label_their_lines(html: str, blocks: dict[str, Page]) -> None:
    titles = [attrs["aria-label"] for tag, attrs in Page(html).tags if tag == "svg"]
    assert len(set(titles)) == len(titles)
    for labels, page in blocks.items():
        where = f"(shapes, {regime(labels)} labels, {NETWORKS[0]})"
        own = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
        assert own == [
            f"Accuracy against images per class {where}",
            f"Accuracy against bytes {where}",
            *(f"Accuracy by class, {size} per class {where}" for size in SIZES),
        ]
    for page in blocks.values():
        words = " ".join(page.words)
        assert "random real images" in words and "full dataset, hard" in words
    svg = re.search(r'<svg[^>]*aria-label="Accuracy against images per class \(shapes, hard.*?</svg>', html, re.DOTALL)
    assert svg is not None
    assert {"datm", "mtt", "random real images", "full dataset, hard"} <= set(re.findall(r">([^<>]+)</text>", svg[0]))


def test_ids_of_figures_do_not_repeat(html: str) -> None:
    ids = Page(html).attributes("id")
    assert len(set(ids)) == len(ids)


def test_nothing_is_loaded_from_outside(html: str) -> None:
    assert len(SCRIPT.findall(html)) == 1
    require_self_contained(SCRIPT.sub("", html))


def test_names_and_what_differs_are_spelled_out(html: str) -> None:
    page = Page(html)
    configurations = {row[0]: row[1:] for row in page.rows[1:] if len(row) == 7}
    name = f"shapes-mtt-ipc{SIZES[0]}below: mtt-ipc{SIZES[0]}"
    assert configurations[name] == [
        "mtt",
        "shapes",
        "1",
        "2",
        str(len(everyone(method="mtt", run="shapes-mtt-ipc1"))),
        "1",
    ]
    differing = {row[0]: row[1:] for row in page.rows if row[0].startswith("method.")}
    assert differing == {
        "method.name": ["datm"] * len(SIZES) + ["mtt"] * len(SIZES),
        "method.images_per_class": [str(size) for size in SIZES] * 2,
    }
    assert page.text.count("seed-1") == len(METHODS) * len(SIZES)


def test_failed_students_are_listed(html: str) -> None:
    text = Page(html).text
    assert "1 failed student" in text and "RunError: the loss is nan" in text
    assert "mtt-ipc1 on convnet-d1-w8-instance" in text


def test_conditions_are_said_and_hold(found: Collection) -> None:
    conditions = [query.parse("method=mtt"), query.parse("images_per_class<500")]
    page = Page(several_runs.build(found, query.select(found.table, conditions), conditions))
    assert "Only those with method=mtt and images_per_class<500." in page.text
    assert "datm-ipc" not in page.text and "full dataset" not in page.text


def test_one_run_without_config_set_or_baselines_makes_a_page(tmp_path: Path) -> None:
    records.write(Folder.at(tmp_path), student("alone", class_accuracy=None))
    only = collection.collect([Folder.at(tmp_path)])
    page = Page(several_runs.build(only, only.table))
    assert rows_of(page, "Trained on")["2 images per class", "alone"][0] == "50.00"
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert [a["aria-label"] for tag, a in page.tags if tag == "svg"] == [
        "Accuracy against images per class (shapes, soft labels)"
    ]


def test_students_that_all_failed_make_a_page_too(tmp_path: Path) -> None:
    records.write(Folder.at(tmp_path), make_failure())
    only = collection.collect([Folder.at(tmp_path)])
    page = Page(several_runs.build(only, only.table))
    assert rows_of(page, "Trained on")["2 images per class", "small"][:3] == ["–", "0", "1"]


def picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


def test_the_images_are_those_of_the_sets(html: str, found: Collection) -> None:
    shown = [attrs for tag, attrs in Page(html).tags if tag == "img"]
    assert len(shown) == len(METHODS) * len(SIZES)
    array = picture(shown[1]["src"] or "")
    assert shown[1]["alt"] == f"shapes-datm-ipc10: 4 of each class of {', '.join(CLASSES)}"
    synthetic = SyntheticSet.load(found.sources[2].folder / "synthetic")
    expected = synthetic.pixels().permute(0, 2, 3, 1).numpy()
    for k in range(3):
        for row, number in enumerate((0, 3, 6, 9)):
            tile = array[9 * row : 9 * row + 8, 9 * k : 9 * k + 8]
            np.testing.assert_array_equal(tile[..., :3], expected[10 * k + number])
            assert (tile[..., 3] == 255).all()


def test_pictures_stay_small_whatever_the_images() -> None:
    made = mosaic(synthetic_set(4, side=224), 48_000)
    height, width, _ = picture(made.source).shape
    assert 40_000 <= height * width <= 50_000
    assert len(made.source) < 250_000
    assert made.note == ""


def test_classes_without_images_and_more_than_fit_leave_gaps() -> None:
    made = synthetic_set(6)
    some = torch.nonzero(made.labels != 1).flatten()
    fewer = SyntheticSet(
        **{**made.__dict__, "images": made.images[some], "labels": made.labels[some], "stage": made.stage[some]}
    )
    shown = mosaic(fewer, 48_000)
    assert shown.note == ""
    assert (picture(shown.source)[:, 9:17, 3] == 0).all()


def test_runs_have_colours_in_both_themes(html: str) -> None:
    for name in RUNS:
        assert len(re.findall(rf"--{name}: #[0-9a-f]{{6}};", html)) == 2


def ten_alike(folder: Path) -> Collection:
    """Ten runs whose students reached the same."""
    for number in range(10):
        records.write(Folder.at(folder) / str(number) / "results", student(f"x-{number}"))
    return collection.collect([Folder.at(folder)])


def test_lines_join_what_differs_in_images_per_class_alone(found: Collection, tmp_path: Path) -> None:
    lines = pool(collection.named(found.table, found.owners))
    names = names_of(found.variants, lines)
    assert {names.families[variant] for variant in found.variants} == {"datm", "mtt"}
    assert names.short["shapes-datm-ipc10"] == "datm-ipc10"
    rows = [line.facts for line in lines if line.variant]
    assert {names.colour(row) for row in rows if row["method"] == "mtt"} == {RUNS[1]}
    many = ten_alike(tmp_path)
    others = pool(collection.named(many.table, many.owners))
    names = names_of(many.variants, others)
    assert [names.family(line.facts) for line in others] == [str(number) for number in range(10)]
    assert [names.colour(line.facts) for line in others] == [*RUNS, *RUNS[:2]]
    assert [names.is_ring(line.facts) for line in others] == [False] * 8 + [True] * 2


@given(st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(0.01, 0.1)), max_size=10))
def test_labels_keep_out_of_each_others_room(items: list[tuple[float, float]]) -> None:
    wanted = sorted((place for place, _ in items), reverse=True)
    room = [own for _, own in items]
    places = spread_out(wanted, room)
    for place, own in zip(places, room, strict=True):
        assert own / 2 - 1e-9 <= place <= 1 - own / 2 + 1e-9
    for (a, own), (b, other) in pairwise(zip(places, room, strict=True)):
        assert a - own / 2 >= b + other / 2 - 1e-9


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert spread_out([0.9, 0.5, 0.1], [0.1, 0.1, 0.1]) == [0.9, 0.5, 0.1]
    assert spread_out([0.5, 0.5], [0.2, 0.2]) == pytest.approx([0.5, 0.3])


@pytest.fixture(scope="module", params=[390, 1400])
def seen(request: pytest.FixtureRequest, html: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Seen]:
    return request.param, look(tmp_path_factory.mktemp("browser"), html, request.param)


@needs_browser
def test_a_browser_without_a_network_shows_every_figure(html: str, seen: tuple[int, Seen]) -> None:
    width, page = seen
    assert page.console == []
    assert page.loaded == []
    assert page.width == width
    assert len(page.figures) == len(re.findall("<figure", html)) > 10
    assert all(wide > 100 and high > 50 for _, wide, high in page.figures)
    assert page.images == len(METHODS) * len(SIZES)


@needs_browser
@pytest.mark.parametrize("width", [420, 1280])
def test_images_of_the_comparison_enlarge(html: str, tmp_path: Path, width: int) -> None:
    with driven(tmp_path, html, width) as tab:
        assert tab.find("document.documentElement.scrollWidth") == width
        titles = tab.find("[...document.querySelectorAll('.shot img')].map(image => image.alt)")
        tab.click(".shot")
        tab.press("ArrowRight")
        assert tab.find("viewer.open") and tab.find("viewer.querySelector('h3').textContent") == titles[1]
        tab.press("Escape")
        assert not tab.find("viewer.open") and tab.console == []


@needs_browser
def test_no_word_of_a_figure_is_cut_or_covered(seen: tuple[int, Seen]) -> None:
    _, page = seen
    assert page.cut == []
    assert page.covered == []


@needs_browser
def test_labels_of_lines_that_end_together_stand_apart(tmp_path: Path) -> None:
    many = ten_alike(tmp_path / "runs")
    page = look(tmp_path, several_runs.build(many, many.table), 1400)
    assert (page.cut, page.covered) == ([], [])


@needs_browser
def test_a_click_on_a_column_sorts_by_it(seen: tuple[int, Seen]) -> None:
    _, page = seen
    first, ascending, by_name, backwards = page.orders
    assert len(first) == 6
    assert ascending == list(reversed(first))
    assert by_name == sorted(first) and backwards == list(reversed(by_name))


@needs_browser
def test_the_browser_tells_of_what_goes_wrong(tmp_path: Path, html: str) -> None:
    broken = html.replace("</body>", '<script>missing()</script><img src="https://example.org/x.png"></body>')
    page = look(tmp_path, broken, 800)
    assert any("missing is not defined" in line for line in page.console)
    assert any("example.org" in line for line in page.loaded)
