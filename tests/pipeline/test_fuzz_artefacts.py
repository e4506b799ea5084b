"""Damaged files of runs: `verify` finds them, readers say so, and no run goes on from them to other results."""

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd import config as configs
from raydd.core.errors import ArtefactError
from raydd.core.progress import Numbers, Work
from raydd.evaluation import records
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.storage import Folder
from tests.pipeline.test_decoupled_runs import CONFIG as TEACHER
from tests.support.alarms import FIXED, attempt
from tests.support.damage import flipped, harm, vouch
from tests.support.runs import students
from tests.support.small import CONFIG, SmallRun, state

_CLUSTER = {"checkpoint_seconds": 0, "trackers": []}
_STAGES = {
    "count": 2,
    "pool_size": 2,
    "epochs": 2,
    "keep_trajectories": True,
    "filter": {"policy": "forgetting_min", "least": [0, 0], "scoring": {"epochs": 2, "lr": 0.1}},
}
RUNS: dict[str, dict[str, Any]] = {
    "datm": CONFIG,
    "staged": {
        **CONFIG,
        "data": {**CONFIG["data"], "preprocess": "zca", "validation_fraction": 0.1},
        "method": {**CONFIG["method"], "iterations": 3},
        "stages": _STAGES,
        "evaluate": {
            **CONFIG["evaluate"],
            "baselines": ["random", "k_center"],
            "labels": ["hard"],
            "modes": ["chain"],
            "selector": {"epochs": 2, "lr": 0.1},
        },
    },
    "delt": TEACHER,
}
"""Runs that between them leave every kind of file."""
MADE = ("experts", "teacher", "ranking", "forgetting", "selection", "stages", "labels", "synthetic")
UNPROTECTED = ("config.yaml", "run.lock", "report.html", "preview.png", "metrics", "tensorboard")
"""Of a finished run what holds no result, and `verify` does not check."""
SEALED = tuple(f"work/{name}/" for name in ("chains", "diversity", "masks", "ranking"))
"""What says its own digest."""


@dataclass(frozen=True)
class Course:
    """A run, as it was at some moments and in the end."""

    run: SmallRun
    moments: Sequence[Path]
    """Copies of its folder; the last one is finished."""

    def back_to(self, moment: Path) -> list[Path]:
        """Have the folder as it was then; returns its files."""
        shutil.rmtree(self.run.out, ignore_errors=True)
        shutil.copytree(moment, self.run.out)
        return sorted(path for path in self.run.out.rglob("*") if path.is_file() and path.name != "run.lock")


class Copying:
    """Copies the run's folder when a kind of work has begun, and when it is nearly done."""

    def __init__(self, run: SmallRun, folder: Path) -> None:
        self.moments: list[Path] = []
        self._run, self._folder = run, folder
        self._seen: set[tuple[str, float]] = set()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        kind = task.kind + ("chain" if "chain" in task.label else "")
        if done in (1, total - 1) and (kind, done) not in self._seen:
            self._seen.add((kind, done))
            self.copy()

    def copy(self) -> None:
        self.moments.append(self._folder / f"{len(self.moments):02d}")
        shutil.copytree(self._run.out, self.moments[-1])


@cache
def course(name: str) -> Course:
    """A run from its beginning to its end, once for all tests."""
    folder = Path(mkdtemp())
    values = copy.deepcopy(RUNS[name]) | {"out": str(folder / "run"), "cluster": _CLUSTER}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    run = SmallRun(folder / "run.yaml", folder / "run")
    copies = Copying(run, folder)
    execution.execute(configs.load(str(run.file)), LocalExecutor(), copies)
    copies.copy()
    return Course(run, copies.moments)


@cache
def results(name: str) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    """What the undisturbed run made."""
    whole = course(name)
    whole.back_to(whole.moments[-1])
    return made(whole.run.out)


def made(out: Path) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    """The digest of every file of every artefact but those in `work/`, and the records."""
    digests = {name: digest for name, (_, digest) in state(out).items() if name.split("/")[0] in MADE}
    return digests, students(out).to_pylist()


def is_listed(file: Path) -> bool:
    """Whether a manifest lists it, or is it, or it is a record."""
    return file.with_name("manifest.json").exists() or file.parent.name == "results"


def meaning(file: Path) -> Any:
    """What a manifest says, however it is spaced; None for other files, and where it is damaged or deleted."""
    with suppress(ValueError, FileNotFoundError):
        return json.loads(file.read_bytes()) if file.name == "manifest.json" else None
    return None


