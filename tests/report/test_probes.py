"""The report of what probes found: tables, pictures and figures, and nothing where nobody asked."""

import base64
import io
import json
import re
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from raydd import report
from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.evaluation.probes.rank_correlation import Estimate
from raydd.evaluation.record import Record, record_id
from raydd.report import probe_figures, probes
from raydd.sets.preview import preview
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record
from tests.report.test_stages import drawn
from tests.support.pages import Page, browse, needs_browser, require_self_contained

EVIL = '<b onclick=1>"o\'clock" & $co$</b>'
MEMBERSHIP = {
    ("synthetic", 0): {"lira_auc": 0.55, "lira_tpr_at_1_percent": 0.02, "loss_auc": 0.51, "shadows": 8.0},
    ("synthetic", 1): {"lira_auc": 0.57, "lira_tpr_at_1_percent": 0.03, "loss_auc": 0.54, "shadows": 8.0},
    ("full", 0): {"lira_auc": 0.91, "lira_tpr_at_1_percent": 0.4, "loss_auc": 0.8, "shadows": 8.0},
}
ROBUST = {
    ("synthetic", 0): (0.5, 0.2, 0.8, 0.6, 0.7, 0.5),
    ("synthetic", 1): (0.6, 0.3, 0.9, 0.7, 0.8, 0.6),
    ("random", 0): (0.3, 0.1, 0.6, 0.4, 0.5, 0.3),
    ("full", 0): (0.8, 0.4, 0.95, 0.85, 0.9, 0.8),
}
ROBUST_NAMES = (
    *("robust_accuracy_2", "robust_accuracy_8", "clean_accuracy", "corrupted_accuracy"),
    *("gaussian_noise_accuracy", "jpeg_compression_accuracy"),
)
LEARNED = {
    "set": ((0.9, 0.8), (0.95, 0.7)),
    "random": ((0.8, 0.5), (0.7, 0.4)),
    "random_bytes": ((0.85, 0.6), (0.75, 0.52)),
}
"""Of two orders the accuracies over 2 and over 4 classes."""
TRUTH = (0.5, 0.6, 0.7, 0.8, 0.9, 0.3)
PROXIES = {
    ("synthetic", "", 0): (0.2, 0.3, 0.25, 0.5, 0.4, 0.1),
    ("random", "", 0): (0.3, 0.2, 0.1, 0.05, 0.5, 0.4),
    ("random", "", 1): (0.1, 0.2, 0.3, 0.4, 0.5, 0.05),
    ("synthetic", "early_stopping", 0): (0.4, 0.5, 0.6, 0.65, 0.35, 0.3),
}


def answer(probe: str, metrics: dict[str, float], **changes: object) -> Record:
    """A probe's record, with an id that follows from what is asked of what."""
    nothing = {"train_accuracy": None, "test_accuracy": None, "class_accuracy": None, "run": EVIL, "dataset": EVIL}
    name = record_id({"probe": probe, **{name: str(value) for name, value in changes.items()}})
    return make_record(**{"record_id": name, "probe": probe, "variant": "", "metrics": metrics, **nothing, **changes})


def search_answers() -> list[Record]:
    found = []
    for (subject, variant, draw), accuracies in ({("full", "", 0): TRUTH} | PROXIES).items():
        for place, accuracy in enumerate(accuracies):
            about = {"subject": subject, "variant": variant, "distill_seed": draw, "network": f"{EVIL}-{place}"}
            metrics = {"selection_accuracy": accuracy, "parameters": 100.0 + place}
            found.append(answer("search", metrics, test_accuracy=accuracy, **about))
    return found


def continual_answers() -> list[Record]:
    found = []
    for memory, orders in LEARNED.items():
        for order, (first, last) in enumerate(orders):
            metrics = {"accuracy_of_2_classes": first, "accuracy_of_4_classes": last, "final_accuracy": last}
            metrics |= {"average_accuracy": (first + last) / 2, "forgetting": first - last}
            metrics |= {"memory_images": 8.0, "memory_bytes": 2_500.0}
            found.append(answer("continual", metrics, variant=f"{memory} {order}", student_seed=order))
    return found


def pairs_of_rows(seed: int) -> bytes:
    """A picture as the copy check makes one."""
    pixels = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return preview(pixels, torch.arange(2).repeat_interleave(3), columns=3)


def copies_answers() -> list[tuple[Record, bytes]]:
    made = []
    for place, (subject, draw, copied) in enumerate((("random", 0, 1.0), ("random", 1, 0.75), ("synthetic", 0, 0.125))):
        metrics = {"pixel_copies": copied, "feature_copies": copied / 2, "pixel_distance": 0.01 * (place + 1)}
        made.append((answer("copies", metrics, subject=subject, distill_seed=draw), pairs_of_rows(place)))
    return made


