"""What is said while work goes on: bars on a terminal, lines anywhere else, and results of sets as they come."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydd import __version__
from raydd.cli import opening
from raydd.cli import progress as shown
from raydd.core.progress import ACCURACY, STEP, TESTED, WAITING, Work, result, step
from raydd.core.set_results import SetResults
from raydd.ingredients.base import Ingredient
from raydd.pipeline import graph
from raydd.pipeline.auto import rounds

NETWORK = "convnet-d2-w32-instance, color_crop_cutout_scale_rotate"


def news(number: int, name: str, count: int = 3, setting: str = NETWORK) -> Work:
    """That a student of a set is tested."""
    return result(number, count, f"{name} labels, {setting}")


def lines(width: int = 100) -> tuple[io.StringIO, Console]:
    """A console that is no terminal, and what it prints."""
    printed = io.StringIO()
    return printed, Console(file=printed, width=width)


def test_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, console = lines()
    now = 0.0
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    with shown.shown_progress(console, quiet=False) as progress:
        progress.update(step(4, 7, "distill"), 0, 1)
        for done in range(1, 41):
            now += 1.0
            progress.update(Work("distil"), done, 40, f"loss {1 / done:.3f}")
        progress.update(step(4, 7, "distill"), 1, 1)
    assert printed.getvalue().splitlines() == [
        "step 4 of 7: distill",
        "distil: 11/40, 1.00/s, 29 s left, loss 0.091",
        "distil: 21/40, 1.00/s, 19 s left, loss 0.048",
        "distil: 31/40, 1.00/s, 9 s left, loss 0.032",
        "distil: 40/40, loss 0.025",
    ]


def test_many_experts_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one every ten seconds, of all that are known, with the time that is left of them."""
    printed, console = lines()
    now = 0.0
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    with shown.shown_progress(console, quiet=False) as progress:
        for epoch in range(1, 13):
            for number in range(4):
                now += 0.5
                progress.update(Work("expert", str(number)), epoch, 12, "accuracy 0.5")
    assert printed.getvalue().splitlines() == [
        "4 experts: 21/48, 1.70/s, 16 s left, accuracy 0.5",
        "4 experts: 41/48, 1.85/s, 4 s left, accuracy 0.5",
    ]


def test_work_that_goes_on_counts_its_rate_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, console = lines()
    now = 0.0
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    with shown.shown_progress(console, quiet=False) as progress:
        progress.update(Work("distil"), 90, 100)
        now = 10.0
        progress.update(Work("distil"), 95, 100)
    assert printed.getvalue() == "distil: 95/100, 0.50/s, 10 s left\n"


def test_a_set_is_one_line_when_all_its_students_are_tested() -> None:
    printed, console = lines()
    with shown.shown_progress(console, quiet=False) as progress:
        progress.update(step(5, 6, "students"), 0, 1)
        for number, (one, other) in enumerate([(0.7, 0.9), (0.72, 0.92), (0.74, math.nan)]):
            progress.update(Work("student", str(number), f"random 1, hard labels, {NETWORK}"), 200, 200, "loss 0.1")
            progress.update(news(number, "random 1, hard"), 1, 1, "", {ACCURACY: one})
            progress.update(news(number, "synthetic, stored"), 1, 1, "", {ACCURACY: other})
        progress.update(news(0, "full, hard", 1), 1, 1, "", {ACCURACY: 0.993})
        progress.update(news(4, "init, hard", 5, "resnet18"), 1, 1, "", {ACCURACY: 0.5})
        progress.update(step(5, 6, "students"), 1, 1)
    assert printed.getvalue().splitlines() == [
        "step 5 of 6: students",
        f"test accuracy of {NETWORK}:",
        "  random 1, hard labels: 72.0 ± 2.0 % (3 students)",
        "  synthetic, stored labels: 91.0 ± 1.4 % (3 students, 1 failed)",
        "  full, hard labels: 99.3 % (1 student)",
        "test accuracy of resnet18:",
        "  init, hard labels: 50.0 % (1 of 5 students)",
    ]


