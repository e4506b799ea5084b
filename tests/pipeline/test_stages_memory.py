"""A set larger than its method could hold: the peak of each stage, on reduced CIFAR-10, 100 images per class."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import raydd
from raydd import config as configs
from tests.support import ROOT

COUNT, IMAGES_PER_CLASS = 5, 20
IMAGE_BYTES = 4 * 3 * 32 * 32
SLACK_BYTES = 12e6
"""By which two processes that do the same differ: pages, threads, the allocator's pools. Frozen images: 9.8e6."""
METHODS: dict[str, dict[str, Any]] = {
    "mtt": {"name": "mtt", "iterations": 3, "synthetic_steps": 6, "max_start_epoch": 1, "expert_epochs": 1},
    "dm": {"name": "dm", "iterations": 3, "real_batch_size": 64},
}
DISTILS = """
import sys
from raydd import api
from raydd.core import process
api.run(sys.argv[1], ray=False)
print("peak", process.peak_memory_bytes())
"""


def peak(file: Path) -> int:
    """The most memory of a process that does what is left of a run."""
    ended = subprocess.run(
        [sys.executable, "-c", DISTILS, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return int(ended.stdout.split("peak")[1])


@pytest.mark.slow
@pytest.mark.skipif("RAYDD_DATA" not in os.environ, reason="RAYDD_DATA is not set: no real CIFAR-10")
@pytest.mark.parametrize("method", METHODS)
def test_a_stage_takes_no_more_than_the_first_and_its_frozen_images(method: str, tmp_path: Path) -> None:
    values = {
        "out": str(tmp_path / "run"),
        "data": {"source": "cifar10", "train_limit_per_class": 1000},
        "network": {"width": 32},
        "experts": {"count": 1, "training": {"epochs": 1}},
        "method": {**METHODS[method], "images_per_class": IMAGES_PER_CLASS},
        "stages": {"count": COUNT, "pool_size": 1, "epochs": 1, "keep_trajectories": True},
        "evaluate": {
            "num_students": 1,
            "modes": ["single_shot"],
            "baselines": [],
            "recipe": {"epochs": 1, "lr": 0.01, "batch_size": 32, "augmentation": "none"},
        },
        "cluster": {"compile": "off"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    raydd.run(configs.load(str(file)), ray=False)
    made = tmp_path / "run" / "stages"
    peaks = []
    for stage in range(COUNT):
        for name in ("init", "synthetic"):
            shutil.rmtree(made / f"{stage:03d}" / name)
        peaks.append(peak(file))
    for stage in range(1, COUNT):
        frozen = stage * 10 * IMAGES_PER_CLASS * IMAGE_BYTES
        assert peaks[stage] <= peaks[0] + frozen + SLACK_BYTES, (stage, peaks)
