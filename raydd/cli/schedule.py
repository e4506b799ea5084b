"""`raydd show CONFIG --gpus N`: the schedule of a run on more and more GPUs."""

import argparse
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd import config as configs
from raydd.cli.tables import duration, scaled
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.pipeline import execution
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import CONFIG
from raydd.plan import Plan
from raydd.plan.finished_run import rates_of
from raydd.plan.jobs import Link, works_of
from raydd.plan.machine import speed_here
from raydd.plan.rates import Rates
from raydd.plan.schedule import Schedule
from raydd.storage import Folder


def show(chosen: RunConfig, plan: Plan, known: argparse.Namespace, console: Console) -> None:
    """Print the schedule of a run on 1, 2, 4, ... `--gpus` GPUs."""
    works = works_of(chosen, plan.facts)
    rates = _rates(chosen, plan, works, known)
    link = Link() if known.bandwidth is None else Link(bytes_per_second=known.bandwidth)
    schedule = Schedule.of(chosen, plan.facts, rates, known.gpus, link)
    for table in (_rate_table(works, rates), _scaling(schedule), _path(schedule)):
        console.print(table)
    for line in _words(schedule):
        console.print(escape(line), soft_wrap=True)


def _rates(chosen: RunConfig, plan: Plan, works: list[str], known: argparse.Namespace) -> Rates:
    """Of a finished run where one is named, else as given; what neither says is measured here."""
    rates = Rates(flops_per_second={}, sources={})
    if known.source is not None:
        rates = _of_run(Folder.at(known.source))
    if missing := rates.missing(works):
        others = Rates.equal(missing, known.rate) if known.rate else speed_here(chosen, plan.facts)
        rates = rates.joined(others)
    return rates


def _of_run(folder: Folder) -> Rates:
    if not folder.has(CONFIG):
        raise UserError(f"--from: {folder.uri} has no {CONFIG}; name the folder of a finished run")
    done = configs.parse(folder.read(CONFIG), (folder / CONFIG).uri)
    return rates_of(folder, resolved(done), execution.plan_of(done).facts)


def _rate_table(works: list[str], rates: Rates) -> Table:
    table = Table(title="one GPU, or process")
    table.add_column("work")
    table.add_column("FLOP/s", justify="right")
    table.add_column("from", overflow="fold")
    for work in works:
        table.add_row(work, scaled(1 / rates.seconds(work, 1.0)), escape(rates.source(work)))
    return table


def _scaling(schedule: Schedule) -> Table:
    table = Table(title="schedule", caption="without the start of Ray, preparing data, reading and writing")
    for name in ("GPUs", "time", "speed-up", "efficiency"):
        table.add_column(name, justify="right")
    table.add_column("most of the time")
    for count, timeline in schedule.timelines.items():
        path = timeline.path()
        part = max(path, key=path.__getitem__, default="")
        share = f"{part} ({path[part] / timeline.makespan:.0%})" if part else ""
        speed_up, efficiency = f"{schedule.speed_up(count):.2f}", f"{schedule.efficiency(count):.0%}"
        table.add_row(str(count), duration(timeline.makespan), speed_up, efficiency, share)
    return table


def _path(schedule: Schedule) -> Table:
    table = Table(title=f"critical path on {schedule.gpus} GPUs")
    table.add_column("part")
    for name in ("time", "share"):
        table.add_column(name, justify="right")
    for part, seconds in schedule.whole.path().items():
        table.add_row(part, duration(seconds), f"{seconds / schedule.whole.makespan:.1%}")
    return table


def _words(schedule: Schedule) -> Iterator[str]:
    """Where more GPUs are of no use, and why."""
    stop = schedule.stops_at
    if stop is None:
        yield f"scales up to {schedule.gpus} GPUs; there {schedule.limit(schedule.gpus)}"
    else:
        yield f"stops scaling at {stop} GPUs; on {2 * stop} {schedule.limit(2 * stop)}"
