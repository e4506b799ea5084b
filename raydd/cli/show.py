"""`raydd show CONFIG`: the resolved config and the plan; with `--gpus N` the schedule on more and more GPUs."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd import config as configs
from raydd.cli import fields, tables
from raydd.cli.output import console
from raydd.cli.tables import duration, scaled
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.ingredients.base import Ingredient
from raydd.ingredients.order import name_of
from raydd.pipeline import execution
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import CONFIG
from raydd.plan import Plan
from raydd.plan.finished_run import rates_of
from raydd.plan.jobs import Link, works_of
from raydd.plan.measurement import measure
from raydd.plan.rates import Rates
from raydd.plan.schedule import Schedule
from raydd.storage import Folder


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    fields.arguments(parser)
    text = "what one process computes a second, such as 20G or 1.39e13; by default it is measured where it is needed"
    parser.add_argument("--rate", type=fields.amount, metavar="FLOPS", help=text)
    parser.add_argument("--graph", action="store_true", help="what is there, what will be made, and how it is spread")
    parser.add_argument("--gpus", type=int, metavar="N", help="the schedule on 1, 2, 4, ... and N GPUs")
    text = "with --gpus: take the speed of a finished run"
    parser.add_argument("--from", dest="source", metavar="RUN", help=text)
    text = "with --gpus: bytes a second between them, such as 10G"
    parser.add_argument("--bandwidth", type=fields.amount, metavar="BYTES", help=text)


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Print both; returns the exit code."""
    chosen = fields.load(known, rest)
    check(known)
    plan = execution.plan_of(chosen)
    if known.graph:
        tables.print_whole(_graph(*execution.graph_of(chosen), plan), console)
        return 0
    console.print(configs.to_yaml(resolved(chosen)), end="", soft_wrap=True, markup=False)
    console.print(tables.plan(plan if known.rate is None else plan.at(known.rate)))
    if plan.facts.published:
        console.print(f"{chosen.data.source} is not here: planned with its published size")
    if known.gpus is not None:
        show(resolved(chosen), plan, known, console)
    return 0


def check(known: argparse.Namespace) -> None:
    """See that the options go together.

    Raises:
        UserError: naming the one that does not.
    """
    examples = {
        "rate": "the FLOP/s of one process, such as 20G or 1.39e13",
        "gpus": "how many GPUs there are at most, such as 64",
        "bandwidth": "the bytes per second between GPUs, such as 10G",
    }
    for name, example in examples.items():
        value = getattr(known, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name}: must be positive, is {value:g}; give {example}")
    for name, value in (("from", known.source), ("bandwidth", known.bandwidth)):
        if value is not None and known.gpus is None:
            raise UserError(f"--{name}: is for the schedule: say with --gpus on how many GPUs")


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


_WORK = {"ranking": "rank", "labels": "relabel", "students": "evaluate", "union": "distill"}
"""What the plan calls the making of an ingredient, where it has another name. It counts several stages together."""


def _graph(ingredients: Sequence[Ingredient[Any]], to_make: Sequence[Ingredient[Any]], plan: Plan) -> Table:
    """What there is and what will be made, with what it takes and how it is spread."""
    flops = {step.work: step.flops for step in plan.steps}
    missing = set(map(name_of, to_make))
    uncounted = {"report", "curves"} if any(one.label for one in ingredients) else {"report", "curves", "synthetic"}
    table = Table(title="ingredients, each after what it needs", caption="what is there is reused")
    for name in ("ingredient", "needs", "there", "to make", "spread over", "FLOP"):
        table.add_column(name, overflow="fold")
    for one in ingredients:
        made, wanted = one.is_made(), name_of(one) in missing
        work = next((name for name in (_WORK.get(one.title, one.title), one.kind) if name in flops), None)
        cost = "" if not wanted or one.label else "not planned" if work is None else scaled(flops[work])
        table.add_row(
            one.named,
            ", ".join(needed.named for needed in one.needs()),
            "yes" if made else "no" if wanted else "not needed",
            str(one.num_missing()) if wanted else "",
            one.spread,
            "" if one.kind in uncounted else cost,
        )
    return table


def _rates(chosen: RunConfig, plan: Plan, works: list[str], known: argparse.Namespace) -> Rates:
    """Of a finished run where one is named, else as given; what neither says is measured here."""
    rates = Rates(flops_per_second={}, sources={})
    if known.source is not None:
        rates = _of_run(Folder.at(known.source))
    if missing := rates.missing(works):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        others = Rates.equal(missing, known.rate) if known.rate else measure(chosen, plan.facts, missing, device)
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
