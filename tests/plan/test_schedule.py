"""The schedule of a run on N GPUs: against closed forms, against bounds that hold for any, and against a real run."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd import config as configs
from raydd.config import RunConfig
from raydd.pipeline import execution
from raydd.pipeline.runs.resolved import resolved
from raydd.plan import Plan
from raydd.plan.finished_run import rates_of
from raydd.plan.jobs import EXCHANGE, Link, jobs_of, works_of
from raydd.plan.rates import Rates
from raydd.plan.schedule import Schedule
from raydd.plan.simulation import SimulatedJob, Timeline, simulate
from raydd.storage import Folder
from tests.support import ROOT
from tests.support.small import finished_run, raydd

CONFIGS = ROOT / "configs"
RATE = 1e9
FREE = Link(bytes_per_second=math.inf, hop_seconds=0.0)
"""Sums that cost nothing."""


def job(seconds: float, *after: int, part: str = "", **how: object) -> SimulatedJob:
    return SimulatedJob(part=part, seconds=seconds, after=after, **how)


@cache
def planned(name: str) -> tuple[RunConfig, Plan]:
    """A config file with its plan."""
    config = resolved(configs.load(str(CONFIGS / name)))
    return config, execution.plan_of(config)


def on(name: str, gpus: int, link: Link = FREE, **cluster: object) -> Timeline:
    """A config on so many GPUs, at a rate of `RATE`."""
    config, plan = planned(name)
    config = replace(config, cluster=replace(config.cluster, **cluster))
    return simulate(jobs_of(config, plan.facts, Rates.equal(works_of(config, plan.facts), RATE), gpus, link), gpus)


def longest_chain(jobs: list[SimulatedJob]) -> float:
    ends: list[float] = []
    for one in jobs:
        ends.append(one.seconds + max((ends[other] for other in one.after), default=0.0))
    return max(ends)


@st.composite
def any_jobs(draw: st.DrawFn) -> tuple[list[SimulatedJob], int]:
    machines = draw(st.integers(1, 5))
    jobs = []
    for number in range(draw(st.integers(1, 12))):
        after = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        held = draw(st.sampled_from([0, 1, 1, 1, machines]))
        first = draw(st.integers(0, machines - 1))
        jobs.append(
            SimulatedJob(
                part=draw(st.sampled_from("abc")),
                seconds=0.0 if held == 0 else draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
                after=tuple(after),
                machines=held,
                per_machine=draw(st.integers(1, 3)) if held == 1 else 1,
                among=(first, machines) if held == 1 and draw(st.booleans()) else None,
            )
        )
    return jobs, machines


@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@given(any_jobs())
def test_every_schedule_keeps_order_and_bounds(drawn: tuple[list[SimulatedJob], int]) -> None:
    jobs, machines = drawn
    timeline = simulate(jobs, machines)
    work = sum(one.seconds * one.machines for one in jobs)
    assert timeline.makespan >= max(work / machines, longest_chain(jobs)) - 1e-9
    assert timeline.makespan <= sum(one.seconds for one in jobs) + 1e-9
    assert sum(timeline.path().values()) == pytest.approx(timeline.makespan)
    for one, span in zip(jobs, timeline.spans, strict=True):
        assert span.end - span.begin >= one.seconds - 1e-9
        assert all(timeline.spans[other].end <= span.begin + 1e-9 for other in one.after)
    for moment in {span.begin for span in timeline.spans}:
        running = [one for one, span in zip(jobs, timeline.spans, strict=True) if span.begin <= moment < span.end]
        assert sum(one.machines / one.per_machine for one in running) <= machines + 1e-9


@pytest.mark.parametrize(("count", "machines"), [(1, 4), (7, 3), (12, 4), (100, 64)])
def test_equal_jobs(count: int, machines: int) -> None:
    assert simulate([job(2.0)] * count, machines).makespan == pytest.approx(2 * math.ceil(count / machines))


@pytest.mark.parametrize("machines", [1, 2, 8, 32])
def test_amdahls_law(machines: int) -> None:
    """A tenth of the work is in one piece, the rest in as many as there are machines."""
    jobs = [job(10.0, part="serial"), *[job(90.0 / machines, 0, part="parallel")] * machines]
    timeline = simulate(jobs, machines)
    assert 100 / timeline.makespan == pytest.approx(1 / (0.1 + 0.9 / machines))
    assert timeline.path() == pytest.approx({"serial": 10.0, "parallel": 90 / machines})


def test_jobs_on_one_machine_share_its_time() -> None:
    """Five halves fill two machines and begin a third; the fourth idles, as Ray fills one before the next."""
    timeline = simulate([job(1.0, per_machine=2)] * 5, 4)
    assert [span.end for span in timeline.spans] == [2, 2, 2, 2, 1]
    assert simulate([job(1.0, per_machine=2), job(3.0, per_machine=2)], 1).makespan == 4


def test_a_gang_waits_until_all_its_machines_are_free() -> None:
    jobs = [job(1.0), job(3.0), job(2.0, machines=2, part="gang"), job(1.0)]
    timeline = simulate(jobs, 2)
    assert [(span.begin, span.end) for span in timeline.spans] == [(0, 1), (0, 3), (3, 5), (1, 2)]
    assert timeline.critical == (1, 2)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="on 2 machines"):
        simulate([job(1.0, machines=3)], 2)
    with pytest.raises(ValueError):
        simulate([job(1.0, 0)], 2)


def test_an_all_reduce() -> None:
    link = Link(bytes_per_second=1e9, hop_seconds=1e-3)
    assert link.all_reduce(1e9, 1) == 0
    assert link.all_reduce(1e9, 2) == pytest.approx(1 + 2e-3)
    assert link.all_reduce(4e9, 64) == pytest.approx(8 * 63 / 64 + 12e-3)


@pytest.mark.parametrize(
    "name",
    [
        "quickstart.yaml",
        "digits/reduced/dsa_ipc1.yaml",
        "digits/reduced/idc_ipc1.yaml",
        "digits/reduced/pdd_mtt_ipc3.yaml",
        "digits/reduced/pdd_dm_ipc3.yaml",
        "digits/methods/delt.yaml",
        "digits/methods/rded.yaml",
        "digits/methods/ftd.yaml",
    ],
)
def test_one_gpu_does_all_that_is_planned(name: str) -> None:
    """One after the other, as in the plan; and on more, with sums that cost nothing, no slower than on fewer."""
    _, plan = planned(name)
    total = sum(step.flops for step in plan.steps if step.work != "data") / RATE
    assert on(name, 1).makespan == pytest.approx(total, rel=1e-9)
    seconds = [on(name, gpus, pack=1).makespan for gpus in (1, 2, 4, 64)]
    assert seconds[0] > seconds[1] > seconds[2] > seconds[3] > 0
    assert total / seconds[1] <= 2 + 1e-9


FTD = "digits/methods/ftd.yaml"


@pytest.mark.parametrize("gpus", [3, 7, 64])
def test_rows_of_a_batch_are_shared(gpus: int) -> None:
    """As long as the worker takes that has most of them."""
    images, alone = 10 * planned(FTD)[0].method.images_per_class, on(FTD, 1).path()["distill"]
    assert on(FTD, gpus).path()["distill"] == pytest.approx(math.ceil(images / gpus) / images * alone)
    assert on(FTD, gpus, num_workers=2).path()["distill"] == pytest.approx(0.5 * alone)


def test_sums_are_exchanged_twice_for_an_inner_step() -> None:
    """P floats there and as many on the way back; once the gradient of the images."""
    config, plan = planned(FTD)
    method, stored = config.method, next(step for step in plan.steps if step.work == "experts").disk_bytes
    spent = on(FTD, 2, Link(bytes_per_second=1.0, hop_seconds=0.0)).path()["distill" + EXCHANGE]
    size = stored / config.experts.count / (config.experts.training.epochs + 1)
    wanted = method.iterations * (2 * method.synthetic_steps * size + 4 * 10 * method.images_per_class * 64)
    assert spent == pytest.approx(wanted, rel=0.03)  # as the file of an expert has a header


def test_class_groups_are_dealt() -> None:
    """Of whole groups, as many as the worker has that has most of them."""
    groups = planned("digits/methods/delt.yaml")[0].method.num_groups(10)
    alone = on("digits/methods/delt.yaml", 1).path()["distill"]
    assert on("digits/methods/delt.yaml", 3).path()["distill"] == pytest.approx(math.ceil(groups / 3) / groups * alone)


def test_students_train_beside_later_stages_where_gpus_are_left() -> None:
    def overlap(gpus: int) -> bool:
        timeline = on("digits/reduced/pdd_mtt_ipc3.yaml", gpus, num_workers=1)
        spans = list(zip(timeline.jobs, timeline.spans, strict=True))
        last = max(span.end for one, span in spans if one.part == "distill")
        return any(span.begin < last for one, span in spans if one.part == "evaluate")

    assert overlap(2) and not overlap(1)


def test_where_it_stops_scaling() -> None:
    """Experts are four, and do not get shorter; the sums of a slow network grow."""
    config, plan = planned("quickstart.yaml")
    rates = Rates.equal(works_of(config, plan.facts), RATE)
    schedule = Schedule.of(config, plan.facts, rates, 48, FREE)
    assert list(schedule.timelines) == [1, 2, 4, 8, 16, 32, 48]
    assert schedule.speed_up(1) == 1 and schedule.efficiency(2) == schedule.speed_up(2) / 2
    stop = schedule.stops_at
    assert stop is not None and schedule.speed_up(2 * stop) < 1.1 * schedule.speed_up(stop)
    assert stop == 1 or schedule.speed_up(stop) >= 1.1 * schedule.speed_up(stop // 2)
    slow = Schedule.of(config, plan.facts, rates, 4, Link(bytes_per_second=1e6))
    assert slow.stops_at == 1 and "distill, all-reduce" in slow.limit(2) and "cluster.num_workers" in slow.limit(2)


def from_run(out: Path) -> tuple[Timeline, float]:
    """A finished run on one GPU as it says of itself, and the seconds that it really took to make everything."""
    config = configs.load(str(out / "config.yaml"))
    facts = execution.plan_of(config).facts
    rates = rates_of(Folder.at(out), config, facts)
    events = [json.loads(line) for line in (out / "metrics" / "events.jsonl").read_text().splitlines()]
    made = (event for event in events if event["event"] == "step_ended" and event["step"] != "report")
    jobs = jobs_of(config, facts, rates, 1, Link())
    return simulate(jobs, 1), sum(event["seconds"] for event in made)


def test_the_schedule_of_a_finished_run(tmp_path: Path) -> None:
    """What it says of one process is what the run took, but for what surrounds such short work."""
    run = finished_run(tmp_path)
    timeline, actual = from_run(run.out)
    rows = [json.loads(line) for line in (run.out / "metrics" / "distill-000.jsonl").read_text().splitlines()]
    assert timeline.path()["distill"] == pytest.approx(sum(row["seconds"] for row in rows), rel=0.1)
    assert 0.2 * actual < timeline.makespan < 1.1 * actual


@pytest.mark.parametrize("method", ["dc", "dm", "idc", "mtt", "delt"])
def test_iterations_of_a_finished_run_are_those_of_its_own_schedule(tmp_path: Path, method: str) -> None:
    """On as many workers, of whatever it shares out: rows of a batch, classes, or class groups."""
    config, plan = planned(f"digits/methods/{method}.yaml")
    config = replace(config, cluster=replace(config.cluster, num_workers=3))
    packs = math.ceil(config.method.num_groups(10) / config.cluster.groups_at_once)
    name = "recover-000-{:04d}.jsonl" if method == "delt" else "distill-000.jsonl"
    rows = b'{"seconds": 0.5}\n' * config.method.iterations
    for pack in range(packs):
        (Folder.at(tmp_path) / "metrics").write(name.format(pack), rows)
    rates = rates_of(Folder.at(tmp_path), config, plan.facts)
    others = Rates.equal(works_of(config, plan.facts), 1e12)
    jobs = jobs_of(config, plan.facts, rates.joined(others), 3, FREE)
    seconds = sum(job.seconds for job in jobs if job.part == "distill")
    assert seconds == pytest.approx(0.5 * config.method.iterations * packs)


@pytest.mark.slow
def test_the_schedule_of_a_longer_run_is_what_it_took(tmp_path: Path) -> None:
    flags = ["--method.iterations", 60, "--evaluate.num-students", 2, "--evaluate.random-draws", 1]
    assert raydd("run", CONFIGS / "quickstart.yaml", "--no-ray", "--quiet", "--out", tmp_path, *flags) == 0
    timeline, actual = from_run(tmp_path)
    assert 0.75 * actual < timeline.makespan < 1.1 * actual


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path)
    assert raydd("show", run.file, "--gpus", 4, "--from", run.out) == 0
    shown = capsys.readouterr().out
    assert str(run.out) in shown.replace("\n", "") and "critical path on 4 GPUs" in shown
    assert "scaling at" in shown or "scales up to 4" in shown
    assert raydd("show", run.file, "--gpus", 2, "--rate", 1e9, "--bandwidth", 1e6) == 0
    assert "stops scaling at 1 GPUs; on 2 distill, all-reduce" in capsys.readouterr().out


@pytest.mark.parametrize("line", [b'{"iteration": 0}', b"[]", b'"\\xff"', b"\xff", b'{"seconds": "long"}'])
def test_metrics_that_are_damaged_are_named(line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path)
    (run.out / "metrics" / "distill-000.jsonl").write_bytes(line + b"\n")
    assert raydd("show", run.file, "--gpus", 2, "--from", run.out) == 2
    assert "metrics/distill-000.jsonl: damaged" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", 0], "--gpus: must be positive"),
        (["--gpus", 2, "--bandwidth", -1], "--bandwidth: must be positive"),
        (["--gpus", 2, "--rate", "nan"], "--rate: must be positive"),
        (["--from", "runs/some"], "--from: is for the schedule"),
        (["--gpus", 2, "--from", "nowhere"], "nowhere has no config.yaml"),
    ],
)
def test_options_that_make_no_sense(
    flags: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raydd("show", CONFIGS / "quickstart.yaml", *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_rates_measured_here() -> None:
    """Every kind of work of every family can be measured, in seconds."""
    for name in (
        "quickstart.yaml",
        "digits/reduced/idc_ipc1.yaml",
        "digits/methods/delt.yaml",
        "digits/methods/rded.yaml",
    ):
        assert raydd("show", CONFIGS / name, "--gpus", 2) == 0
