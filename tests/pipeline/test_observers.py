"""What is seen of a run while it works: its events, its curves, and who cannot look on."""

import json
import logging
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from raydd import config as configs
from raydd.config.cluster import ClusterConfig
from raydd.core.errors import RunError
from raydd.core.progress import WAITING, NoProgress, ObservedProgress, Work
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.observers import observed
from raydd.storage import Folder
from raydd.storage.event_log import EventLog
from raydd.storage.growing_files import GrowingFolder
from raydd.storage.tensorboard import TensorBoard, folder_of
from tests.support.runs import PATIENCE, free_port
from tests.support.s3_server import BUCKET, keys
from tests.support.small import UPDATES, finished_run, raydd, small_run, state


def events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def recorded(file: Path) -> Iterator[Event]:
    """The events of a TensorBoard file: length, its checksum, the message, its checksum, and so on."""
    content, place = file.read_bytes(), 0
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + size])
        place += 12 + size + 4


def curve(folder: Path, name: str) -> dict[int, float]:
    """A curve of a piece of work, as TensorBoard draws it: what follows a new start replaces what was drawn there."""
    found: dict[int, float] = {}
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for event in recorded(file):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {step: value for step, value in found.items() if step < event.step}
            found |= [(event.step, each.simple_value) for each in event.summary.value if each.tag == name]
    return found


def test_events_tell_the_course_of_a_run_and_of_the_next(tmp_path: Path) -> None:
    small = finished_run(tmp_path)
    first = events(small.out / "metrics" / "events.jsonl")
    assert [event["event"] for event in (first[0], first[-1])] == ["run_began", "run_ended"]
    assert not first[0]["continued"] and first[0]["name"] == "small" and first[0]["executor"] == "LocalExecutor"
    assert first[0]["versions"].keys() >= {"raydd", "torch", "ray", "python"}
    steps = [event["step"] for event in first if event["event"] == "step_ended"]
    assert steps == ["experts", "distill", "evaluate", "report"] == first[0]["steps"]
    counted = "students"  # all of them, beside each
    began = [event["task"] for event in first if event["event"] == "work_began" and event["task"] != counted]
    ended = [event for event in first if event["event"] == "work_ended" and event["task"] != counted]
    tested = [event["numbers"]["test_accuracy"] for event in first if event["event"] == "tested"]
    assert len(tested) == 7 and all(0 <= accuracy <= 1 for accuracy in tested)
    assert Counter(began) == Counter(event["task"] for event in ended)
    assert Counter(Work.titled(task).kind for task in began) == {"expert": 2, "distil": 1, "student": 7}
    assert sum(event["total"] for event in ended) == sum(UPDATES.values())
    assert all(event["seconds"] >= 0 and event["numbers"] for event in ended)
    made = [event["task"] for event in first if event["event"] == "making_ended"]
    titles = ("experts", "curves of experts", "distill", "union", "students", "report")
    assert made == [f"step {number} of 6: {title}" for number, title in enumerate(titles, start=1)]
    assert made == [event["task"] for event in first if event["event"] == "making_began"]
    assert 0 < sum(event["seconds"] for event in first if event["event"] == "step_ended") <= first[-1]["seconds"]
    assert [event["time"] for event in first] == sorted(event["time"] for event in first)
    assert small.does("run") == 0
    every = events(small.out / "metrics" / "events.jsonl")
    assert every[: len(first)] == first
    second = every[len(first) :]
    assert second[0]["continued"]
    assert [e["step"] for e in second if e["event"] == "step_skipped"] == ["experts", "distill", "evaluate"]
    assert not any(event["event"].startswith("work") for event in second)
    assert [event["task"] for event in second if event["event"] == "making_ended"] == ["step 6 of 6: report"]
    assert raydd("verify", small.out) == 0


def test_curves_are_those_of_the_metrics(tmp_path: Path) -> None:
    small = finished_run(tmp_path)
    rows = [json.loads(line) for line in (small.out / "metrics" / "distill-000.jsonl").read_text().splitlines()]
    for name in ("loss", "learned_lr", "expert"):
        wanted = {row["iteration"] + 1: pytest.approx(row[name], rel=1e-6) for row in rows}
        assert curve(small.out / "tensorboard" / "distil", name) == wanted and len(wanted) == UPDATES["distil"]
    points = [json.loads(line) for line in (small.out / "metrics" / "experts.jsonl").read_text().splitlines()]
    for name in ("train_loss", "train_accuracy"):
        wanted = {row["epoch"]: pytest.approx(row[name], rel=1e-6) for row in points if row["expert"] == 1}
        assert curve(small.out / "tensorboard" / "experts" / "1", name) == wanted
    students = {file.parent for file in (small.out / "tensorboard" / "students").rglob("events*")}
    assert len(students) == 7 and all(curve(path, "loss") for path in students)
    names = [str(path.relative_to(small.out / "tensorboard")) for path in students]
    assert any(name.startswith("students/random-0/hard/0/convnet") for name in names)
    assert not any(mark in name for name in names for mark in " ,")


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        (Work("distil"), "distil"),
        (Work("distil", "stage 1"), "distil/stage-1"),
        (Work("expert", "3"), "experts/3"),
        (
            Work("student", "0", "random 2, hard labels, convnet, color_crop"),
            "students/random-2/hard/0/convnet/color_crop",
        ),
        (Work("student", "1", "a plugin's"), "students/a-plugin-s/1"),
        (Work("membership", "loss", "student 0: full, hard labels, x"), "membership/student-0-full/hard/loss/x"),
        (Work("../up", "..", "/etc"), "up/etc/_"),
    ],
)
def test_folders_of_curves_have_plain_names(task: Work, folder: str) -> None:
    assert folder_of(task) == folder


