"""Small pictures whose classes are told apart, but not by every network; and a decision for very little work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from raydd.core.progress import NoProgress
from raydd.pipeline.auto import record
from raydd.pipeline.auto.decide import Request, decide
from raydd.pipeline.auto.look import DataLook
from raydd.pipeline.auto.record import Decision
from raydd.pipeline.auto.settings import EFFORTS


def pictures(root: Path, counts: tuple[int, ...] = (24, 24, 24), side: int = 16) -> Path:
    """A folder of class folders: a bright spot in another place for each class, under noise."""
    draw = np.random.default_rng(0)
    for label, count in enumerate(counts):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 160, (side, side, 3))
            row, column = divmod(label, 2)
            pixels[row * side // 2 + 2 :, column * side // 2 + 2 :][:4, :4] += 95
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def look_of(counts: tuple[int, ...] = (400, 400), median: int = 128, smallest: int = 100) -> DataLook:
    """What would be found in images of classes of these sizes."""
    return DataLook(
        dataset="things",
        where="/things",
        class_names=tuple(f"class{label}" for label in range(len(counts))),
        train=counts,
        num_test=sum(counts) // 4,
        median_side=median,
        smallest_side=smallest,
        is_grey=False,
        undecodable=0,
        leaked=0,
    )


def little(request: Request, finalists: int = 1) -> Decision:
    """Decide, but for the least effort, and write it down, so that the command goes on from there."""
    decision = replace(decide(request, False, NoProgress()), effort=EFFORTS[0], finalists=finalists)
    record.write(decision, request.folder)
    return decision