@pytest.mark.parametrize("name", ["datm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("staged", "delt"))])
def test_every_result_is_listed(name: str) -> None:
    whole = course(name)
    others = {str(file.relative_to(whole.run.out)) for file in whole.back_to(whole.moments[-1]) if not is_listed(file)}
    assert {other for other in others if not other.startswith((*UNPROTECTED, *SEALED))} == set()


def verify_many(count: int, names: Sequence[str], *, reads: bool) -> None:
    """Damage files of finished runs one by one, and verify these; have some of them read for other purposes, too."""

    @settings(FIXED, max_examples=count)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        whole = course(data.draw(st.sampled_from(names)))
        files = whole.back_to(whole.moments[-1])
        file = data.draw(st.sampled_from([file for file in files if is_listed(file)]))
        said = meaning(file)
        harmed = harm(file, files, data.draw) and (said is None or meaning(file) != said)
        code, printed = attempt("verify", whole.run.out)
        if harmed and (file.exists() or file.name != "manifest.json" and file.parent.name != "results"):
            assert code == 2 and str(file) in printed
        elif not harmed:
            assert code == 0
        if reads and data.draw(st.integers(0, 4)) == 0:
            attempt("report", whole.run.file)
            attempt("export", whole.run.out, "--format", "pt", "--to", whole.run.out / "exported")

    check()


def test_verify_finds_damage() -> None:
    verify_many(40, ["datm"], reads=False)


@pytest.mark.slow
def test_verify_finds_damage_of_every_kind_of_file() -> None:
    verify_many(300, list(RUNS), reads=True)


@pytest.mark.slow
def test_verify_finds_every_byte_of_a_record(tmp_path: Path) -> None:
    whole = course("datm")
    whole.back_to(whole.moments[-1])
    (file, *_) = sorted(whole.run.out.glob("results/part-*.parquet"))
    content = file.read_bytes()
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        (tmp_path / file.name).write_bytes(changed)
        with pytest.raises(ArtefactError, match=file.name):
            records.read(Folder.at(tmp_path))


def resume_many(count: int, names: Sequence[str], *, from_work: bool) -> None:
    """Go on from runs that are damaged in one file."""

    @settings(FIXED, max_examples=count)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(names))
        whole, (digests, table) = course(name), results(name)
        files = whole.back_to(data.draw(st.sampled_from(whole.moments[:-1])))
        in_work = [file for file in files if file.is_relative_to(whole.run.out / "work")]
        file = data.draw(st.sampled_from(in_work if from_work and in_work else files))
        harm(file, files, data.draw)
        code, _ = attempt("run", whole.run.file, "--no-ray", "--quiet")
        if code == 0:
            found, students_found = made(whole.run.out)
            itself = str(file.relative_to(whole.run.out))
            assert {n: found.get(n) for n in digests if n != itself} == {n: digests[n] for n in digests if n != itself}
            assert students_found == table

    check()


def test_no_run_goes_on_from_damage_to_other_results() -> None:
    resume_many(2, ["datm"], from_work=True)


@pytest.mark.slow
@pytest.mark.parametrize("from_work", [True, False], ids=["of work", "of anything"])
def test_no_run_goes_on_from_damage_of_any_kind_to_other_results(from_work: bool) -> None:
    resume_many(50, list(RUNS), from_work=from_work)


@pytest.mark.slow
def test_what_manifests_vouch_for_is_read_or_refused() -> None:
    """Edited files whose manifests were edited too: nobody can tell, but nothing breaks."""

    @settings(FIXED, max_examples=100)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        whole = course(data.draw(st.sampled_from(list(RUNS))))
        files = whole.back_to(whole.moments[-1])
        listed = [file for file in files if file.with_name("manifest.json") in files and file.name != "manifest.json"]
        file = data.draw(st.sampled_from(listed))
        harm(file, files, data.draw)
        vouch(file)
        commands = ["verify", whole.run.out], ["report", whole.run.file], ["run", whole.run.file, "--no-ray"]
        attempt(*data.draw(st.sampled_from(commands)))

    check()


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_flipped_byte_is_another_byte(content: bytes, data: st.DataObject) -> None:
    """Of the damage itself: one that does none would find none."""
    found = flipped(content, data.draw)
    assert len(found) == len(content) and sum(a != b for a, b in zip(found, content, strict=True)) == 1
