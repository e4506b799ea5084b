"""The report says what the run folder holds, all of it in one file, and a browser can show it."""

import base64
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from raydd import report
from raydd.core.errors import ArtefactError
from raydd.data.preprocessing import Standardise
from raydd.evaluation import records
from raydd.evaluation.record import Subject
from raydd.evaluation.tables.words import SUBJECTS as SUBJECT_NAMES
from raydd.evaluation.tables.words import labels as regime
from raydd.report import curves, figures
from raydd.report.gallery import gallery
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record
from tests.support.driven_browser import driven
from tests.support.pages import Page, browse, needs_browser, require_self_contained, shown

NAMES = ("circle", "<b>square & $co$</b>", "triangle")
ACCURACIES = {
    ("synthetic", "stored"): [0.51234, 0.53456, 0.55678],
    ("init", "stored"): [0.4, 0.42],
    ("random", "hard"): [0.2, 0.22, 0.24, 0.29],
    ("random", "stored"): [0.3, 0.33, 0.35, 0.36],
    ("full", "hard"): [0.8],
}
SUBJECTS = get_args(Subject)


def synthetic_set(seed: int, images_per_class: int = 2) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(images_per_class)
    return SyntheticSet(
        images=torch.randn(len(labels), 3, 8, 8, generator=generator),
        labels=labels,
        soft_labels=torch.randn(len(labels), 3, generator=generator) * 2,
        stage=torch.zeros(len(labels), dtype=torch.int32),
        learned_lr=(0.0123,),
        class_names=NAMES,
        preprocessing=Standardise(torch.full((3,), 0.5), torch.full((3,), 0.2)),
        card={"network": "convnet-d1-w8-instance", "seeds": {"distill": 77}, "versions": {"torch": "2.99.0"}},
    )


def write_lines(folder: Folder, name: str, lines: list[dict[str, float | None]]) -> None:
    folder.write(name, "".join(json.dumps(line) + "\n" for line in lines).encode())


def outer_loop(iterations: int) -> list[dict[str, float | None]]:
    return [
        {
            "iteration": i,
            "loss": float("nan") if i == 7 else 1 / (1 + i),
            "learned_lr": 0.01 + 1e-5 * i,
            "start_epoch": i % 4,
            "max_start_epoch": 4 + i // 20,
            "skipped": int(i == 7),
            "rollbacks": 0,
            "seconds": 0.1,
        }
        for i in range(iterations)
    ]


