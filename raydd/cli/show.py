"""`raydd show CONFIG...`: what a run will take on this machine, or several runs, or a sweep; the whole config, too.

With `--gpus N` the schedule on more and more GPUs: see `raydd.cli.schedule`.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from raydd import config as configs
from raydd.cli import compare, fields, schedule, tables
from raydd.cli.output import console
from raydd.cli.tables import duration, scaled
from raydd.config import RunConfig
from raydd.config.completion import unsaid
from raydd.core.errors import UserError
from raydd.ingredients.base import Ingredient
from raydd.ingredients.order import name_of
from raydd.pipeline import execution, outlook
from raydd.pipeline.compare import cells
from raydd.pipeline.outlook import RunOutlook, SweepOutlook
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import Run
from raydd.plan import Plan
from raydd.plan.machine import processes_here

_BESIDES = "besides: the start of Ray and of processes, preparing data, reading and writing"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    fields.arguments(parser, several=True)
    parser.add_argument("--config", dest="whole", action="store_true", help="print the whole config, and no plan")
    text = "of several configs: each is run with these seeds, as `raydd compare` does; by default each with its own"
    parser.add_argument("--seeds", metavar="SEED", type=int, nargs="+", help=text)
    text = "what one process computes a second, such as 20G or 1.39e13; by default this machine is measured"
    parser.add_argument("--rate", type=fields.amount, metavar="FLOPS", help=text)
    parser.add_argument("--graph", action="store_true", help="what is there, what will be made, and how it is spread")
    parser.add_argument("--gpus", type=int, metavar="N", help="the schedule on 1, 2, 4, ... and N GPUs")
    text = "with --gpus: take the speed of a finished run"
    parser.add_argument("--from", dest="source", metavar="RUN", help=text)
    text = "with --gpus: bytes a second between them, such as 10G"
    parser.add_argument("--bandwidth", type=fields.amount, metavar="BYTES", help=text)


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Print what is asked for; returns the exit code."""
    files = list(known.config)
    chosen = {file: fields.load_file(file, known.command, rest) for file in dict.fromkeys(files)}
    check(known)
    if len(files) > 1 or known.seeds:
        if twice := [file for file in files if files.count(file) > 1]:
            raise UserError(f"{twice[0]}: is named twice; other seeds are asked for with --seeds")
        _several(chosen, known)
    else:
        _one(chosen[files[0]], known)
        for line in unsaid(configs.said(files[0])) if not known.whole else ():
            console.print(line, soft_wrap=True, markup=False)
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
    of_one = {"config": known.whole, "rate": known.rate, "graph": known.graph, "gpus": known.gpus}
    if len(known.config) > 1 or known.seeds:
        for name, value in of_one.items():
            if value:
                raise UserError(f"--{name}: is for one config, and there are {len(known.config)}; name one")


def _one(chosen: RunConfig, known: argparse.Namespace) -> None:
    """The plan of a run, and of its sweep; or another view of the run."""
    plan = execution.ready_plan(chosen, known.no_ray)
    if known.whole:
        console.print(configs.to_yaml(resolved(chosen)), end="", soft_wrap=True, markup=False)
        return
    if known.graph:
        tables.print_whole(_graph(*execution.graph_of(chosen), plan), console)
        return
    if known.gpus is not None or known.rate is not None:
        _untimed(chosen, plan, known)
    elif outlook.is_too_large(plan):
        console.print(tables.plan(plan, {}, "plan"))
        console.print(
            "not timed: this machine has by far too little memory for it; say with --rate how fast another is"
        )
    else:
        _timed(chosen, plan, known.no_ray)
    for line in _remarks(chosen, plan):
        console.print(line, soft_wrap=True, markup=False)


