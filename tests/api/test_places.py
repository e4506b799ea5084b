"""What names a run: all functions take what `run` returns, and a folder, and a URI."""

import os
from pathlib import Path

import pytest

import raydd
from raydd.core.errors import UserError
from raydd.storage import Folder
from tests.support.small import SmallRun, finished_run


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def test_everything_takes_what_run_returns(digits: SmallRun, tmp_path: Path) -> None:
    run = raydd.run(digits.file, ray=False)
    assert run.path == Path(os.fspath(run)) == digits.out and run.uri == str(digits.out)
    assert len(raydd.load(run)) == 10 and Path(run.report).is_file() and run.config.name == "small"
    assert raydd.results(run).equals(raydd.results(digits.out)) and len(raydd.probes(run)) == 0
    assert raydd.export(run, "pt", tmp_path / "pt").path.is_dir()
    with pytest.raises(UserError, match="share|twice|class"):
        raydd.append(run, run, to=tmp_path / "both")
    for place in (str(digits.out), digits.out, Folder.at(digits.out)):
        assert len(raydd.load(place)) == 10 and len(raydd.results(place)) == len(raydd.results(run))
    assert [row.subject for row in run.summary][:1] == ["synthetic"]


def test_a_run_in_a_line(digits: SmallRun, tmp_path: Path) -> None:
    run = raydd.DistilledRun(Folder.at(digits.out))
    (row,) = (row for row in run.summary if row.subject == "synthetic" and row.labels == "stored")
    assert row.mean is not None
    wanted = f"10 images of digits by datm, test accuracy {100 * row.mean:.1f} % (stored labels)"
    assert repr(run) == f"DistilledRun({digits.out}: {wanted})"
    assert {"config", "path", "report", "summary", "uri", "folder"} == set(dir(run))
    assert repr(raydd.DistilledRun(Folder.at(tmp_path / "none"))).endswith("none: nothing is finished yet)")