def add_students(run: Folder) -> None:
    for (subject, labels), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            student = {"subject": subject, "labels": labels, "student_seed": seed // 2, "distill_seed": seed % 2}
            records.write(run / "results", make_record(test_accuracy=accuracy, **student))
    records.write(run / "results", make_failure(student_seed=9))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A finished run of three classes of 8x8 images."""
    run = Folder.at(tmp_path_factory.mktemp("run"))
    add_students(run)
    synthetic_set(0).save(run / "stages" / "000" / "init", "0" * 16)
    synthetic_set(1).save(run / "synthetic", "0123456789abcdef")
    write_lines(run / "metrics", "distill-000.jsonl", outer_loop(60))
    experts = [
        {"expert": e, "epoch": t, "train_accuracy": 0.1 * t, "test_accuracy": None} for e in (0, 1) for t in (1, 2)
    ]
    write_lines(run / "metrics", "experts.jsonl", experts)
    run.write("config.yaml", b"name: small\nseed: 77\n")
    return run


@pytest.fixture(scope="module")
def html(run: Folder) -> str:
    return report.build(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_table_holds_the_numbers(page: Page) -> None:
    head, *rows = page.rows
    assert head[1:4] == ["Accuracy, %", "Students", "Failed"]
    assert len(rows) == len(ACCURACIES)
    for row, ((subject, labels), accuracies) in zip(rows, ACCURACIES.items(), strict=True):
        mean, n = 100 * np.mean(accuracies), len(accuracies)
        spread = f" ± {100 * np.std(accuracies, ddof=1):.2f}" if n > 1 else ""
        assert f"{regime(labels)} labels" in row[0]
        assert row[1] == f"{mean:.2f}{spread}"
        assert row[2:4] == [str(n), "1" if subject == "synthetic" else "0"]
        assert row[4:] == ["25.00", "99.00", "1,001", "0.01", "1,001", "12.5 s"]
    draws = [np.mean(ACCURACIES["random", "hard"][draw::2]) for draw in (0, 1)]
    assert f"± {100 * np.std(draws, ddof=1):.2f} % between 2 draws" in page.rows[3][0]


def test_the_headline_is_compared_under_equal_conditions(page: Page) -> None:
    best, random, init, full = (" ".join(tile.replace("\N{NO-BREAK SPACE}", " ").split()) for tile in page.tiles)
    ours, theirs = (np.array(ACCURACIES[subject, "stored"]) for subject in ("synthetic", "random"))
    assert best.startswith(f"distilled set {100 * ours.mean():.1f} ± {100 * ours.std(ddof=1):.1f} %")
    lead, error = ours.mean() - theirs.mean(), np.sqrt(ours.var(ddof=1) / 3 + theirs.var(ddof=1) / 4)
    assert f"below by {100 * lead:.1f} ± {100 * error:.1f} points 4 students, soft labels" in random
    assert "starting state" in init
    assert f"above by {100 * (0.8 - ours.mean()):.1f} points 1 student, hard labels" in full


def test_nothing_is_loaded_from_outside(html: str) -> None:
    require_self_contained(html)


def test_the_images_are_the_sets_pixels_before_and_after(run: Folder, page: Page) -> None:
    shown = [attrs for tag, attrs in page.tags if tag == "img"]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode((a["src"] or "").split(",")[1])))) for a in shown]
    for when, folder in (("before", run / "stages" / "000" / "init"), ("after", run / "synthetic")):
        expected = SyntheticSet.load(folder).pixels().permute(0, 2, 3, 1).numpy()
        found = [image for image, attrs in zip(pixels, shown, strict=True) if f", {when}," in (attrs["alt"] or "")]
        np.testing.assert_array_equal(np.stack(found), expected)
    assert [attrs["alt"] for attrs in shown[:2]] == ["circle, before, image 1", "circle, before, image 2"]


def test_soft_labels_are_told_in_words(run: Folder, page: Page) -> None:
    logits = SyntheticSet.load(run / "synthetic").soft_labels
    assert logits is not None
    odds = np.exp(logits.numpy())
    shares = odds / odds.sum(axis=1, keepdims=True)
    shots = [(before, attrs) for (_, before), (tag, attrs) in pairwise(page.tags) if tag == "img"]
    told = [button["data-label"] for button, image in shots if ", after," in (image["alt"] or "")]
    for words, share in zip(told, shares, strict=True):
        spelled = (f"{NAMES[k]}:~{100 * share[k]:.0f}~%" for k in np.argsort(-share) if share[k] >= 0.005)
        assert words == ", ".join(spelled).replace("~", "\N{NO-BREAK SPACE}")


def test_figures_card_and_config_are_there(page: Page) -> None:
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert titles == [
        *("Every student", "Accuracy by class", "Matching loss", "Learned step size", "Start epochs"),
        "Expert accuracy",
    ]
    assert "60 iterations, 1 of them skipped." in page.text
    assert "seeds.distill 77" in page.text
    assert "versions.torch 2.99.0" in page.text
    assert "name: small seed: 77" in page.text
    assert "RunError: the loss is nan" in page.text
    assert NAMES[1] in page.text


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_record(class_accuracy=None))
    page = Page(report.build(run))
    assert [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"] == ["Every student"]
    assert not [tag for tag, _ in page.tags if tag in ("img", "details")]
    report.write(run)
    assert run.has("report.html") and not run.has("preview.png")


def test_students_that_all_failed_make_a_report_too(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_failure())
    page = Page(report.build(run))
    assert "No student finished." in page.text
    assert page.rows[1][1:4] == ["–", "0", "1"]


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="nothing to report"):
        report.write(Folder.at(tmp_path))
    assert not list(tmp_path.iterdir())


def test_report_and_preview_are_written(run: Folder, html: str) -> None:
    report.write(run)
    assert run.read("report.html").decode() == html
    assert Image.open(io.BytesIO(run.read("preview.png"))).format == "PNG"


def test_metrics_survive_a_kill_and_a_resume(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_record())
    lines = [json.dumps(line) for line in outer_loop(30)]
    (run / "metrics").write("distill-000.jsonl", "\n".join([*lines, *lines[20:], '{"iteration": 30, "lo']).encode())
    assert "30 iterations, 1 of them skipped." in Page(report.build(run)).text
    (run / "metrics").write("distill-000.jsonl", "\n".join([*lines, '{"iteration": 30, "lo', ""]).encode())
    with pytest.raises(ArtefactError, match=r"distill-000\.jsonl, line 31: damaged"):
        report.build(run)


def test_a_large_set_is_shown_in_part() -> None:
    shown = gallery([], synthetic_set(0, images_per_class=12))
    assert shown.columns == 10 and "first 10 of 12 images" in shown.note
    assert [len(row.after) for row in shown.classes] == [10, 10, 10]


def test_of_many_classes_the_extremes_are_shown() -> None:
    accuracies = np.random.default_rng(0).permutation(100) / 100
    panel = figures.classes([f"class {a:.2f}" for a in accuracies], {"synthetic": accuracies.tolist()}, {})
    assert set(re.findall(r"class (0\.\d\d)", panel.svg)) == {f"{k / 100:.2f}" for k in (*range(12), *range(88, 100))}


def test_the_running_mean_is_the_mean_of_what_is_finite() -> None:
    values = np.array([1.0, np.nan, 4.0, np.inf, np.nan, np.nan, 2.0, 3.0])
    expected = []
    for t in range(len(values)):
        window = [x for x in values[max(0, t - 2) : t + 1] if np.isfinite(x)]
        expected.append(sum(window) / len(window) if window else np.nan)
    np.testing.assert_allclose(curves.running_mean(values, 3), expected)


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_it_without_sideways_scrolling(html: str, tmp_path: Path, width: int) -> None:
    assert shown(tmp_path, html, width) == (width, 12)


@needs_browser
@pytest.mark.parametrize("width", [420, 1280])
def test_images_enlarge_by_click_and_by_keyboard(html: str, tmp_path: Path, width: int) -> None:
    """A click or Enter opens one, arrows go to the next ones, Escape closes; the focus is where it was left."""
    viewer, title = "document.getElementById('viewer')", "document.querySelector('#viewer h3').textContent"
    with driven(tmp_path, html, width) as tab:
        assert tab.find("document.documentElement.scrollWidth") == width
        titles = tab.find("[...document.querySelectorAll('.shot img')].map(image => image.alt)")
        widths = tab.find("[...document.querySelectorAll('.shot img')].map(image => image.clientWidth)")
        assert len(set(titles)) > 2 and min(widths) >= 96 and not tab.find(f"{viewer}.open")
        tab.click(".shot")
        assert tab.find(f"{viewer}.open") and tab.find(title) == titles[0]
        assert tab.find("document.querySelector('#viewer .large').clientWidth") > widths[0]
        tab.press("ArrowRight")
        assert tab.find(title) == titles[1]
        tab.press("ArrowLeft")
        tab.press("ArrowLeft")
        assert tab.find(title) == titles[-1]
        tab.press("Escape")
        assert not tab.find(f"{viewer}.open")
        assert tab.settles("document.activeElement === [...document.querySelectorAll('.shot')].at(-1)")
        tab.press("ArrowLeft")
        tab.press("Enter")
        assert tab.find(f"{viewer}.open") and tab.find(title) == titles[-2]
        tab.click('#viewer [data-step="0"]')
        assert not tab.find(f"{viewer}.open")
        assert tab.console == []


@needs_browser
def test_a_browser_draws_the_page(html: str, tmp_path: Path) -> None:
    browse(tmp_path, html, "window-size=800,2000", f"screenshot={tmp_path / 'shot.png'}")
    colours = Image.open(tmp_path / "shot.png").convert("RGB").getcolors(10**6)
    assert colours is not None and len(colours) > 100


def test_every_subject_has_a_name_and_a_colour_in_both_themes(html: str) -> None:
    assert SUBJECT_NAMES.keys() == set(SUBJECTS)
    for subject in SUBJECTS:
        assert len(re.findall(rf"--{subject}: #[0-9a-f]{{6}};", html)) == 2


def test_the_averaged_set_stands_next_to_the_learned_one(run: Folder) -> None:
    for seed, accuracy in enumerate((0.6, 0.62)):
        records.write(run / "results", make_record(subject="ema", student_seed=seed, test_accuracy=accuracy))
    page = Page(report.build(run))
    titles = [row[0] for row in page.rows if row]
    first = next(i for i, title in enumerate(titles) if title.startswith("distilled set"))
    assert titles[first + 1].startswith("distilled set, EMA")
    assert "distilled set, EMA" in " ".join(page.tiles[1].split())
    assert not page.tiles[0].lstrip().startswith("distilled set, EMA")


def test_what_belongs_to_a_teacher_is_shown_with_one_alone(page: Page) -> None:
    for words in ("Diversity", "Recovering", "Storage", "Teacher forwards"):
        assert words not in page.text


def test_names_in_any_script_are_set_by_the_browser(recwarn: pytest.WarningsRecorder) -> None:
    names = ["玫瑰", "роза", "ਗੁਲਾਬ"]
    drawn = figures.classes(names, {"synthetic": [0.1, 0.2, 0.3]}, {}).svg
    assert all(name in drawn for name in names) and not recwarn.list