def write_students(run: Folder) -> None:
    for seed in range(2):
        records.write(run / "results", make_record(student_seed=seed, run=EVIL, dataset=EVIL))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the same run before anything was asked."""
    run = Folder.at(tmp_path_factory.mktemp("plain"))
    write_students(run)
    return report.build(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    run = Folder.at(tmp_path_factory.mktemp("probed"))
    write_students(run)
    answers = [*search_answers(), *continual_answers()]
    for (subject, seed), metrics in MEMBERSHIP.items():
        answers.append(answer("membership", metrics, subject=subject, student_seed=seed, test_accuracy=0.5))
    for (subject, seed), values in ROBUST.items():
        metrics = dict(zip(ROBUST_NAMES, values, strict=True))
        answers.append(answer("robustness", metrics, subject=subject, student_seed=seed, test_accuracy=0.5))
    for subject, p_value in (("synthetic", 0.002), ("random", 0.6)):
        metrics = {"mmd": -0.0123, "mmd_p": p_value, "confidence": 0.8, "accuracy": 0.9, "precision": 0.75}
        answers.append(answer("realism", metrics, subject=subject))
    for record, png in copies_answers():
        answers.append(record)
        (run / "probes").write(f"nearest-{record.record_id}.png", png)
    broken = {"record_id": "0" * 16, "student_seed": 2, "status": "failed", "error": f"RunError: {EVIL}"}
    for record in (*answers, answer("membership", {}, **broken)):
        records.write(run / "results", record)
    return run


@pytest.fixture(scope="module")
def html(run: Folder) -> str:
    return report.build(run)


def section(html: str, probe: str) -> str:
    found = re.search(rf'<section id="probe-{probe}".*?</section>', html, re.DOTALL)
    assert found is not None
    return found[0]


def rows_of(html: str, probe: str) -> dict[str, list[str]]:
    """The rows of a probe's first table by their names."""
    (table,) = re.findall(r"<table>.*?</table>", section(html, probe), re.DOTALL)[:1]
    return {name: cells for name, *cells in Page(table).rows}


