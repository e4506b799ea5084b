"""Ray where there is little: one CPU, little shared memory, or a Ray that somebody else has begun in the process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG: dict[str, Any] = {
    "data": {"source": "digits", "train_limit_per_class": 12},
    "network": {"width": 8, "depth": 2},
    "method": {"name": "dm", "images_per_class": 1, "iterations": 3},
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "full_epochs": 1,
        "recipe": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    },
}
RUN = [sys.executable, "-m", "raydd", "run"]
BEGUN = """
import ray, raydd
ray.init("local", num_cpus=1, include_dashboard=False)
raydd.run({config!r})
assert ray.is_initialized()
"""

pytestmark = pytest.mark.slow


def output(tmp_path: Path, *command: str, **options: Any) -> str:
    """What a command on a config prints, to its end; the run has a report then."""
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "out": str(tmp_path / "run")}))
    whole = [word.format(config=str(file)) for word in command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=600, check=False, **options)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert (tmp_path / "run" / "report.html").exists() and "Traceback" not in printed
    return printed


def test_on_one_cpu(tmp_path: Path) -> None:
    one = min(os.sched_getaffinity(0))
    output(tmp_path, *RUN, "{config}", preexec_fn=lambda: os.sched_setaffinity(0, {one}))


def test_with_little_shared_memory(tmp_path: Path) -> None:
    """As containers have it."""
    mounted = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "sh", "-c", mounted], check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    output(tmp_path, "unshare", "-m", "sh", "-c", f"{mounted} && {' '.join(RUN)} {{config}}")


def test_in_a_process_that_has_begun_ray_with_one_cpu(tmp_path: Path) -> None:
    printed = output(tmp_path, sys.executable, "-c", BEGUN)
    assert "tune.py" not in printed and "Failed to fetch metrics" not in printed
