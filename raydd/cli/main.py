"""The command line: parse, call, print.

Exit codes: 0 done, 1 the work broke off, 2 a user's mistake (one message), 130 and 143 interrupted (SIGINT, SIGTERM).
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import tyro
from rich.console import Console
from rich.markup import escape

from raydd import config
from raydd.bench.experts import ExpertsBench
from raydd.bench.matching import MatchingBench
from raydd.bench.recover import RecoverBench
from raydd.bench.scaling import ScalingBench
from raydd.bench.students import StudentsBench
from raydd.bench.timing import Bench
from raydd.cli import append, compare, export, imports, inspect, probes, query, schedule, submit, sweep, tables
from raydd.cli.progress import shown_progress
from raydd.config import RunConfig
from raydd.core.errors import RunError, UserError
from raydd.core.interruption import Interrupted, heeded
from raydd.core.version import __version__
from raydd.pipeline import execution
from raydd.pipeline.executor import Executor
from raydd.pipeline.local import LocalExecutor
from raydd.storage import Folder

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

_BENCHES: dict[str, Callable[..., Bench]] = {
    "matching": MatchingBench,
    "experts": ExpertsBench,
    "students": StudentsBench,
    "recover": RecoverBench,
    "scaling": ScalingBench,
}

_STEPS = {
    "run": ("report", "make everything the config names; reuse what exists, resume what is unfinished"),
    "experts": ("experts", "train the expert trajectories"),
    "teacher": ("teacher", "train the teacher, or take it over"),
    "rank": ("rank", "rank the real images by the teacher"),
    "distill": ("distill", "make the distilled set, and the experts or the teacher that it needs"),
    "evaluate": ("evaluate", "train the students, and make what they need"),
    "probe": ("probe", "ask what evaluate.probes names, and make what that needs"),
}

_USAGE = {"show": f"[--no-ray] [--quiet]{schedule.USAGE}", "submit": submit.USAGE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        with heeded():
            return _main(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except RunError as error:
        errors.print(f"[bold red]stopped:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt as interrupt:
        errors.print("interrupted; the same command goes on from here")
        return interrupt.exit_code if isinstance(interrupt, Interrupted) else 130


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _main(arguments: list[str]) -> int:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{ascii(argument)}: not UTF-8, and so no name that all files could keep") from error
    parser = _parser(compares_runs=arguments[:1] == ["report"] and not any(map(_is_config, arguments)))
    known, rest = parser.parse_known_args(arguments)
    handler: Callable[[argparse.Namespace, list[str]], int] = known.handler
    return handler(known, rest)


def _is_config(argument: str) -> bool:
    return argument.endswith((".yaml", ".yml"))


def _parser(compares_runs: bool) -> argparse.ArgumentParser:
    """All commands.

    Args:
        compares_runs: whether `report` is about the folders of runs, and not about a config's.
    """
    parser = argparse.ArgumentParser(prog="raydd", description="Dataset distillation on Ray.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _STEPS.items():
        _config_command(commands, name, text, _step)
    text = "write the report of CONFIG's run, or compare RUN..."
    if compares_runs:
        runs = commands.add_parser("report", help=text, description="Compare runs; of a CONFIG (.yaml): its report.")
        query.arguments(runs)
        runs.set_defaults(handler=_query)
    else:
        _config_command(commands, "report", text, _report)
    _config_command(commands, "sweep", "try other values of fields; the best by validation accuracy", _sweep)
    show = _config_command(commands, "show", "print the resolved config and the plan", _show)
    schedule.arguments(show)
    sent = _config_command(commands, "submit", "have a Ray cluster do `run`, and follow it", _submit)
    submit.arguments(sent)
    comparison = commands.add_parser("compare", help="make several configs with several seeds; one table of all")
    compare.arguments(comparison)
    comparison.set_defaults(handler=_compare)
    importer = commands.add_parser("import", help="take over sets, experts and teachers of other code")
    imports.arguments(importer)
    importer.set_defaults(handler=_import)
    exporter = commands.add_parser("export", help="write a distilled set for use without raydd")
    export.arguments(exporter)
    exporter.set_defaults(handler=_export)
    appender = commands.add_parser("append", help="join distilled sets of disjoint classes into one")
    append.arguments(appender)
    appender.set_defaults(handler=_append)
    inspector = commands.add_parser("inspect", help="counts, duplicates and problems of a dataset", add_help=False)
    inspect.arguments(inspector)
    inspector.set_defaults(handler=_inspect)
    verify = commands.add_parser("verify", help="check every sha256 and schema of a run")
    verify.add_argument("run", metavar="RUN")
    verify.set_defaults(handler=_verify)
    bench = commands.add_parser("bench", help="measure against the plain way of doing the same work", add_help=False)
    bench.add_argument("name", metavar="NAME", choices=list(_BENCHES))
    bench.add_argument("--json", metavar="FILE")
    bench.set_defaults(handler=_bench)
    return parser


def _config_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    handler: Callable[[argparse.Namespace, list[str]], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, add_help=False)
    command.add_argument("config", metavar="CONFIG")
    command.add_argument("--no-ray", action="store_true")
    command.add_argument("--quiet", action="store_true")
    command.add_argument("-h", "--help", action=_Help, nargs=0)
    command.set_defaults(handler=handler, command=name)
    return command


class _Help(argparse.Action):
    """Lists every field with its value: that of the config named before, else the default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> NoReturn:
        _load(namespace, ["--help"])
        sys.exit()


