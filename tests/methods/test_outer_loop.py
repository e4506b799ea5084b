"""The outer loop: when it saves, what saving costs, and how it ends when it is told to."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.config.cluster import ClusterConfig
from raydd.core.errors import ConfigError
from raydd.core.interruption import Asked, Interrupted, Signals
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.methods import Method, MTTConfig, Start, Task
from raydd.methods.condensation.dm import DMConfig
from raydd.methods.outer_loop import StageRecord, run_stage
from raydd.storage import Folder
from raydd.storage.checkpoints import SHARE, Checkpoints, Rhythm
from tests.support import tiny
from tests.support.tiny import Results, assert_equal

pytestmark = pytest.mark.usefixtures("unignored")

ITERATIONS = 8


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, rhythm: Rhythm, seconds: float, cost: float) -> bool:
        """Work for some seconds and save if that is due, at a cost; whether it was."""
        self.now += seconds
        due = rhythm.is_due()
        if due:
            with rhythm.saving():
                self.now += cost
        return due


def build() -> Method:
    config = DMConfig(images_per_class=1, iterations=ITERATIONS, real_batch_size=4)
    return config.build(Task(data=tiny.data(), network=tiny.NETWORK), Start(), Key.root(0))


class Tells:
    """Tells the work to end by SIGTERM once it has come to an iteration."""

    def __init__(self, method: Method, iteration: int) -> None:
        self._method, self._iteration = method, iteration

    @contextmanager
    def awaited(self, task: str) -> Iterator[Asked]:
        assert task == "distil"
        yield lambda: signal.SIGTERM if self._method.iteration >= self._iteration else None


class Noted(NoProgress):
    """Keeps what it was told, and sends this process a signal when it comes to a number of iterations."""

    def __init__(self, number: int = 0, when: float = -1) -> None:
        self._number, self._when = number, when
        self.ages: list[float] = []

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        assert numbers is not None
        self.ages.append(numbers["checkpoint_age"])
        if done == self._when:
            os.kill(os.getpid(), self._number)


def run(folder: Path, rhythm: Rhythm, progress: Noted | None = None, until: int | None = None) -> Method:
    """Distil in a folder, until told to end in an iteration; by signals of this process otherwise."""
    method, at = build(), Folder.at(folder)
    interruption = Signals() if until is None else Tells(method, until)
    record = StageRecord(Checkpoints(at / "work", "stage"), rhythm, at / "metrics", "distil.jsonl")
    run_stage(method, ITERATIONS, record, progress or Noted(), interruption, task=Work("distil"), shared=True)
    return method


def saved(folder: Path) -> int:
    """The iteration of the newest checkpoint; its metrics are those in the file."""
    loaded = Checkpoints(Folder.at(folder / "work"), "stage").load()
    assert loaded is not None
    state, rows = loaded
    assert [json.loads(line) for line in (folder / "metrics" / "distil.jsonl").read_text().splitlines()] == rows
    assert [row["iteration"] for row in rows] == list(range(len(rows)))
    assert state["iteration"] == len(rows)
    return len(rows)


def test_saving_is_due_after_its_seconds() -> None:
    clock = Clock()
    rhythm = Rhythm(60.0, clock)
    assert [clock.work(rhythm, 20, cost=0.1) for _ in range(7)] == [False, False, True, False, False, True, False]
    assert rhythm.age == 20


def test_costly_saving_is_put_off() -> None:
    """It takes ten seconds, so the second time comes when it has taken twenty of a thousand."""
    clock = Clock()
    rhythm = Rhythm(60.0, clock)
    when = [number for number in range(2100) if clock.work(rhythm, 1, cost=10)]
    assert when == [59, 989, 1479, 1969]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    seconds=st.floats(0, 100), steps=st.lists(st.tuples(st.floats(0.001, 50), st.floats(0, 5)), min_size=1, max_size=60)
)
def test_saving_takes_its_share_and_no_more(seconds: float, steps: list[tuple[float, float]]) -> None:
    """But for what the last time took more than the one before."""
    clock = Clock()
    rhythm = Rhythm(seconds, clock)
    spent, before, last = 0.0, 0.0, 100.0
    for step, cost in steps:
        clock.now += step
        if rhythm.is_due():
            assert clock.now - last >= seconds
            with rhythm.saving():
                clock.now += cost
            spent, last = spent + cost, clock.now
            assert spent <= SHARE * (clock.now - 100) + max(0.0, cost - before) + 1e-9
            before = cost


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_are_a_number_from_0_on(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.checkpoint_seconds: must be a number of seconds from 0 on"):
        ClusterConfig(checkpoint_seconds=seconds)


def test_the_last_iteration_is_saved_whatever_the_time(tmp_path: Path) -> None:
    progress = Noted()
    run(tmp_path, Rhythm(1e6), progress)
    assert saved(tmp_path) == ITERATIONS
    assert all(0 <= earlier < later for earlier, later in zip(progress.ages[:-2], progress.ages[1:-1], strict=True))
    assert len(progress.ages) == ITERATIONS and progress.ages[-1] < progress.ages[-2]


def test_skipped_updates_are_told_with_the_loss(tmp_path: Path) -> None:
    config = MTTConfig(images_per_class=1, iterations=5, synthetic_steps=2, max_start_epoch=4, threshold=1e-9)
    method, notes = config.build(tiny.task(tiny.expert_folder()), Start(), Key.root(0)), Notes()
    at = Folder.at(tmp_path)
    record = StageRecord(Checkpoints(at / "work", "stage"), Rhythm(1e6), at / "metrics", "distil.jsonl")
    run_stage(method, 3, record, notes, Signals(), task=Work("distil"), shared=True)
    assert [note.partition(", ")[2] for note in notes.said] == [f"{n} of {n} updates skipped" for n in (1, 2, 3)]


class Notes(NoProgress):
    """Keeps the words that it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.said.append(note)


