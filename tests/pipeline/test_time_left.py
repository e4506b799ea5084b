"""How long a run still takes: by its plan, by the pace of what is done, and as it is told while a run is under way."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from raydd import config as configs
from raydd.cli.progress import shown_progress
from raydd.core.progress import RUN, SECONDS_LEFT, NoProgress, Numbers, OfPart, Work, about, step
from raydd.ingredients.order import everything, name_of
from raydd.pipeline import execution, time_left
from raydd.pipeline.graph import target
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs.run import Run
from raydd.pipeline.runs.size import counted
from raydd.pipeline.time_left import PlannedTime, TellingTimeLeft, TimeLeft
from tests.support.small import small_run

FIRST, SECOND, THIRD = ("experts", "1"), ("distill", "2"), ("students", "3")


class Clock:
    """A clock that stands still until it is set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Told:
    """Remembers the news of the whole run."""

    def __init__(self) -> None:
        self.news: list[tuple[float, float, Numbers | None]] = []
        self.others: set[str] = set()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if task == RUN:
            self.news.append((done, total, numbers))
        else:
            self.others.add(task.kind)


def of(clock: Clock, in_seconds: bool) -> TimeLeft:
    """Three steps of 10, 60 and 30."""
    return TimeLeft(PlannedTime({FIRST: 10.0, SECOND: 60.0, THIRD: 30.0}, in_seconds), clock)


def test_before_anything_is_done_the_plan_is_told_if_it_is_in_seconds() -> None:
    clock = Clock()
    known, unknown = of(clock, True), of(clock, False)
    for left in (known, unknown):
        left.begin([FIRST], 2)
    assert known.seconds() == 100.0
    assert unknown.seconds() is None


@pytest.mark.parametrize("in_seconds", [True, False])
def test_steps_to_come_go_at_the_pace_of_those_before(in_seconds: bool) -> None:
    clock = Clock()
    left = of(clock, in_seconds)
    left.begin([FIRST], 2)
    clock.now += 10
    left.moved(Work("expert", "0"), 6, 6)
    assert left.seconds() == pytest.approx(10 + 2 * 90)  # half of 10 took 10
    left.moved(Work("expert", "1"), 1, 2)
    assert left.seconds() == pytest.approx(10 / 3 + 90 * 10 / 7.5)
    clock.now += 10
    left.moved(Work("expert", "1"), 6, 6)
    left.end()
    assert left.seconds() == pytest.approx(2 * 90)
    left.begin([SECOND], 1)
    assert left.seconds() == pytest.approx(2 * 90)


def test_a_step_under_way_goes_by_its_own_pace() -> None:
    clock = Clock()
    left = of(clock, True)
    left.begin([SECOND], 1)
    clock.now += 5
    left.moved(Work("distill"), 1, 100)
    assert left.seconds() == pytest.approx(0.99 * 60 + 40)  # too little to go by
    clock.now += 25
    left.moved(Work("distill"), 10, 100)
    assert left.seconds() == pytest.approx(270 + 40 * 5)


def test_what_was_done_before_does_not_count_as_quick() -> None:
    clock = Clock()
    left = of(clock, True)
    left.begin([SECOND], 1)
    left.moved(Work("distill"), 50, 100)
    clock.now += 6
    left.moved(Work("distill"), 60, 100)
    assert left.seconds() == pytest.approx(24 + 40 * 1.0)


def test_what_is_not_planned_is_told_of_by_its_own_pace_alone() -> None:
    clock = Clock()
    left = of(clock, True)
    left.begin([("searches", "0")], 1)
    clock.now += 20
    left.moved(Work("search"), 1, 2)
    assert left.seconds() == pytest.approx(20 + 100)
    left.end()
    assert left.seconds() == pytest.approx(100)


def test_nothing_is_left_in_the_end() -> None:
    clock = Clock()
    left = of(clock, True)
    left.begin([FIRST, SECOND, THIRD], 1)
    clock.now += 1
    left.moved(Work("distill"), 7, 7)
    assert left.seconds() == 0.0
    left.end()
    assert left.seconds() == 0.0


def test_it_is_told_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(), Told()
    monkeypatch.setattr("raydd.pipeline.time_left.time.monotonic", clock)
    left = of(clock, True)
    left.begin([SECOND, THIRD], 2)
    telling = TellingTimeLeft(told, left, told)
    for unit in range(1, 31):
        clock.now += 0.1
        telling.update(Work("distill"), unit, 60)
    assert len(told.news) in (2, 3)
    *_, (done, total, numbers) = told.news
    assert total == 100 and numbers is not None and 0 < done < 100
    assert numbers[SECONDS_LEFT] > 0
    assert told.others == {"distill"}


def test_a_run_that_is_part_of_another_work_does_not_tell_of_its_whole() -> None:
    told = Told()
    OfPart(told).update(RUN, 1, 2, "", {SECONDS_LEFT: 3.0})
    OfPart(told).update(step(1, 2, "distill"), 0, 1)
    assert not told.news and told.others == {"step"}


def test_a_plan_shares_the_work_among_what_is_to_be_made(tmp_path: Path) -> None:
    run = Run.of(configs.load(str(small_run(tmp_path).file)))
    missing = list(everything([target(run, name) for name in ("experts", "distill", "evaluate")]))
    planned = PlannedTime.of(run, missing, counted(run.data), on_ray=False)
    kinds = {name_of(one): one.title for one in missing}
    found = {kinds[name]: spent for name, spent in planned.of_step.items()}
    assert found.keys() == {"experts", "distill", "students"} and min(found.values()) > 0


def test_a_run_tells_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_left, "_OFTEN", 0.0)
    told = Told()
    execution.execute(configs.load(str(small_run(tmp_path).file)), LocalExecutor(), told)
    assert len(told.news) > 5 and all(numbers is not None for *_, numbers in told.news)
    assert all(done <= total for done, total, _ in told.news) and told.news[-1][0] > told.news[0][0]


def test_lines_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, printed = Clock(), io.StringIO()
    monkeypatch.setattr("raydd.cli.progress.time.monotonic", clock)
    with shown_progress(Console(file=printed, width=100), quiet=False) as progress:
        for done in (1, 11):
            progress.update(Work("distill"), done, 40)
            progress.update(RUN, 10, 100, "", {SECONDS_LEFT: 250.0})
            clock.now += 10
        progress.update(Work("distill"), 21, 40)
    assert printed.getvalue().splitlines()[-1].endswith("19 s left; whole run: about 4 min left")


def test_a_terminal_has_a_bar_of_it() -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=100, force_terminal=True)
    with shown_progress(console, quiet=False) as progress:
        progress.update(Work("distill"), 1, 40)
        progress.update(RUN, 10.4, 100, "", {SECONDS_LEFT: 250.0})
    last = printed.getvalue().replace("\x1b", "")
    assert "whole run" in last and "10/100" in last and "4 min" in last


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "5 s"), (42.0, "40 s"), (89.0, "90 s"), (95.0, "2 min"), (1800.0, "30 min"), (9000.0, "2.5 h")],
)
def test_it_is_said_no_finer_than_it_is_known(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_nobody_needs_to_listen() -> None:
    NoProgress().update(RUN, 1, 100, "", {SECONDS_LEFT: 1.0})