def test_sets_without_a_number() -> None:
    results = SetResults()
    assert list(results.add(result(0, 1, "of a plugin"), {ACCURACY: math.nan})) == [
        "test accuracy:",
        "  of a plugin: none (1 student, 1 failed)",
    ]
    assert list(results.rest()) == []


def test_on_a_terminal_is_a_bar_in_100_columns() -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=100, force_terminal=True, highlight=False)
    with shown.shown_progress(console, quiet=False) as progress:
        progress.update(Work("distil"), 1, 4, "loss 0.5")
        progress.update(Work("distil"), 2, 4, "loss 0.4")
        progress.update(Work("student", "0", f"random 1, hard labels, {NETWORK}"), 1, 200)
        progress.update(Work("student", "0", f"random 1, hard labels, {NETWORK}"), 200, 200)
        progress.update(news(0, "random 1, hard", 1), 1, 1, "", {ACCURACY: 0.5})
        progress.update(step(2, 3, "students"), 0, 1)
        progress.update(step(2, 3, "students"), 1, 1)
    found = printed.getvalue()
    told = (
        "distil",
        "━",
        "2/4",
        "student 0: random 1, hard labels ",
        "50.0 % (1 student)",
        "step 2 of 3: students: done",
    )
    assert all(words in found for words in told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "{file}"], "writes runs/one, on Ray, which starts on this machine if there is work"),
        (["run", "{file}", "--no-ray", "--out", "two"], "writes two, in this process, without Ray"),
        (["distill", "{file}", "--out=a", "--out=three"], "writes three, on Ray"),
        (["run", "--help", "{file}"], None),
        (["run", "{file}", "--quiet"], None),
        (["run", "missing.yaml"], None),
        (["run", "{file}", "--out"], None),
        (["run", "{broken}"], None),
        (["run", "{plain}"], None),
    ],
)
def test_what_is_said_at_once(arguments: list[str], said: str | None, tmp_path: Path) -> None:
    contents = {"file": "out: runs/one\nname: one\n", "broken": "out: [", "plain": "- 1"}
    files = {name: tmp_path / f"{name}.yaml" for name in contents}
    for name, text in contents.items():
        files[name].write_text(text)
    found = opening.line([argument.format(**files) for argument in arguments])
    assert found is None if said is None else found is not None and found.startswith(f"raydd {__version__}: {said}")


def test_a_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:6379")
    found = opening.line(["run", "--out", "x"])
    assert found is not None and found.endswith("on the Ray cluster at 192.0.2.7:6379")


def kinds(parent: type[Ingredient[Any]] = Ingredient) -> Iterator[type[Ingredient[Any]]]:
    """All kinds of ingredients that are known when a run is."""
    for kind in parent.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_no_piece_of_work_is_taken_for_a_step() -> None:
    """What Ray counts is told by a title, whose first word is its kind."""
    assert graph.target
    titles = [kind.title for kind in kinds() if hasattr(kind, "title")]
    assert {"students", "searches for step sizes", "report"} <= set(titles)
    assert not [title for title in titles if Work.titled(f"{title} of a run").kind in (STEP, TESTED, WAITING.kind)]


def test_news_of_one_candidate_among_several_say_whose_they_are() -> None:
    printed, console = lines()
    with shown.shown_progress(console, quiet=False) as progress:
        own = rounds._OfCandidate(progress, "idc")
        for number, accuracy in enumerate((0.5, 0.5)):
            own.update(news(number, "synthetic, hard", 2), 1, 1, "", {ACCURACY: accuracy})
        own.update(Work("distil"), 20, 20, "loss 1")
    assert printed.getvalue().splitlines() == [
        f"test accuracy of {NETWORK}:",
        "  idc: synthetic, hard labels: 50.0 ± 0.0 % (2 students)",
        "distil of idc: 20/20, loss 1",
    ]
