"""`raydd inspect SOURCE`: what is in a dataset, and what is wrong with it."""

import argparse
import io
import json
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydd.cli import tables
from raydd.cli.help import FieldsHelp
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.data import DataConfig, problems
from raydd.data.inspection import Inspection
from raydd.data.inspection import inspect as look_through
from raydd.sets.synthetic import preview
from raydd.storage import Folder

_MOST_CLASSES: Final = 20
_MOST_SIZES: Final = 10
_MOST_PROBLEMS: Final = 20


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; all others are those of `DataConfig`."""
    command.add_argument("source", metavar="SOURCE", help="a dataset's name: what data.source is in a config")
    command.add_argument("--to", metavar="DIR", help="where findings are written; by default inspect-SOURCE")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("-h", "--help", action=FieldsHelp, of=lambda known: DataConfig())


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Look through the dataset that is named; returns the exit code."""
    return inspect(known, rest, console)


def inspect(known: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """Decode all images, print what was found and write it to a folder; returns the exit code.

    Problems are findings: they do not make the command fail.

    Args:
        known: the command's arguments.
        rest: fields of `DataConfig`, as flags.
        console: for the tables and the progress.
    """
    config = tyro.cli(
        DataConfig,
        prog="raydd inspect SOURCE [--to DIR] [--quiet]",
        description="Decode every image of a dataset once, and tell what was found.",
        args=["--source", known.source, *rest],
    )
    folder = Folder.at(known.to or "inspect-" + "".join(c if c.isalnum() or c in "-_." else "-" for c in config.source))
    folder.check_writable()
    with shown_progress(console, known.quiet) as progress:
        found = look_through(config, progress)
    _print(found, console)
    _write(found, folder)
    console.print(f"grid.png, summary.json, duplicates.csv, problems.csv: {escape(folder.uri)}", soft_wrap=True)
    return 0


def _print(found: Inspection, console: Console) -> None:
    tables.print_whole(_classes(found), console)
    tables.print_whole(_sizes(found.stored), console)
    for line in _findings(found):
        console.print(line, soft_wrap=True)
    if found.problems:
        tables.print_whole(_problems(found), console)


def _classes(found: Inspection) -> Table:
    """Images of each class; of many classes the extremes."""
    table = Table(title=escape(found.dataset), show_footer=True)
    few = len(found.class_names) <= _MOST_CLASSES
    table.add_column(f"{len(found.class_names)} classes", "all", overflow="fold")
    for split, counts in found.counts.items():
        table.add_column(split, f"{sum(counts):,}", justify="right", overflow="fold")
    columns = [list(map(str, counts)) if few else _extremes(counts, found) for counts in found.counts.values()]
    for cells in zip(found.class_names if few else ("fewest", "median", "most"), *columns, strict=True):
        table.add_row(*map(escape, cells))
    return table


def _extremes(counts: list[int], found: Inspection) -> list[str]:
    """The smallest and the largest class with their sizes, and the median of all sizes between them."""
    smallest, largest = (f"{end(counts):,} ({found.class_names[counts.index(end(counts))]})" for end in (min, max))
    return [smallest, f"{median(counts):,g}", largest]


def _sizes(stored: Counter[str]) -> Table:
    table = Table(title="as stored")
    table.add_column("width x height, mode")
    for name in ("images", "%"):
        table.add_column(name, justify="right")
    common = stored.most_common(_MOST_SIZES)
    if rest := stored.total() - sum(count for _, count in common):
        common.append((f"{len(stored) - len(common):,} others", rest))
    for size, count in common:
        table.add_row(size, f"{count:,}", f"{100 * count / stored.total():.1f}")
    return table


def _findings(found: Inspection) -> list[str]:
    copies = ", ".join(f"{found.repeated(split):,} in {split}" for split in found.counts)
    return [
        f"copies of another image: {copies}",
        f"test images that are training images, too: {found.leaked():,}",
        f"images in several classes: {len(found.contradicting()):,}",
        problems.in_words(found.problems) or "all images can be decoded as they are stored",
    ]


def _problems(found: Inspection) -> Table:
    table = Table(title="problems")
    for name in ("split", "image", "problem", "kept"):
        table.add_column(name, overflow="fold")
    for one in found.problems[:_MOST_PROBLEMS]:
        table.add_row(one.split, escape(one.where), escape(one.what), "yes" if one.kept else "no")
    if more := len(found.problems) - _MOST_PROBLEMS:
        table.caption = f"and {more:,} more, in problems.csv" if more > 0 else None
    return table


def _write(found: Inspection, folder: Folder) -> None:
    copies = [
        (str(number), split, found.class_names[label], where)
        for number, group in enumerate(found.duplicates)
        for split, label, where in group
    ]
    problems.write_csv(folder, "duplicates.csv", ("group", "split", "class", "where"), copies)
    problems.write(found.problems, folder)
    if found.tiles:
        folder.write("grid.png", _grid(found))
    folder.write("summary.json", json.dumps(_summary(found), indent=2).encode())


def _summary(found: Inspection) -> dict[str, Any]:
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
        "test_images_in_train": found.leaked(),
        "images_in_several_classes": len(found.contradicting()),
        "problems": len(found.problems),
    }


def _grid(found: Inspection) -> bytes:
    """A PNG with a row for each class that is shown, and its name before it."""
    from matplotlib.figure import Figure  # here, because importing matplotlib takes half a second

    labels = torch.tensor([label for label, _ in found.tiles])
    picture = np.asarray(Image.open(io.BytesIO(preview(_on_white([tile for _, tile in found.tiles]), labels))))
    high, wide = picture.shape[:2]
    names = [found.class_names[label] for label in labels.unique().tolist()]
    figure = Figure(figsize=(wide / 100, high / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="nearest")
    rows = [(place + 0.5) * high / len(names) for place in range(len(names))]
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.05)
    return png.getvalue()


def _on_white(tiles: Sequence[Image.Image]) -> torch.Tensor:
    """Images of different sizes in the middle of squares of one size, uint8 [M, 3, S, S]."""
    side = max(max(tile.size) for tile in tiles)
    squares = np.full((len(tiles), side, side, 3), 255, np.uint8)
    for square, tile in zip(squares, tiles, strict=True):
        left, top = (side - tile.width) // 2, (side - tile.height) // 2
        square[top : top + tile.height, left : left + tile.width] = np.asarray(tile)
    return torch.from_numpy(squares).permute(0, 3, 1, 2)
