"""`raydd inspect DIR`, or a dataset's name: what is in it, and what is wrong with it."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.markup import escape

from raydd import config as configs
from raydd.cli import findings
from raydd.cli.findings import AboutFiles
from raydd.cli.help import FieldsHelp
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.core.errors import ConfigError, UserError
from raydd.data import DataConfig, problems
from raydd.data.division import AS_PUBLISHED
from raydd.data.folder_layout import TakenFolder, flags_of, take
from raydd.data.giveaway import giveaways
from raydd.data.inspection import Inspection
from raydd.data.inspection import inspect as look_through
from raydd.data.listing import folder_name
from raydd.data.passed_over import division, passed_over
from raydd.data.sources.table import check_source
from raydd.pipeline.auto.record import RECORD
from raydd.pipeline.runs.run import CONFIG
from raydd.sets.preview import preview
from raydd.storage import Folder


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; all others are those of `DataConfig`."""
    text = "a folder of images, which is taken for what it is, or a dataset's name: what data.source is in a config"
    command.add_argument("source", metavar="DIR|SOURCE", help=text)
    command.add_argument("--to", metavar="DIR", help="where findings are written; by default inspect-NAME")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("-h", "--help", action=FieldsHelp, of=lambda known: DataConfig())


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Look through the dataset that is named; returns the exit code."""
    return inspect(known, rest, console)


def inspect(known: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """Decode all images, print what was found and write it to a folder; returns the exit code.

    Problems are findings: they do not make the command fail. What raydd has made is named, and nothing written.

    Args:
        known: the command's arguments.
        rest: fields of `DataConfig`, as flags.
        console: for the tables and the progress.
    """
    if (made := made_here(known.source)) is not None:
        for line in made:
            console.print(line, soft_wrap=True, markup=False)
        return 0
    taken = _taken(known.source)
    fields = ["--source", known.source] if taken is None else flags_of(taken.data, "--")
    config = tyro.cli(
        DataConfig,
        prog="raydd inspect DIR|SOURCE [--to DIR] [--quiet]",
        description="Decode every image of a dataset once, and tell what was found.",
        args=[*fields, *rest],
    )
    name = known.source if taken is None else folder_name(Folder.at(taken.data.root or ""))
    folder = Folder.at(known.to or "inspect-" + "".join(c if c.isalnum() or c in "-_." else "-" for c in name))
    folder.check_writable()
    with shown_progress(console, known.quiet) as progress:
        found = look_through(config, progress)
    given = division(config)
    about = AboutFiles(
        said=(*(() if taken is None else taken.said), AS_PUBLISHED if given is None else given.in_words()),
        passed_over=passed_over(config),
        giveaways=tuple(giveaways(found.by_class)),
    )
    findings.print_all(found, about, console)
    _write(found, about, folder)
    console.print(f"grid.png, summary.json, duplicates.csv, problems.csv: {escape(folder.uri)}", soft_wrap=True)
    if taken is not None:
        flags = shlex.join(flags_of(taken.data, "--data."))
        console.print(f"a run reads it with {flags}", soft_wrap=True, markup=False)
    return 0


def _taken(source: str) -> TakenFolder | None:
    """The folder that is meant; None where it is the name of a dataset."""
    try:
        check_source(source)
    except ConfigError as error:
        if "/" not in source and source not in (".", "..") and not Path(source).exists():
            raise UserError(f"{error}; nor is there a folder {source} here") from error
        return take(source)
    return None


def made_here(where: str) -> tuple[str, ...] | None:
    """What a folder is that raydd has made, and what reads it, in sentences; None of others."""
    if "://" not in where and not Path(where).is_dir():
        return None
    folder = Folder.at(where)
    if folder.has(RECORD):
        return (f"{folder.uri} is what raydd auto has made; the same command goes on with it, best.yaml is its config",)
    if not folder.has(CONFIG):
        return None
    config = configs.parse(folder.read(CONFIG), (folder / CONFIG).uri)
    data, method = config.data, config.method
    return (
        f"{folder.uri} is the folder of a run, not of images: {config.name}, {method.name} with "
        f"{config.images_per_class} images per class of {data.source}",
        f"in it: {', '.join(folder.folders())}",
        f"its students: raydd report {where}; whether all files are as they were written: raydd verify {where}",
        f"its data: raydd inspect {data.source}{f' --root {data.root}' if data.root else ''}",
    )


def _write(found: Inspection, about: AboutFiles, folder: Folder) -> None:
    copies = [
        (str(number), split, found.class_names[label], where)
        for number, group in enumerate(found.duplicates)
        for split, label, where in group
    ]
    problems.write_csv(folder, "duplicates.csv", ("group", "split", "class", "where"), copies)
    problems.write(found.problems, folder)
    if found.tiles:
        folder.write("grid.png", _grid(found))
    folder.write("summary.json", json.dumps(_summary(found, about), indent=2).encode())


def _summary(found: Inspection, about: AboutFiles) -> dict[str, Any]:
    splits = {
        split: {
            "decoded": sum(counts),
            "undecodable": found.lost(split),
            "copies": found.repeated(split),
            "per_class": [[name, count] for name, count in zip(found.class_names, counts, strict=True)],
        }
        for split, counts in found.counts.items()
    }
    return {
        "dataset": found.dataset,
        "splits": splits,
        "stored": dict(found.stored.most_common()),
        "stored_by_class": {
            name: dict(own.most_common()) for name, own in zip(found.class_names, found.by_class, strict=True)
        },
        "told_by": {
            one.what: {"accuracy": round(one.accuracy, 4), "chance": one.chance}
            for one in about.giveaways
            if one.label is None
        },
        "passed_over": dict(about.passed_over),
        "test_images_in_train": found.leaked(),
        "images_in_several_classes": len(found.contradicting()),
        "problems": len(found.problems),
    }


def _grid(found: Inspection) -> bytes:
    """A PNG with a row for each class that is shown, and its name before it."""
    labels = torch.tensor([label for label, _ in found.tiles])
    return preview(_on_white([tile for _, tile in found.tiles]), labels, found.class_names)


def _on_white(tiles: Sequence[Image.Image]) -> torch.Tensor:
    """Images of different sizes in the middle of squares of one size, uint8 [M, 3, S, S]."""
    side = max(max(tile.size) for tile in tiles)
    squares = np.full((len(tiles), side, side, 3), 255, np.uint8)
    for square, tile in zip(squares, tiles, strict=True):
        left, top = (side - tile.width) // 2, (side - tile.height) // 2
        square[top : top + tile.height, left : left + tile.width] = np.asarray(tile)
    return torch.from_numpy(squares).permute(0, 3, 1, 2)