def _timed(chosen: RunConfig, plan: Plan, no_ray: bool) -> None:
    """The plan in hours of this machine; that of the sweep, too."""
    processes = processes_here(not no_ray, chosen.cluster.threads_per_worker)
    found = outlook.of_run(chosen.name, chosen, plan, processes)
    for line in fields.told_of_methods(chosen):
        console.print(line, soft_wrap=True, markup=False)
    swept = None if chosen.sweep is None else outlook.of_sweep(chosen, processes)
    console.print(tables.plan(plan, found.seconds, f"plan, on this machine{_side_by_side(processes)}"))
    console.print(f"{escape(chosen.name)}: {duration(found.total)} on this machine; {_BESIDES}", soft_wrap=True)
    if swept is not None:
        _sweep(swept, processes)


def _untimed(chosen: RunConfig, plan: Plan, known: argparse.Namespace) -> None:
    """The plan at a rate that is given, or the schedule on several GPUs."""
    if known.gpus is not None:
        console.print(tables.plan(plan, {}, "plan"))
        schedule.show(resolved(chosen), plan, known, console)
    else:
        seconds = {step.work: step.seconds or 0.0 for step in plan.at(known.rate).steps}
        console.print(tables.plan(plan, seconds, f"plan, in one process at {scaled(known.rate)}FLOP/s"))


def _remarks(chosen: RunConfig, plan: Plan) -> Iterator[str]:
    """What the plan does not know, or takes for granted."""
    if plan.facts.published:
        yield f"{chosen.data.source} is not here: planned with its published size; what goes by the data is not checked"
    elif not Run.of(chosen).folder.exists():
        return
    elif there := [one.named for one in execution.graph_of(chosen)[0] if one.is_made() and one.kind != "report"]:
        yield f"there already, and taken as it is: {', '.join(there)}"


def _several(chosen: dict[str, RunConfig], known: argparse.Namespace) -> None:
    """A line for each run, and what all take one after the other."""
    named = compare.named(chosen)
    with_seeds = cells(named, list(dict.fromkeys(known.seeds or [0])))
    runs = {f"{name}, seed {seed}": config for (name, seed), config in with_seeds.items()} if known.seeds else named
    lines = []
    for name, config in runs.items():
        processes = processes_here(not known.no_ray, config.cluster.threads_per_worker)
        plan = execution.ready_plan(config, known.no_ray)
        lines.append(outlook.of_run(name, config, plan, processes))
    table = _lines_table("runs, one after the other, on this machine", lines)
    table.columns[0].footer = f"{len(lines)} runs"
    table.columns[4].footer = duration(sum(line.total for line in lines))
    tables.print_whole(table, console)
    console.print(_BESIDES)


def _sweep(found: SweepOutlook, processes: int) -> None:
    """A line for each point, and what all take side by side."""
    table = _lines_table(f"its sweep, on this machine{_side_by_side(processes)}", found.points)
    table.columns[0].footer = f"{len(found.points)} points"
    table.columns[4].footer = duration(found.shared + found.trials)
    tables.print_whole(table, console)
    guess = "; points are chosen as it goes, and planned as the config itself" if found.is_guess else ""
    console.print(
        f"raydd sweep: {duration(found.shared + found.trials)}, {duration(found.shared)} of them for what points share"
        f"{guess}; {_BESIDES}",
        soft_wrap=True,
    )


def _lines_table(title: str, lines: Sequence[RunOutlook]) -> Table:
    table = Table(title=title, show_footer=True)
    table.add_column("", overflow="fold")
    for name in ("made first", "distill", "students", "time", "students trained", "FLOP", "disk"):
        table.add_column(name, justify="right")
    for line in lines:
        last = line.part("distill", "evaluate")
        trained = next((step.units for step in line.plan.steps if step.work == "evaluate"), 0)
        total = line.plan.total
        table.add_row(
            escape(line.name),
            *(duration(spent) if spent else "" for spent in (line.total - last, line.part("distill"))),
            *map(duration, (line.part("evaluate"), line.total)),
            str(trained),
            scaled(total.flops),
            scaled(total.disk_bytes, "B"),
        )
    return table


def _side_by_side(processes: int) -> str:
    return f", {processes} processes side by side" if processes > 1 else ""


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
