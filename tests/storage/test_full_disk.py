"""A disk that is full wherever a run happens to be: a real small disk, freed bit by bit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.children import ROOT
from tests.support.small import finished_run, small_run

TOLD = re.compile(r"^error: \S*/run/.*: the disk (of .*)?is full; free some space or choose another folder", re.M)

ON_A_SMALL_DISK = 'mount -t tmpfs -o size="$2" tmpfs "$1" || exit 99; shift 2; exec "$@"'

FREED_BIT_BY_BIT = """
import contextlib, io, json, os, shutil, sys
from pathlib import Path

from raydd.pipeline import execution
from raydd.cli.main import main
from raydd.core.errors import ArtefactError
from raydd.storage import Folder

config, disk, step, result = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
run, filler = disk / "run", disk / "filler"
run.mkdir()


def attempt():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(["run", config, "--out", str(run), "--no-ray", "--quiet"])
    return code, said.getvalue()


def finished():
    return {str(path.parent) for path in run.rglob("manifest.json")}


def fill():
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


fill()
attempts, before, count, free = [], set(), 0, 0
while True:
    code, said = attempt()
    hidden = [str(path) for path in run.rglob(".*")]
    after = finished()
    intact = verify(Folder.at(run)) if after else []
    attempts.append({"code": code, "said": said, "hidden": hidden, "lost": sorted(before - set(intact))})
    if code == 0 or len(attempts) == 300:
        break
    made = sum(path.parent.name != "metrics" and "tensorboard" not in path.parts for path in run.rglob("*"))
    free, before, count = (step if made > count else 2 * free), after, made
    fill()
    os.truncate(filler, max(0, filler.stat().st_size - free))
result.write_text(json.dumps(attempts))
shutil.copytree(run, result.with_name("copied"))
"""


def on_a_small_disk(disk: Path, size: str, *command: str) -> str:
    """What a program printed that ran where a folder is a disk of that size; skips where that cannot be had."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, hence no small disk")
    disk.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), size, sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if "unshare: " in done.stdout or done.returncode == 99:
        pytest.skip("this machine does not let us mount a small disk: " + done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "kinds"),
    [
        (
            65536,
            {r"experts/\w+/expert-\d+/epoch-", r"run/experts/expert-\d+\.arrow", "checkpoints/stage-", "report.html"},
        ),
        (4096, {r"data/\w+\.(safetensors|json)", "run/synthetic/", "run/results/part-"}),
    ],
)
def test_wherever_a_disk_is_full_the_file_is_named_and_the_same_command_goes_on(
    step: int, kinds: set[str], tmp_path: Path
) -> None:
    run, disk, result = small_run(tmp_path), tmp_path / "disk", tmp_path / "attempts.json"
    on_a_small_disk(disk, "4m", "-c", FREED_BIT_BY_BIT, str(run.file), str(disk), str(step), str(result))
    *refused, done = json.loads(result.read_text())
    assert done["code"] == 0
    for attempt in refused:
        assert (attempt["code"], attempt["hidden"], attempt["lost"]) == (2, [], []), attempt
        assert TOLD.search(attempt["said"]) and "Traceback" not in attempt["said"], attempt
    assert {kind for kind in kinds if any(re.search(kind, attempt["said"]) for attempt in refused)} == kinds
    copied, wanted = (Folder.at(folder) for folder in (tmp_path / "copied", finished_run(tmp_path / "wanted").out))
    assert verify(copied)
    assert SyntheticSet.load(copied / "synthetic").images.equal(SyntheticSet.load(wanted / "synthetic").images)
