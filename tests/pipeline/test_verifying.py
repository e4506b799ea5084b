"""`raydd verify` sees every file that something goes on from, of runs and of sweeps."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.pipeline.verifying import verify
from raydd.storage import Folder
from tests.support.small import CONFIG, SmallRun, small_run


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A run with a sweep over its students' step size."""
    sweep = {"parameters": {"evaluate.recipe.batch_size": [16, 32]}}
    done = small_run(tmp_path_factory.mktemp("swept"), {**CONFIG, "sweep": sweep})
    assert done.does("run") == 0
    assert done.does("sweep") == 0
    return done


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def swap(file: Path) -> None:
    """The next file of its kind under its name."""
    other = next(one for one in sorted(file.parent.iterdir()) if one != file and one.suffix == file.suffix)
    shutil.copyfile(other, file)


PLACES = ("results/part-*.parquet", "sweeps/*/results/part-*.parquet", "work/diversity/*.json")


@pytest.mark.parametrize("harm", [flip, swap])
@pytest.mark.parametrize("pattern", PLACES)
def test_every_file_is_seen(pattern: str, harm: Callable[[Path], None], swept: SmallRun, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(swept.out, out)
    assert any("work/diversity" in line for line in verify(Folder.at(out)))
    file = sorted(out.glob(pattern))[0]
    harm(file)
    with pytest.raises(ArtefactError, match=file.name):
        verify(Folder.at(out))
    if "sweeps" in pattern:
        with pytest.raises(ArtefactError, match=file.name):
            verify(Folder.at(file.parent.parent))


def test_a_sweep_can_be_checked_by_itself(swept: SmallRun) -> None:
    (sweep,) = (path for path in (swept.out / "sweeps").iterdir() if path.name != "shared")
    (line,) = (line for line in verify(Folder.at(sweep)) if "/results, " in line)
    assert line.endswith(f"results, {len(list((sweep / 'results').iterdir()))} records")


def test_a_record_of_another_run_is_seen(swept: SmallRun, tmp_path: Path) -> None:
    other = small_run(tmp_path)
    assert other.does("run", "--method.iterations", "3") == 0
    out = tmp_path / "copy"
    shutil.copytree(swept.out, out)
    stranger = next((other.out / "results").glob("part-*.parquet"))
    shutil.copy(stranger, out / "results")
    with pytest.raises(ArtefactError, match=f"the record {stranger.stem[5:]} is of students of another set"):
        verify(Folder.at(out))
    with pytest.raises(ArtefactError, match="of students of another set"):
        records.require_own(Folder.at(out), records.read(Folder.at(out) / "results"))