def test_without_trackers_there_are_no_curves(tmp_path: Path) -> None:
    small = small_run(tmp_path, {"cluster.trackers": []})
    assert small.does("experts") == 0
    assert not (small.out / "tensorboard").exists()


class Failing(LocalExecutor):
    """Ends in the middle of the experts."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def make(self, *arguments: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (RunError("expert 1: the loss is nan"), "failed", "expert 1: the loss is nan"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_what_ended_a_run_is_told(tmp_path: Path, error: BaseException, outcome: str, words: str) -> None:
    small = small_run(tmp_path)
    with pytest.raises(type(error)):
        execution.execute(configs.load(str(small.file)), Failing(error), NoProgress())
    *_, step, run = events(small.out / "metrics" / "events.jsonl")
    assert (step["event"], step["step"], step["error"]) == (f"step_{outcome}", "experts", words)
    assert (run["event"], run["error"]) == (f"run_{outcome}", words)


def test_waiting_and_being_thrown_back_are_told(tmp_path: Path) -> None:
    log = EventLog()
    log.update(WAITING, 1, 3)
    log.update(WAITING, 0, 3)
    log.update(WAITING, 3, 3)
    assert not list(tmp_path.iterdir())
    log.open(tmp_path / "events")
    for done in (5, 6, 3, 10):
        log.update(Work("distil"), done, 10, numbers={"loss": float("inf")})
    log.close()
    found = [
        {name: value for name, value in event.items() if name not in ("time", "seconds", "note")}
        for event in events(tmp_path / "events")
    ]
    assert found == [
        {"event": "waiting_began", "task": "waiting for resources", "done": 1, "total": 3},
        {"event": "waiting_ended", "task": "waiting for resources", "total": 3},
        {"event": "work_began", "task": "distil", "done": 5, "total": 10},
        {"event": "work_resumed", "task": "distil", "done": 3, "total": 10, "reached_before": 6},
        {"event": "work_ended", "task": "distil", "total": 10, "numbers": {"loss": None}},
    ]


def test_a_line_that_was_never_completed_goes(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text('{"event": "whole"}\n{"event": "to')
    log = EventLog()
    log.open(file)
    log.tell("next")
    log.close()
    assert [event["event"] for event in events(file)] == ["whole", "next"]


def test_a_curve_goes_on_where_work_did(tmp_path: Path) -> None:
    def draw(*points: tuple[int, float]) -> None:
        board = TensorBoard(GrowingFolder(Folder.at(tmp_path)))
        for done, loss in points:
            board.update(Work("a/b", about="c"), done, 9, numbers={"loss": loss})
        board.close()

    draw((1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0))
    draw((3, 5.0), (4, 6.0), (5, 7.0), (2, 8.0), (3, 9.0))
    assert len(list((tmp_path / "a-b" / "c").iterdir())) == 2
    assert curve(tmp_path / "a-b" / "c", "loss") == {1: 1.0, 2: 8.0, 3: 9.0}


def test_work_goes_on_when_curves_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = small_run(tmp_path)
    small.out.mkdir()
    (small.out / "tensorboard").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert small.does("experts") == 0
    (record,) = (record for record in caplog.records if "TensorBoard" in record.getMessage())
    assert "a part of this path is a file, not a folder" in record.getMessage()
    assert events(small.out / "metrics" / "events.jsonl")[-1]["event"] == "run_ended"


def test_every_observer_hears_everything_but_one_that_failed() -> None:
    class Noting:
        def __init__(self, deaf_from: float) -> None:
            self.heard: list[float] = []
            self.deaf_from = deaf_from

        def update(self, task: Work, done: float, *_: object) -> None:
            if done >= self.deaf_from:
                raise OSError("no space")
            self.heard.append(done)

    shown, failing, other = Noting(99), Noting(2), Noting(99)
    progress = ObservedProgress(shown, failing, other)
    for done in range(4):
        progress.update(Work("work"), done, 9)
    assert (shown.heard, failing.heard, other.heard) == ([0, 1, 2, 3], [0, 1], [0, 1, 2, 3])


def test_events_and_curves_reach_an_object_store(endpoint: str) -> None:
    folder = Folder.at(f"s3://{BUCKET}/observed")

    def work(first: int) -> None:
        looked_on = observed(folder, ClusterConfig(), EventLog(), nullcontext(()), NoProgress(), name="far")
        with looked_on as watched:
            for done in range(first, first + 3):
                watched.progress.update(Work("distil"), done, 6, numbers={"loss": float(done)})

    work(1)
    assert len(keys("observed/tensorboard/distil/")) == 1
    work(4)
    assert len(keys("observed/tensorboard/distil/")) == 2
    names = [json.loads(line)["event"] for line in (folder / "metrics").read("events.jsonl").splitlines()]
    assert names == ["run_began", "work_began", "run_ended", "run_began", "work_began", "work_ended", "run_ended"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_grows_is_uploaded_before_it_is_complete(endpoint: str) -> None:
    folder = Folder.at(f"s3://{BUCKET}/growing")
    growing = GrowingFolder(folder, seconds=0.05)
    file = growing.file("below/lines")
    with file.open("ab", buffering=0) as lines:
        lines.write(b"one\n")
        wait_until(lambda: (folder / "below").has("lines"))
        lines.write(b"two\n")
        wait_until(lambda: (folder / "below").read("lines") == b"one\ntwo\n")
    growing.close()
    assert not growing.path.exists()


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = small_run(tmp_path, {"cluster.trackers": ["tensorboard", "mlflow"]})
    before = state(tmp_path)
    assert raydd("run", small.file, "--quiet") == 2
    assert "cluster.trackers: mlflow is not installed: pip install 'raydd[mlflow]'" in capsys.readouterr().err
    assert small.does("run") == 2
    assert "cluster.trackers: mlflow needs Ray: leave out --no-ray" in capsys.readouterr().err
    assert state(tmp_path) == before


@pytest.fixture
def own_ray() -> Iterator[tuple[int, int]]:
    """A Ray with a dashboard; the ports of its metrics and of that."""
    import ray  # here, because importing Ray takes seconds

    port, dashboard = free_port(), free_port()
    ray.init(
        address="local",
        num_cpus=2,
        dashboard_port=dashboard,
        include_dashboard=True,
        object_store_memory=150_000_000,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=port,
    )
    yield port, dashboard
    ray.shutdown()


@pytest.mark.slow
def test_prometheus_and_the_dashboard_see_the_run(own_ray: tuple[int, int], tmp_path: Path) -> None:
    """On a Ray of its own, with a dashboard, whose State API gives the names."""
    from ray.util.state import list_actors

    from raydd.cluster.executor import RayExecutor
    from raydd.cluster.gauges import Gauges

    port, dashboard = own_ray
    small = small_run(tmp_path)
    with RayExecutor() as executor:
        execution.execute(configs.load(str(small.file)), executor, NoProgress(), "experts")
        gauges = Gauges("by hand")
        for done in range(1, 4):
            gauges.update(Work("distil"), done, 9, numbers={"loss": 0.5, "checkpoint_age": 40.0})
        found: dict[tuple[str, str, str], float] = {}

        def saw(name: str, accepts: Callable[[float], bool]) -> bool:
            found.update(exported(port))
            value = found.get((name, "by hand", "distil"))
            return value is not None and accepts(value)

        wait_until(lambda: saw("raydd_checkpoint_age_seconds", lambda age: age > 40))
        gauges.close()
        wait_until(lambda: saw("raydd_checkpoint_age_seconds", lambda age: age == 0))
    assert found["raydd_units_total", "small", "expert"] == UPDATES["expert"]
    assert 0 < found["raydd_loss", "small", "expert"] < 3
    assert found["raydd_units_total", "by hand", "distil"] == 3
    assert found["raydd_loss", "by hand", "distil"] == 0.5
    assert found["raydd_units_per_second", "by hand", "distil"] == 0
    assert 0 <= found["raydd_busy", "by hand", "CPU"] <= 1
    names = {actor.repr_name for actor in list_actors(f"http://127.0.0.1:{dashboard}", detail=True, limit=1000)}
    assert "experts of small" in names


def exported(port: int) -> dict[tuple[str, str, str], float]:
    """What Ray's Prometheus endpoint says of raydd: values by name, run, and kind or resource."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    found = {}
    for name, tags, value in (match.groups() for match in map(METRIC.match, lines) if match):
        tag = dict(TAG.findall(tags))
        found[name, tag["run"], tag.get("kind") or tag["resource"]] = float(value)
    return found


METRIC = re.compile(r"ray_(raydd_\w+)\{(.*)\} (\S+)$")
TAG = re.compile(r'(\w+)="([^"]*)"')
