"""`raydd auto DIR_OR_CONFIG`: a set of somebody's own images, by the method that is found to be best for them."""

import argparse
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import fields, tables
from raydd.cli.fields import MakeExecutor
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.pipeline.auto.decide import Request
from raydd.pipeline.auto.portfolio import LABELS
from raydd.pipeline.auto.record import Decision
from raydd.pipeline.auto.rounds import CandidateOutcome
from raydd.pipeline.auto.search import BEST, AutoResult
from raydd.pipeline.auto.search import auto as choose


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "source", metavar="DIR_OR_CONFIG", help="a folder with a folder of images per class, or a config"
    )
    command.add_argument(
        "--images-per-class", "--ipc", type=int, metavar="N", required=True, help="images of each class to make"
    )
    command.add_argument("--hours", type=float, metavar="H", default=0.5, help="that all of it may take; default: 0.5")
    command.add_argument(
        "--labels",
        metavar="|".join(LABELS),
        default="hard",
        help="what students may be told: classes, labels of a set or a teacher, whichever is best; default: hard",
    )
    command.add_argument("--out", metavar="DIR", help="default: runs/auto-NAME-N")
    command.add_argument("--seed", type=int, metavar="S", default=0, help="default: 0")
    command.add_argument("--no-ray", action="store_true", help="try candidates one after the other in this process")
    command.add_argument("--quiet", action="store_true", help="show results and errors, and no progress")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Find and make the set; returns the exit code."""
    return auto(known, lambda: fields.executor(known.no_ray), console)


def auto(known: argparse.Namespace, executor: MakeExecutor, console: Console) -> int:
    """Find and make the set, and print what was decided and what came of it; returns the exit code.

    Args:
        known: the command's arguments.
        executor: whose work it is.
        console: for the tables and the progress.
    """
    asked = {name: getattr(known, name) for name in ("hours", "labels", "seed")}
    request = Request.of(known.source, known.images_per_class, known.out, **asked)

    def announce(decision: Decision) -> None:
        for line in _plan(decision):
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    with shown_progress(console, known.quiet) as progress, executor() as worker:
        result = choose(request, worker, not known.no_ray, progress, announce)
    tables.print_whole(_table(result), console)
    for line in _lines(result):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return 0


def _plan(decision: Decision) -> Iterator[str]:
    yield from decision.reasons
    speed, seconds = decision.speed, decision.seconds
    yield (
        f"planned: {decision.hours:.2g} hours of {decision.arguments['hours']:g}, {speed['processes']} side by side: "
        f"{seconds['shared']:.0f} s for experts and teacher, {seconds['trials']:.0f} s to try, at most "
        f"{seconds['finishing']:.0f} s to finish the best {decision.finalists}, {seconds['overhead']:.0f} s besides"
    )


def _table(result: AutoResult) -> Table:
    """All candidates, and the real images beside."""
    table = Table(title=escape(f"{result.decision.look.dataset}: accuracy of students, %"))
    table.add_column("trained on")
    for name in ("held out, tried", "held out, finished", "test", "minutes"):
        table.add_column(name, justify="right")
    table.add_column("")
    finished = {made.candidate.name: made for made in result.finished}
    for made in result.tried:
        name, last = made.candidate.name, finished.get(made.candidate.name)
        minutes = (made.seconds + (0.0 if last is None else last.seconds)) / 60
        table.add_row(
            escape(name),
            _percent(made.held_out),
            _percent(None if last is None else last.held_out),
            _percent(None if last is None else last.test),
            f"{minutes:.1f}",
            escape(_note(made, last, result)),
        )
    for made in result.finished:
        for subject in ("random", "herding", "full"):
            held_out, test = made.of(subject)
            if test is not None:
                table.add_row(f"{subject}, as {made.candidate.name}", "", _percent(held_out), _percent(test), "", "")
    return table


def _note(made: CandidateOutcome, last: CandidateOutcome | None, result: AutoResult) -> str:
    if error := made.error or (last.error if last is not None else ""):
        return f"failed: {error}"
    if made.candidate.name == result.verdict.chosen.candidate.name:
        return "chosen"
    return "stopped early" if last is None else ""


def _lines(result: AutoResult) -> Iterator[str]:
    """The verdict, and what to do next."""
    yield result.verdict.sentence
    best, config = result.best.uri, (result.folder / BEST).uri
    yield f"the set: raydd.load({best!r})"
    yield f"files:   raydd export {best} --format imagefolder --to DIR"
    yield f"again:   raydd run {config} --out DIR"


def _percent(value: float | None) -> str:
    return "" if value is None else format(100 * value, ".1f")