def _load(known: argparse.Namespace, rest: list[str]) -> RunConfig:
    """The config file with the flags laid over it."""
    default = RunConfig() if known.config is None else config.load(known.config)
    with _plain_errors():
        chosen = tyro.cli(
            RunConfig,
            prog=f"raydd {known.command} CONFIG {_USAGE.get(known.command, '[--no-ray] [--quiet]')}",
            description=f"{known.command}: every field of the config is a flag.",
            default=default,
            args=rest,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )
    return config.from_mapping(config.to_mapping(chosen))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Keep tyro's boxes narrow enough to read where there is no terminal."""
    os.environ.setdefault("COLUMNS", "100")
    yield


def _step(known: argparse.Namespace, rest: list[str]) -> int:
    chosen = _load(known, rest)
    last_step = _STEPS[known.command][0]
    with shown_progress(console, known.quiet) as progress, _executor(known.no_ray) as executor:
        run = execution.execute(chosen, executor, progress, last_step)
    if last_step in ("evaluate", "report"):
        tables.print_whole(tables.results(run), console)
    if last_step in ("probe", "report"):
        probes.print_all(run, console)
    if last_step == "report":
        console.print(f"report: {escape((run.folder / 'report.html').uri)}", soft_wrap=True)
    return 0


@contextmanager
def _executor(no_ray: bool) -> Iterator[Executor]:
    """Who does the work; Ray is imported where it is used."""
    if no_ray:
        yield LocalExecutor()
    else:
        from raydd.cluster.executor import RayExecutor

        with RayExecutor() as executor:
            yield executor


def _report(known: argparse.Namespace, rest: list[str]) -> int:
    run = execution.write_report(_load(known, rest))
    tables.print_whole(tables.results(run), console)
    probes.print_all(run, console)
    console.print(f"report: {escape((run.folder / 'report.html').uri)}", soft_wrap=True)
    return 0


def _query(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("report", rest)
    return query.report(known, console)


def _show(known: argparse.Namespace, rest: list[str]) -> int:
    chosen = _load(known, rest)
    schedule.check(known)
    plan = execution.plan_of(chosen)
    console.print(config.to_yaml(chosen.sized()), end="", soft_wrap=True, markup=False)
    console.print(tables.plan(plan if known.rate is None else plan.at(known.rate)))
    if plan.facts.published:
        console.print(f"{chosen.data.source} is not here: planned with its published size")
    if known.gpus is not None:
        schedule.show(chosen.sized(), plan, known, console)
    return 0


def _sweep(known: argparse.Namespace, rest: list[str]) -> int:
    chosen = _load(known, rest)
    return sweep.sweep(chosen, lambda: _executor(known.no_ray), known.no_ray, known.quiet, console)


def _submit(known: argparse.Namespace, rest: list[str]) -> int:
    return submit.submit(_load(known, rest), known, rest, console)


def _import(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("import", rest)
    return imports.import_(known, console)


def _export(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("export", rest)
    return export.export(known, console)


def _append(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("append", rest)
    return append.append(known, console)


def _compare(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("compare", rest)
    return compare.compare(known, lambda: _executor(known.no_ray), console, errors)


def _inspect(known: argparse.Namespace, rest: list[str]) -> int:
    with _plain_errors():
        return inspect.inspect(known, rest, console)


def _verify(known: argparse.Namespace, rest: list[str]) -> int:
    _refuse("verify", rest)
    for checked in execution.verify(Folder.at(known.run)):
        console.print(f"intact: {escape(checked)}", soft_wrap=True)
    return 0


def _refuse(command: str, rest: list[str]) -> None:
    """Fail where arguments are left over."""
    if rest:
        raise UserError(f"{command}: there is no option {rest[0]}")


def _bench(known: argparse.Namespace, rest: list[str]) -> int:
    measured = tyro.cli(_BENCHES[known.name], prog=f"raydd bench {known.name}", args=rest).run()
    for name, value in measured.items():
        console.print(f"{name}: {value:.4g}")
    if known.json:
        tables.write_json(known.json, measured)
    return 0
