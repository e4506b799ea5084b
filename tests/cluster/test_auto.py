"""`raydd auto` on Ray: the choice and the bytes of one process, and the same again after kills."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydd.pipeline.auto import record
from raydd.pipeline.auto.decide import Request
from raydd.pipeline.auto.search import BEST
from tests.pipeline.auto.pictures import little, pictures
from tests.support import runs, small

PARTS = "images-*.parquet"


@dataclass(frozen=True)
class Alone:
    """What one process made, undisturbed."""

    root: Path
    out: Path

    def command(self, out: Path) -> list[str]:
        """The same on Ray, in another folder, by the same decision."""
        out.mkdir()
        shutil.copy(self.out / record.RECORD, out)
        return [sys.executable, "-m", "raydd", *self.words(out)]

    def words(self, out: Path) -> list[str]:
        return ["auto", str(self.root), "--images-per-class", "2", "--quiet", "--out", str(out)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    made = Alone(pictures(folder / "things"), folder / "out")
    little(Request.of(str(made.root), 2, str(made.out)), finalists=2)
    assert small.raydd(*made.words(made.out), "--no-ray") == 0
    return made


def sets(out: Path) -> dict[str, bytes]:
    """The images of all candidates, and the config that was chosen, without the folder's own name."""
    found = {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.glob(f"*/*/synthetic/{PARTS}"))}
    return {**found, BEST: (out / BEST).read_bytes().replace(str(out).encode(), b"")}


@pytest.mark.slow
def test_ray_chooses_what_one_process_chooses(alone: Alone, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with runs.started(alone.command(out), tmp_path / "log") as driver:
        assert driver.wait() == 0, driver.output()
        assert "chosen" in driver.output()
    assert sets(out) == sets(alone.out) and len(sets(out)) >= 9


@pytest.mark.slow
def test_kills_at_three_moments_change_nothing(alone: Alone, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = alone.command(out)
    for number, moment in enumerate(("shared/*/*/*", "outcomes/tried-*", "outcomes/finished-*")):
        with runs.started(command, tmp_path / f"log{number}") as driver:
            driver.until(lambda moment=moment: any(out.glob(moment)))  # type: ignore[misc]
        assert not (out / BEST).exists()
    with runs.started(command, tmp_path / "log") as driver:
        assert driver.wait() == 0, driver.output()
    assert sets(out) == sets(alone.out)
