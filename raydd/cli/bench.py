"""`raydd bench NAME`: raydd against the plain way of doing the same work."""

import argparse
from importlib import import_module

import tyro

from raydd.cli import tables
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
    command.add_argument("name", metavar="NAME", choices=list(BENCHES))
    command.add_argument("--json", metavar="FILE")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Measure, and print what was found; returns the exit code."""
    bench = getattr(import_module(f"raydd.bench.{known.name}"), BENCHES[known.name])
    measured = tyro.cli(bench, prog=f"raydd bench {known.name}", args=rest).run()
    for name, value in measured.items():
        console.print(f"{name}: {value:.4g}")
    if known.json:
        tables.write_json(known.json, measured)
    return 0