def told(values: list[float], digits: int = 2) -> str:
    """Mean and sample standard deviation as the page writes them."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def test_each_probe_that_was_asked_has_a_section_in_words(html: str) -> None:
    titles = re.findall(r'<section id="probe-(\w+)" class="probe">\s*<h2>(.*?)</h2>\s*<p class="quiet">', html)
    assert titles == [
        *(("copies", "Copies"), ("membership", "Membership inference"), ("robustness", "Robustness")),
        *(("continual", "Continual learning"), ("search", "Architecture search")),
        ("realism", "Realism and coverage"),
    ]
    assert "an AUC of 0.5 means that these attacks find nothing" in Page(section(html, "membership")).text


def test_without_answers_the_page_is_the_same_to_the_byte(plain: str, html: str) -> None:
    assert "probe" not in plain
    without = re.sub(r'<section id="probe-.*?</section>\n\n\n', "", html, flags=re.DOTALL)
    without = re.sub(r"\.probe .*\n", "", without)
    without = re.sub(r"<dialog.*</script>", "", without, flags=re.DOTALL)
    assert "probe" not in without
    assert without.split() == plain.split()


def test_tables_hold_mean_deviation_answers_and_failures(html: str) -> None:
    rows = rows_of(html, "membership")
    auc, found, loss = (
        [of[name] for (subject, _), of in MEMBERSHIP.items() if subject == "synthetic"]
        for name in ("lira_auc", "lira_tpr_at_1_percent", "loss_auc")
    )
    assert rows["distilled set"] == [told(auc, 3), told([100 * v for v in found]), told(loss, 3), "2", "1"]
    assert rows["full dataset"] == ["0.910", "40.00", "0.800", "1", "0"]
    head = rows["Trained on"]
    assert head == ["Likelihood ratio, AUC", "Likelihood ratio, % found at 1 %", "Loss threshold, AUC", "n", "Failed"]
    assert ["Shadows", "8", "8"] in Page(section(html, "membership")).rows
    robust = [100 * values[0] for (subject, _), values in ROBUST.items() if subject == "synthetic"]
    assert rows_of(html, "robustness")["distilled set"][0] == told(robust)
    assert rows_of(html, "realism")["distilled set"] == ["80.00", "90.00", "−0.012", "0.002", "1", "0"]


def test_what_failed_is_told_and_nothing_of_it_is_markup(html: str) -> None:
    text = Page(section(html, "membership")).text
    assert f"1 failed answer synthetic on convnet-d1-w8-instance {'0' * 16} RunError: {EVIL}" in text
    assert "<b onclick" not in html
    require_self_contained(html)


def test_pictures_are_embedded_and_titled_by_their_sets(html: str) -> None:
    images = [attrs for tag, attrs in Page(section(html, "copies")).tags if tag == "img"]
    names = ["distilled set", "random real images, draw 0", "random real images, draw 1"]
    assert [(attrs["alt"] or "").partition(":")[0] for attrs in images] == names
    assert re.findall(r"<h3>(.*?)</h3>", section(html, "copies")) == names
    random_0, random_1, synthetic = (png for _, png in copies_answers())
    found = [base64.b64decode((attrs["src"] or "").removeprefix("data:image/png;base64,")) for attrs in images]
    assert found == [synthetic, random_0, random_1]


def test_a_wide_picture_is_shrunk(tmp_path: Path) -> None:
    run, (record, _) = Folder.at(tmp_path), copies_answers()[0]
    records.write(run / "results", record)
    png = io.BytesIO()
    Image.new("RGB", (3000, 300), (10, 200, 30)).save(png, format="PNG")
    (made,) = probes.sections(records.read_probes(run / "results"), {record.record_id: [png.getvalue()]})
    (picture,) = made.pictures
    image = Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))
    assert image.size == (1000, 100) and image.getpixel((500, 50)) == (10, 200, 30)


@pytest.mark.parametrize("content", [b"no picture", pairs_of_rows(0)[:-40]], ids=["other", "cut off"])
def test_a_damaged_picture_is_named(tmp_path: Path, content: bytes) -> None:
    run = Folder.at(tmp_path)
    write_students(run)
    (run / "probes").write("nearest-0123456789abcdef.png", content)
    with pytest.raises(ArtefactError, match=r"nearest-0123456789abcdef\.png: damaged picture"):
        report.build(run)


def test_the_curve_goes_through_the_means_over_orders(html: str) -> None:
    svg = section(html, "continual")
    (own,) = drawn(svg, "synthetic")
    random = drawn(svg, "random")
    assert len(random) == 2 and "stroke-dasharray" in svg
    lines = [own, *random]
    assert all(len(line) == 2 for line in lines)
    heights = np.concatenate([line[:, 1] for line in lines])
    means = np.concatenate([np.mean(LEARNED[memory], axis=0) for memory in ("set", "random", "random_bytes")])
    slope, offset = np.polyfit(means, heights, 1)
    np.testing.assert_allclose(slope * means + offset, heights, atol=0.01)
    assert slope < -1
    assert svg.count("fill-opacity: 0.12") == 3
    assert "Means over 2 orders of the classes; bands are one standard deviation." in svg
    assert "random real images (dashed: of as many bytes)" in Page(svg).text
    rows = rows_of(html, "continual")
    averages = {memory: [50 * (first + last) for first, last in orders] for memory, orders in LEARNED.items()}
    named = {"set": "distilled set", "random": "random real images"}
    named |= {"random_bytes": "random real images, of as many bytes"}
    for memory, name in named.items():
        assert (rows[name][0], rows[name][3:]) == (told(averages[memory]), ["2.5 kB", "2", "0"])


def test_bars_are_as_long_as_the_accuracies(html: str) -> None:
    svg = section(html, "robustness")
    first, second = re.findall(r"<svg.*?</svg>", svg, re.DOTALL)
    assert "ε = 8/255" in first and "gaussian noise" in second
    for drawing, names in ((first, (2, 0, 1, 3)), (second, (4, 5))):
        lengths, values = [], []
        for subject in ("synthetic", "random", "full"):
            bars = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: var\(--{subject}\)', drawing)
            corners = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", bar), dtype=np.float64) for bar in bars]
            lengths += [np.ptp(one[:, 0]) for one in corners]
            own = [of for (name, _), of in ROBUST.items() if name == subject]
            values += [np.mean([of[place] for of in own]) for place in names]
        np.testing.assert_allclose(np.array(lengths) / lengths[0], np.array(values) / values[0], rtol=1e-3)


def test_the_scatter_shows_every_architecture_and_says_what_the_ranking_is_worth(html: str) -> None:
    panels = re.findall(r"<figure.*?</figure>", section(html, "search"), re.DOTALL)
    assert [re.findall(r"<h3>(.*?)</h3>", panel)[0] for panel in panels] == [
        *("Ranking: distilled set", "Ranking: random real images", "Ranking: early stopping")
    ]
    places = re.findall(r'<use xlink:href="[^"]+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--synthetic\)', panels[0])
    points = np.array(places, dtype=np.float64)
    proxy = np.array(PROXIES["synthetic", "", 0])
    for pixels, values in ((points[:, 0], proxy), (points[:, 1], np.array(TRUTH))):
        slope, offset = np.polyfit(values, pixels, 1)
        np.testing.assert_allclose(slope * values + offset, pixels, atol=0.01)
        assert abs(slope) > 1
    rows = rows_of(html, "search")
    correlation = stats.spearmanr(proxy, TRUTH).statistic
    regret = max(TRUTH) - TRUTH[int(proxy.argmax())]
    assert f"Spearman {correlation:.2f} (95\N{NO-BREAK SPACE}%:" in panels[0]
    assert f"regret {100 * regret:.2f} points" in panels[0]
    assert rows["distilled set"][0].startswith(f"{correlation:.3f}")
    draws = [stats.spearmanr(PROXIES["random", "", draw], TRUTH).statistic for draw in range(2)]
    assert rows["random real images"][0] == told(draws, 3)
    assert all(f"Draw {draw}: Spearman {value:.2f}".replace("-", "−") in panels[1] for draw, value in enumerate(draws))
    assert rows["full dataset, stopped early"][2:] == ["10.00", "1", "0"]
    picked = [row for row in Page(section(html, "search")).rows if row[0] == "random real images, draw 0"]
    assert [row[-2:] for row in picked] == [[f"{EVIL}-4", f"{EVIL}-4"]]


def test_regimes_of_labels_are_told_apart(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    for labels, accuracy in (("hard", 0.4), ("stored", 0.6)):
        metrics = {"clean_accuracy": accuracy, "robust_accuracy_8": accuracy / 2}
        records.write(run / "results", answer("robustness", metrics, labels=labels))
    records.write(run / "results", answer("robustness", {"clean_accuracy": 0.9}, subject="full", labels="hard"))
    (made,) = probes.sections(records.read_probes(run / "results"), {})
    assert [line.note for line in made.lines] == ["hard labels", "soft labels", ""]
    assert [panel.title for panel in made.panels] == [
        f"Accuracy clean, under attack and corrupted, {labels} labels" for labels in ("hard", "soft")
    ]
    assert all("var(--full)" in panel.svg and "var(--synthetic)" in panel.svg for panel in made.panels)


def test_answers_that_all_failed_have_a_section_too(tmp_path: Path) -> None:
    run = Folder.at(tmp_path)
    records.write(run / "results", make_failure())
    for number, probe in enumerate(("continual", "robustness", "search")):
        records.write(run / "results", make_failure(probe=probe, variant="set 0", record_id=str(number) * 16))
    html = report.build(run)
    for probe in ("continual", "robustness", "search"):
        assert "1 failed answer" in section(html, probe) and "<svg" not in section(html, probe)
    assert rows_of(html, "robustness")["distilled set"] == ["0", "1"]


def test_an_interval_has_a_true_minus_sign() -> None:
    estimate = Estimate(-0.5, -0.75, -0.001)
    assert probe_figures.interval(estimate) == "−0.50 (95\N{NO-BREAK SPACE}%: −0.75 to 0.00)"
    assert probe_figures.interval(Estimate(None, None, None)) == "–"


@needs_browser
def test_a_browser_shows_it_on_a_narrow_screen(html: str, tmp_path: Path) -> None:
    frame = f'''<iframe style="width: 400px" srcdoc="{escape(html)}"></iframe><script>onload = () => {{
        const page = document.querySelector("iframe").contentDocument
        page.querySelectorAll("details").forEach(one => one.open = true)
        const box = one => one.getBoundingClientRect()
        const outside = (one, svg) => box(one).left < box(svg).left - 1 || box(one).right > box(svg).right + 1
        const pictures = [...page.querySelectorAll(".probe img")]
        const drawings = [...page.querySelectorAll(".probe svg")]
        document.title = JSON.stringify([
            page.documentElement.scrollWidth,
            pictures.filter(one => one.complete && one.naturalWidth && box(one).width > 150).length,
            drawings.filter(one => box(one).width > 200 && box(one).height > 80).length,
            drawings.flatMap(svg => [...svg.querySelectorAll("text")].filter(one => outside(one, svg)).length),
        ])
    }}</script>'''
    title = browse(tmp_path, frame, "dump-dom").split("<title>")[1].split("</title>")[0]
    assert json.loads(unescape(title)) == [400, 3, 6, [0] * 6]
