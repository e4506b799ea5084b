"""`raydd report CONFIG`: the report of what is in the folder of a config's run."""

import argparse

from raydd.cli import fields
from raydd.cli.fields import arguments
from raydd.cli.steps import print_report
from raydd.pipeline import execution

__all__ = ["arguments", "run"]


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Write it, and print its tables; returns the exit code."""
    print_report(execution.write_report(fields.load(known, rest)))
    return 0