@pytest.mark.parametrize("until", [1, 3, ITERATIONS])
def test_told_to_end_it_saves_and_goes_on_from_there(until: int, tmp_path: Path) -> None:
    wanted = run(tmp_path / "whole", Rhythm(1e6))
    with pytest.raises(Interrupted) as ended:
        run(tmp_path / "broken", Rhythm(1e6), until=until)
    assert ended.value.exit_code == 143 and saved(tmp_path / "broken") == until
    found = run(tmp_path / "broken", Rhythm(1e6))
    assert_equal(found.state_dict(), wanted.state_dict())
    assert saved(tmp_path / "broken") == ITERATIONS


def test_when_it_saves_changes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    always = Rhythm(0, clock)  # nothing costs anything on a clock that stands still
    found, wanted = run(tmp_path / "always", always), run(tmp_path / "never", Rhythm(1e6))
    assert_equal(found.state_dict(), wanted.state_dict())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_under_way(number: int, code: int, tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as ended:
        run(tmp_path, Rhythm(1e6), Noted(number, when=4))
    assert ended.value.exit_code == code
    assert saved(tmp_path) == 5  # it came after the fourth iteration was finished
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_hears_no_signals(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path, Rhythm(1e6)))
    thread.start()
    thread.join()
    assert saved(tmp_path) == ITERATIONS


def as_worker(folder: str, until: int) -> Results:
    """One of several workers, of whom the first alone is told to end; what it holds, or held when it ended."""
    import torch.distributed as dist

    method, at = build(), Folder.at(folder)
    clock = Clock()
    rhythm = Rhythm(0 if dist.get_rank() else 1e6, clock)  # the others would save in every iteration
    interruption = Tells(method, 1 if dist.get_rank() else until)
    record = StageRecord(Checkpoints(at / "work", "stage"), rhythm, at / "metrics", "distil.jsonl")
    with pytest.raises(Interrupted):
        run_stage(method, ITERATIONS, record, Noted(), interruption, task=Work("distil"), shared=True)
    return {"images": method.result().images}


def test_workers_that_share_a_stage_end_together(tmp_path: Path) -> None:
    """What the first is told counts, and only that; its word to save likewise."""
    first, second = tiny.on_workers(2, as_worker, str(tmp_path), 3)
    assert saved(tmp_path) == 3
    assert first["images"].equal(second["images"])
