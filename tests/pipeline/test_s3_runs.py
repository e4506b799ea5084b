"""Whole runs in an object store that fails now and then: a real S3 server behind a proxy that makes mischief."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydd as package
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.children import running, wait_for
from tests.support.faulty_s3 import Faults, faulty
from tests.support.runs import ROOT, run, started
from tests.support.s3_server import BUCKET, backdate, keys, written
from tests.support.small import SmallRun, finished_run, raydd, small_run

SEED = 8


@pytest.fixture(scope="module")
def faults(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """One request in ten is answered with 503, and one connection in fifty is dropped."""
    with pytest.MonkeyPatch.context() as patch, faulty(endpoint, SEED) as made:
        patch.setenv("RAYDD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield made


@pytest.fixture(scope="module")
def remote(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a run that was made through all that."""
    out = faults.uri(f"{BUCKET}/through-faults")
    assert remote_run(out, tmp_path_factory.mktemp("local")).does("run") == 0
    return out


def remote_run(out: str, folder: Path, **changes: object) -> SmallRun:
    """A small run in a store, whose students see the distilled set alone."""
    return small_run(folder, {"out": out, "evaluate.baselines": [], **changes})


def images(folder: Folder) -> SyntheticSet:
    return SyntheticSet.load(folder / "synthetic")


def accuracies(folder: Folder) -> dict[str, float]:
    """Of every student, by the name of its record."""
    table = package.results(folder.uri)
    return dict(zip(table["record_id"].to_pylist(), table["test_accuracy"].to_pylist(), strict=True))


def test_a_run_survives_a_store_that_fails_and_makes_the_same(remote: str, faults: Faults, tmp_path: Path) -> None:
    assert all(faults.counts[kind] for kind in ("busy", "unheard", "unanswered", "cut"))
    assert raydd("verify", remote) == 0
    local = Folder.at(finished_run(tmp_path).out)
    assert images(Folder.at(remote)).images.equal(images(local).images)
    there, here = (accuracies(folder) for folder in (Folder.at(remote), local))
    assert there and there.items() <= here.items()


def test_whatever_reads_a_run_reads_one_in_a_store(
    remote: str, faults: Faults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    above = f"{BUCKET}/read"
    assert len(package.load(remote)) == 10
    assert raydd("export", remote, "--format", "imagefolder", "--to", faults.uri(f"{above}/pictures")) == 0
    files = ("--csv", faults.uri(f"{above}/table.csv"), "--markdown", faults.uri(f"{above}/table.md"))
    assert raydd("report", remote, *files) == 0
    config = remote.replace("?", "/config.yaml?")
    assert raydd("show", config) == 0
    assert raydd("compare", config, "--seeds", "0", "--only-print", "--json", faults.uri(f"{above}/rows.json")) == 0
    assert raydd("inspect", "digits", "--quiet", "--to", faults.uri(f"{above}/inspected")) == 0
    made = keys("read/")
    assert {"table.csv", "table.md", "rows.json", "inspected/summary.json", "pictures/card.json"} <= set(made)
    assert not [path for path in Path().iterdir() if path.name.startswith("s3:")]
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_of_a_finished_run_only_what_is_lost_is_made_again(remote: str, tmp_path: Path) -> None:
    results, before = Folder.at(remote) / "results", written("through-faults/")
    lost = results.files()[0]
    results.delete(lost)
    assert remote_run(remote, tmp_path).does("evaluate") == 0
    after = written("through-faults/")
    rewritten = {key for key in before if after[key] != before[key]}
    assert rewritten == {f"results/{lost}", "config.yaml", "metrics/events.jsonl"}


@pytest.mark.slow
def test_a_sweep_in_a_store(remote: str, tmp_path: Path) -> None:
    parameters = {"evaluate.recipe.lr": [0.01, 0.1], "evaluate.labels": [["hard"]]}
    assert remote_run(remote, tmp_path, sweep={"parameters": parameters}).does("sweep") == 0
    assert [key for key in keys("through-faults/sweeps/") if key.endswith("/points.json")]


# Who holds a run


HOLD = """
import sys, time
from raydd.storage import Folder
from raydd.storage.lock import locked
with locked(Folder.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_command_is_told_who_holds_the_run_until_the_claim_is_stale(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    out = f"s3://{BUCKET}/held"
    second = small_run(tmp_path, {"out": out, "experts.count": 1, "experts.training.epochs": 3})
    with running(HOLD, out) as holder:
        wait_for(holder, "held")
        assert second.does("experts") == 2
        told = f"error: {out}/run.lock: held by process {holder.pid} on {socket.gethostname()} since 20"
        said = capsys.readouterr().err
        assert said.startswith(told) and "; if it was killed, wait 60 seconds" in said
    assert second.does("experts") == 2
    assert capsys.readouterr().err == said
    assert [key.partition("/")[0] for key in keys("held/")] == ["run.lock"]
    backdate("held/run.lock/", seconds=61)
    assert second.does("experts") == 0
    assert keys("held/run.lock/") == []


# On Ray


@pytest.mark.slow
def test_ray_makes_the_same_through_all_that(faults: Faults, tmp_path: Path) -> None:
    out, before = faults.uri(f"{BUCKET}/on-ray"), faults.counts.total()
    run(tmp_path / "here", "--no-ray")
    file = tmp_path / "here.yaml"
    with started([sys.executable, "-m", "raydd", "run", str(file), "--out", out], tmp_path / "log") as command:
        assert command.wait() == 0, command.output()
    assert faults.counts.total() > before + 500
    assert verify(Folder.at(out))
    here = Folder.at(tmp_path / "here")
    assert images(Folder.at(out)).images.equal(images(here).images)
    assert accuracies(Folder.at(out)) == accuracies(here)


@pytest.mark.slow
def test_the_quickstart_on_ray_in_a_store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    out = f"s3://{BUCKET}/quickstart"
    arguments = ["raydd", "run", str(ROOT / "configs" / "quickstart.yaml"), "--out", out]
    with started([sys.executable, "-m", *arguments], tmp_path / "log") as command:
        assert command.wait() == 0, command.output()
    assert verify(Folder.at(out))
    assert {"report.html", "preview.png", "config.yaml"} <= set(keys("quickstart/"))
