"""`raydd bench NAME`: raydd against the plain way of doing the same work."""

import argparse
from importlib import import_module
from typing import Any

import tyro

from raydd.cli import tables
from raydd.cli.help import FieldsHelp
from raydd.cli.output import console

BENCHES = {
    "matching": "MatchingBench",
    "experts": "ExpertsBench",
    "students": "StudentsBench",
    "recover": "RecoverBench",
    "scaling": "ScalingBench",
}
"""Modules of `raydd.bench`, with their class."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; all others are fields of the bench."""
    command.add_argument("name", metavar="NAME", choices=list(BENCHES), help=f"one of {', '.join(BENCHES)}")
    command.add_argument("--json", metavar="FILE", help="write what was measured to a file, too")
    command.add_argument("-h", "--help", action=FieldsHelp, of=lambda known: known.name and bench_class(known.name)())


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Measure, and print what was found; returns the exit code."""
    measured = tyro.cli(bench_class(known.name), prog=f"raydd bench {known.name}", args=rest).run()
    for name, value in measured.items():
        console.print(f"{name}: {value:.4g}")
    if known.json:
        tables.write_json(known.json, measured)
    return 0


def bench_class(name: str) -> Any:
    """The class of a bench."""
    return getattr(import_module(f"raydd.bench.{name}"), BENCHES[name])
