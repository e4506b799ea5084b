"""Small runs of the command line inside this process, and what it takes to compare and to damage them."""

import atexit
import copy
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image

from raydd.cli.main import main

CONFIG: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits", "train_limit_per_class": 12},
    "network": {"width": 8, "depth": 2},
    "experts": {"count": 2, "training": {"epochs": 4, "lr": 0.2, "batch_size": 8, "augmentation": "none"}},
    "method": {
        "name": "datm",
        "images_per_class": 1,
        "iterations": 10,
        "synthetic_steps": 4,
        "expert_epochs": 2,
        "initial_max_start_epoch": 1,
        "max_start_epoch": 2,
        "expansion_iterations": 5,
        "image_lr": 1.0,
        "synthetic_lr_init": 0.05,
        "augmentation": "none",
    },
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "recipe": {"epochs": 5, "lr": None, "momentum": 0.9, "batch_size": 32, "augmentation": "none"},
        "full_epochs": 1,
    },
    "cluster": {"checkpoint_seconds": 0},
}
"""Experts that know the digits, so that DATM finds images that they classify correctly; else as short as it gets."""
STUDENTS = 7
"""Synthetic, init and random with stored and with hard labels, full."""
UPDATES = {"expert": 8, "distil": 10, "student": 6 * 5 + 1}
"""How often each kind of work tells its progress."""
REWRITTEN = ("config.yaml", "run.lock", "report.html", "preview.png", "metrics/events.jsonl")
"""What every run writes anew, beside curves."""

_DATM = "initial_max_start_epoch", "expansion_iterations"
COMMON = {name: value for name, value in CONFIG["method"].items() if name not in _DATM}
"""What of the method any method takes."""

State = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class SmallRun:
    """A config file and the folder that it names."""

    file: Path
    out: Path

    def does(self, command: str, *flags: object) -> int:
        """The exit code of a command on this run, without Ray and without progress."""
        return raydd(command, self.file, "--no-ray", "--quiet", *flags)

    def artefacts(self) -> State:
        """The state of everything that is not written anew by every run."""
        return {name: seen for name, seen in without_curves(self.out).items() if name not in REWRITTEN}


def without_curves(out: Path) -> State:
    """The state of all files but those of TensorBoard, whose names nobody foresees."""
    return {name: seen for name, seen in state(out).items() if not name.startswith("tensorboard")}


def raydd(*arguments: object) -> int:
    """The exit code of a command line."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def small_run(folder: Path, changes: Mapping[str, object] | None = None) -> SmallRun:
    """A run that is not begun, with some fields (dotted paths) changed, in `folder`."""
    values = copy.deepcopy(CONFIG) | {"out": str(folder / "run")}
    for path, value in (changes or {}).items():
        *parents, name = path.split(".")
        inside = values
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[name] = value
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    return SmallRun(file, folder / "run")


def finished_run(folder: Path) -> SmallRun:
    """A finished run of `CONFIG` in `folder`: a copy of one that is made once."""
    shutil.copytree(_finished(), folder / "run")
    return small_run(folder)


@cache
def _finished() -> Path:
    temporary = TemporaryDirectory()
    atexit.register(temporary.cleanup)
    run = small_run(Path(temporary.name))
    assert run.does("run") == 0
    return run.out


@cache
def picture_run(method: str, preprocess: str, validation_fraction: float) -> SmallRun:
    """A finished run on the pictures of `image_folder`, 20 a class to train with; shared, so not to be changed."""
    temporary = TemporaryDirectory()
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    common = CONFIG["method"] if method == "datm" else COMMON
    changes = {
        "data": {"source": "imagefolder", "root": str(image_folder(folder / "pictures")), "preprocess": preprocess},
        "data.image_size": 16,
        "data.validation_fraction": validation_fraction,
        "experts.training.lr": 0.05,
        "method": {**common, "name": method, "image_lr": 0.1},
        "evaluate.recipe.epochs": 40,
        "evaluate.full_epochs": 5,
    }
    run = small_run(folder, changes)
    assert run.does("run") == 0
    return run


def state(folder: Path) -> State:
    """Time of writing and SHA-256 of every file below a folder, and the folders, by relative path."""
    return {str(path.relative_to(folder)): _seen(path) for path in sorted(folder.rglob("*"))}


def _seen(path: Path) -> tuple[int, str]:
    if path.is_dir():
        return 0, "folder"
    return path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path, place: float = 0.5) -> None:
    """Invert one byte of a file."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut off the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def image_folder(root: Path, per_class: int = 20, tests_per_class: int = 10) -> Path:
    """Three classes of 16x16 pictures, a pattern each under noise, as PNG files in the layout of `imagefolder`."""
    draw = np.random.default_rng(0)
    row, column = np.indices((16, 16)) // 2 % 2
    patterns = {"checks": row ^ column, "columns": column, "rows": row}
    for split, count in (("train", per_class), ("test", tests_per_class)):
        for name, pattern in patterns.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = 100 * pattern[:, :, None] + draw.integers(0, 4, (16, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root
