"""`raydd import`: sets, expert trajectories and teachers of other code, and a configuration that is ready to run."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from rich.console import Console
from rich.markup import escape

from raydd.cli.output import console
from raydd.core.errors import UserError
from raydd.exchange.answers import ForeignKind
from raydd.exchange.formats import FORMATS
from raydd.exchange.legacy_recipes import LEGACY
from raydd.pipeline.imports.experts_and_teachers import import_experts, import_teacher
from raydd.pipeline.imports.sets import CONFIG, Import, ImportOutcome, import_set
from raydd.storage import yaml_files

_OTHERS: Final[Mapping[str, Callable[[Import], ImportOutcome]]] = {"experts": import_experts, "teacher": import_teacher}
_ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "soft_labels": ("pt", "res", "idc", "kip", "rat_bptt", "pdd"),
    "lr": ("pt", "rat_bptt"),
    "experiment": ("res",),
    "factor": ("idc",),
    "class_order": (*FORMATS, "teacher"),
    "recipe": tuple(FORMATS),
}
"""The formats for which an answer means anything."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("source", metavar="DIR", help="the folder, or the file, of what to import")
    command.add_argument("--format", required=True, choices=[*FORMATS, *_OTHERS], help="whose files they are")
    command.add_argument("--to", required=True, metavar="RUN", help="the run's folder")
    command.add_argument("--config", required=True, metavar="FILE", help="of the run; for a set, its `data:` is enough")
    command.add_argument("--preprocess", choices=["none", "standardise", "zca"], help="the space that images are in")
    command.add_argument("--statistics", choices=["computed", "literature"], help="those of standardise")
    command.add_argument("--soft-labels", choices=get_args(ForeignKind), help="what soft labels are")
    command.add_argument("--lr", type=float, metavar="LR", help="the learned step size, where no file has it")
    command.add_argument("--experiment", type=int, metavar="N", help="of a res file, from 0; default: the last")
    command.add_argument(
        "--factor", type=int, metavar="N", help="of IDC's and NCFM's mosaics: a stored image is N x N training images"
    )
    command.add_argument(
        "--class-order",
        metavar="NAMES|FILE|data",
        help="class names in the order of what is imported: with commas between them, or a line each; or the data's",
    )
    command.add_argument("--recipe", choices=list(LEGACY), help="students' training; default: that of the format")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Import what is named; returns the exit code."""
    return import_(known, console)


def import_(known: argparse.Namespace, console: Console) -> int:
    """Import what is asked for, and say how to go on; returns the exit code.

    Raises:
        UserError: something is wrong or not answered; nothing was written.
    """
    for name, formats in _ASKED.items():
        if getattr(known, name) is not None and known.format not in formats:
            raise UserError(f"--{name.replace('_', '-')}: means nothing for --format {known.format}; leave it out")
    wanted = Import(
        source=Path(known.source).expanduser(),
        format=known.format,
        to=known.to,
        config_file=known.config,
        values=_values(known),
        **{name: getattr(known, name) for name in _ASKED},
    )
    outcome = _OTHERS.get(known.format, import_set)(wanted)
    made = [] if outcome.made is None else [f"imported: {outcome.made.uri}"]
    for line in [*made, *outcome.facts, f"next: raydd run {known.to.rstrip('/')}/{CONFIG}"]:
        console.print(escape(line), soft_wrap=True)
    return 0


def _values(known: argparse.Namespace) -> dict[str, Any]:
    """The configuration file as plain data, with what is said of the data laid over it."""
    file = Path(known.config)
    if not file.is_file():
        raise UserError(f"{file}: there is no such configuration file")
    values = yaml_files.read(file.read_bytes(), str(file))
    data = values.get("data") if isinstance(values, dict) else None
    if not isinstance(data, dict):
        raise UserError(f"{file}: has no `data:`, which says which dataset the import belongs to")
    said = {name: getattr(known, name) for name in ("preprocess", "statistics") if getattr(known, name) is not None}
    return {**values, "data": {**data, **said}}
