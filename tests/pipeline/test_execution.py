"""What is made, in which order, from what; on pictures in folders, end to end."""

import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

import raydd
from raydd import config as configs
from raydd import data
from raydd.core import process
from raydd.core.errors import ArtefactError, ResourceError
from raydd.core.progress import NoProgress, Progress
from raydd.data import Splits
from raydd.ingredients.base import Ingredient
from raydd.methods.trajectory.cost import matching_step
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs import conflicts
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.pipeline.work import auto
from raydd.plan import DataFacts
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.alarms import attempt
from tests.support.small import (
    COMMON,
    STUDENTS,
    SmallRun,
    State,
    finished_run,
    flip,
    image_folder,
    picture_run,
    small_run,
    state,
)

WAYS = [("mtt", "zca", 0.2), ("datm", "zca", 0.2), ("datm", "standardise", 0.0)]
every_way = pytest.mark.parametrize(("method", "preprocess", "fraction"), WAYS)


class Recording(LocalExecutor):
    """Notes what it is asked for, and does it."""

    noted: ClassVar[dict[str, str]] = {"experts": "experts", "distill": "distill", "students": "evaluate"}

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def check(self, run: Run, progress: Progress) -> None:
        self.asked.append(("check", 0))

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        for ingredient in wanted:
            if ingredient.title in self.noted:
                pieces = ingredient.pieces()
                count = len(pieces) if ingredient.title == "distill" else sum(map(len, pieces))
                self.asked.append((self.noted[ingredient.title], count))
        super().make(run, wanted, progress, others)


def asked(small: SmallRun, last_step: str = "evaluate") -> list[tuple[str, int]]:
    """What executing a run asks of its executor."""
    executor = Recording()
    execution.execute(configs.load(str(small.file)), executor, NoProgress(), last_step)
    return executor.asked


def opened(small: SmallRun) -> Run:
    return Run(configs.load(str(small.file)), Folder.at(small.out))


def splits(small: SmallRun) -> Splits:
    run = opened(small)
    return data.load(run.config.data, run.key())


def rows(images: Tensor) -> set[bytes]:
    """Each image as bytes."""
    return {image.numpy().tobytes() for image in images}


@every_way
def test_pictures_go_end_to_end(method: str, preprocess: str, fraction: float) -> None:
    small = picture_run(method, preprocess, fraction)
    found = raydd.results(small.out).to_pylist()
    regimes = ["stored", "hard"] if method == "datm" else ["hard"]
    subjects = [(subject, labels) for subject in ("synthetic", "init", "random") for labels in regimes]
    assert sorted((row["subject"], row["labels"]) for row in found) == sorted([*subjects, ("full", "hard")])
    for row in found:
        assert (row["status"], row["dataset"], row["method"]) == ("ok", "pictures", method)
        assert row["num_images"] == (3 * round(20 * (1 - fraction)) if row["subject"] == "full" else 3)
        assert row["test_accuracy"] == pytest.approx(sum(row["class_accuracy"]) / 3)
    accuracy = {(row["subject"], row["labels"]): row["test_accuracy"] for row in found}
    assert accuracy["synthetic", regimes[0]] > 0.6 and accuracy["full", "hard"] > 0.8
    dataset = raydd.load(small.out)
    assert dataset.preprocessing.name == preprocess and dataset.class_names == ("checks", "columns", "rows")
    assert "pictures" in (small.out / "report.html").read_text()


@every_way
def test_validation_accuracy_is_recorded_where_images_were_kept_aside(
    method: str, preprocess: str, fraction: float
) -> None:
    for row in raydd.results(picture_run(method, preprocess, fraction).out).to_pylist():
        if fraction:
            hits = row["validation_accuracy"] * 12
            assert hits == pytest.approx(round(hits), abs=1e-9) and 0 <= hits <= 12
        else:
            assert row["validation_accuracy"] is None


@pytest.mark.parametrize("method", ["mtt", "datm"])
def test_validation_images_take_no_part_in_training(method: str) -> None:
    small = picture_run(method, "zca", 0.2)
    parts = splits(small)
    assert parts.validation is not None
    train, validation = rows(parts.train.images), rows(parts.validation.images)
    everything = data.load(replace(opened(small).config.data, validation_fraction=0), opened(small).key())
    assert (len(train), len(validation)) == (48, 12) and not train & validation
    assert train | validation == rows(everything.train.images)
    assert parts.validation.counts() == [4, 4, 4]
    run = opened(small)
    assert rows(parts.train.images) == rows(pixels(run, run.data.train.images[:]))
    assert run.experts.store.card.fingerprint == parts.train.fingerprint != everything.train.fingerprint
    start = raydd.load(small.out / "stages/000/init").synthetic
    assert rows(start.pixels()) <= train


def pixels(run: Run, images: Tensor) -> Tensor:
    return run.data.preprocessing.inverse(images).mul(255).round().clamp(0, 255).to(torch.uint8)


def test_what_is_prepared_is_what_is_loaded() -> None:
    small = picture_run("datm", "standardise", 0.0)
    run, parts = opened(small), splits(small)
    pixels = parts.train.images.double() / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True, correction=0)
    assert torch.allclose(run.data.train.images[:], ((pixels - mean) / std).float(), atol=1e-5)
    assert torch.allclose(run.data.test.images[:], ((parts.test.images.double() / 255 - mean) / std).float(), atol=1e-5)
    assert torch.equal(run.data.test.labels, parts.test.labels)


def test_every_step_is_asked_for_once_and_in_order(tmp_path: Path) -> None:
    small = small_run(tmp_path)
    assert asked(small, "experts") == [("check", 0), ("experts", 2)]
    assert asked(small, "evaluate") == [("check", 0), ("distill", 1), ("evaluate", STUDENTS)]
    assert asked(small, "evaluate") == []


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        (["results"], [("check", 0), ("evaluate", STUDENTS)]),
        (["synthetic"], [("check", 0)]),
        (["synthetic", "stages"], [("check", 0), ("distill", 1)]),
        (["experts/manifest.json"], []),
        (["experts/manifest.json", "experts/expert-00001.json"], [("experts", 1)]),
        (["experts"], [("experts", 2)]),
        (["work"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_only_what_is_missing_is_made_again(lost: list[str], again: list[tuple[str, int]], tmp_path: Path) -> None:
    small = finished_run(tmp_path)
    before = {name: seen for name, (_, seen) in small.artefacts().items()}
    for name in lost:
        path = small.out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert asked(small) == again
    after = {name: seen for name, (_, seen) in small.artefacts().items()}
    same = [name for name in before if name in after and not name.startswith(("results/", "metrics/", "work/"))]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert set(before) - set(after) <= {name for name in before if name.startswith("work")}
    verify(Folder.at(small.out))


def test_nothing_is_written_where_resources_are_lacking(tmp_path: Path) -> None:
    class Poor(LocalExecutor):
        def check(self, run: Run, progress: Progress) -> None:
            raise ResourceError("cluster.num_workers: there are none")

    small = small_run(tmp_path)
    before = state(tmp_path)
    with pytest.raises(ResourceError):
        execution.execute(configs.load(str(small.file)), Poor(), NoProgress())
    assert state(tmp_path) == before


def test_experts_of_another_config_are_never_taken_over(tmp_path: Path) -> None:
    small = small_run(tmp_path)
    assert small.does("experts") == 0
    (small.out / "experts" / "manifest.json").unlink()
    before = state(small.out)
    config = configs.load(str(small.file))
    other = replace(config, experts=replace(config.experts, seed=5))
    with pytest.raises(ArtefactError, match="expert-00000.arrow: these trajectories were made for another seed: 0"):
        execution.execute(other, LocalExecutor(), NoProgress())
    assert state(small.out) == before


@pytest.mark.parametrize("below", ["inner", "synthetic", "work/x/y", "sweeps"])
def test_a_run_inside_another_is_refused(below: str, tmp_path: Path) -> None:
    """It would be checked, packed and deleted with the outer one; what a sweep has below is its own affair."""
    outer = finished_run(tmp_path)
    before = outer.artefacts()
    code, message = attempt("run", outer.file, "--no-ray", "--quiet", "--out", outer.out / below)
    assert code == 2 and f"{below} lies inside the run {outer.out}; choose a folder beside it" in message
    assert outer.artefacts() == before
    conflicts.require_apart(Run(configs.load(str(outer.file)), Folder.at(outer.out / "sweeps" / "a" / "sets" / "b")))
    conflicts.require_apart(Run(configs.load(str(outer.file)), Folder.at(outer.out)))


def test_a_config_in_a_folder_above_is_no_run(tmp_path: Path) -> None:
    """People keep a config.yaml at the top of a project, and results below it."""
    run = small_run(tmp_path)
    shutil.copy(run.file, tmp_path / "config.yaml")
    (tmp_path / "metrics").mkdir()
    conflicts.require_apart(Run(configs.load(str(run.file)), Folder.at(run.out)))


def test_a_folder_of_an_earlier_version_is_not_explained_by_its_mistakes(tmp_path: Path) -> None:
    small = finished_run(tmp_path)
    written = small.out / "config.yaml"
    written.write_text(written.read_text().replace("- random\n", "- random\n  - random_stored\n"))
    config = configs.load(str(small.file))
    other = replace(config, method=replace(config.method, image_lr=2.0))
    with pytest.raises(ArtefactError, match=r"synthetic: made by another configuration; choose another --out"):
        execution.execute(other, LocalExecutor(), NoProgress())


def test_failed_students_stay_as_rows_and_are_tried_again(tmp_path: Path) -> None:
    small = finished_run(tmp_path)
    before = raydd.results(small.out)["record_id"].to_pylist()
    flags = "--evaluate.recipe.lr", "1e30", "--evaluate.baselines", "init"
    assert small.does("evaluate", *flags) == 0
    failed = [row for row in raydd.results(small.out).to_pylist() if row["status"] == "failed"]
    assert {row["subject"] for row in failed} == {"synthetic", "init"}
    assert all(row["error"].startswith("RunError: the training loss is ") for row in failed)
    assert all(row["test_accuracy"] is None for row in failed)
    assert small.does("evaluate", *flags) == 0
    again = [row for row in raydd.results(small.out).to_pylist() if row["status"] == "failed"]
    assert [row["record_id"] for row in again] == [row["record_id"] for row in failed]
    assert all(new["time"] > old["time"] for new, old in zip(again, failed, strict=True))
    assert len(raydd.results(small.out)) == len(before) + len(failed)


def test_a_record_is_named_by_what_determines_it(tmp_path: Path) -> None:
    config = configs.load(str(small_run(tmp_path).file))

    def names(changed: configs.RunConfig) -> list[str]:
        run = Run(changed, Folder.at(tmp_path / "elsewhere"))
        return [run.record_id(trial) for trial in run.trials()]

    wanted = names(config)
    assert len(set(wanted)) == len(wanted) == STUDENTS
    cluster = replace(config.cluster, num_workers=4, checkpoint_seconds=1)
    assert names(replace(config, name="other", out="s3://bucket/run", cluster=cluster)) == wanted
    assert names(replace(config, evaluate=replace(config.evaluate, num_students=2)))[::2] == [*wanted[:-1:]] + [
        wanted[-1]
    ]
    for changed in (
        replace(config, seed=1),
        replace(config, method=replace(config.method, iterations=11)),
        replace(config, data=replace(config.data, preprocess="none")),
    ):
        assert not set(names(changed)) & set(wanted)


def test_the_same_images_elsewhere_are_the_same_images(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "here" / "pictures", 5, 2)
    data = {"source": "imagefolder", "root": str(root), "image_size": 16}
    small = small_run(tmp_path, {"data": data, "experts.training.lr": 0.05})
    assert small.does("evaluate") == 0

    def kept() -> State:
        return {name: seen for name, seen in small.artefacts().items() if not name.startswith("work/")}

    before = kept()
    moved = root.parent.rename(tmp_path / "there") / "pictures"
    for file in moved.rglob("*.png"):
        file.touch()
    assert small.does("evaluate", "--data.root", moved) == 0
    assert kept() == before
    other = next((moved / "test" / "rows").iterdir())
    Image.new("RGB", (16, 16)).save(other)
    assert small.does("evaluate", "--data.root", moved) == 0
    assert len(raydd.results(small.out)) == 2 * STUDENTS


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished run of FTD."""
    run = small_run(tmp_path_factory.mktemp("ftd"), {"method": {**COMMON, "name": "ftd", "ema_decay": 0.75}})
    assert run.does("run") == 0
    return run


def test_an_averaged_set_has_its_own_artefact_and_students(averaged: SmallRun) -> None:
    found = {row["subject"]: row for row in raydd.results(averaged.out).to_pylist()}
    assert found.keys() == {"synthetic", "ema", "init", "random", "full"}
    assert all((row["status"], row["method"], row["labels"]) == ("ok", "ftd", "hard") for row in found.values())
    raw, average = raydd.load(averaged.out), raydd.load(averaged.out / "ema")
    start = raydd.load(averaged.out / "stages/000/init")
    assert not torch.equal(raw.synthetic.images, average.synthetic.images)
    assert not torch.equal(start.synthetic.images, average.synthetic.images)
    assert average.learned_lr == raw.learned_lr == found["ema"]["learned_lr"] == found["synthetic"]["learned_lr"]
    assert found["ema"]["record_id"] != found["synthetic"]["record_id"]
    assert average.synthetic.card == raw.synthetic.card | {"ema_decay": 0.75}
    accuracies = [found[subject]["class_accuracy"] for subject in ("synthetic", "ema")]
    assert accuracies[0] != accuracies[1]
    assert "distilled set, EMA" in (averaged.out / "report.html").read_text()


def test_students_of_the_averaged_set_begin_anew(averaged: SmallRun, tmp_path: Path) -> None:
    """The published code trains them on from the learned set's students: here they do not know of those."""
    shutil.copytree(averaged.out, tmp_path / "run")
    again = SmallRun(averaged.file, tmp_path / "run")
    (before,) = (row for row in raydd.results(again.out).to_pylist() if row["subject"] == "ema")
    (again.out / "results" / f"part-{before['record_id']}.parquet").unlink()
    assert again.does("evaluate", "--out", again.out) == 0  # trains this one alone
    (after,) = (row for row in raydd.results(again.out).to_pylist() if row["subject"] == "ema")
    assert after["time"] > before["time"] and after["class_accuracy"] == before["class_accuracy"]


@pytest.mark.parametrize("lost", [["ema"], ["stages/000/ema"], ["ema", "synthetic", "stages/000/ema"]])
def test_an_averaged_set_is_made_again_with_the_same_bits(averaged: SmallRun, lost: list[str], tmp_path: Path) -> None:
    shutil.copytree(averaged.out, tmp_path / "run")
    again = SmallRun(averaged.file, tmp_path / "run")
    before = {name: seen for name, (_, seen) in again.artefacts().items()}
    for name in lost:
        shutil.rmtree(again.out / name)
    assert again.does("evaluate", "--out", again.out) == 0
    after = {name: seen for name, (_, seen) in again.artefacts().items()}
    remade = {name for name in before if not name.startswith(("work", "metrics"))}
    missing = {name for name in remade if name.startswith("stages/000/ema")} if lost == ["stages/000/ema"] else set()
    assert {name: after[name] for name in remade - missing} == {name: before[name] for name in remade - missing}
    assert not missing & after.keys()  # nobody needs what a finished set was made of


def test_a_damaged_averaged_set_is_named(
    averaged: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(averaged.out, tmp_path / "run")
    flip(tmp_path / "run" / "ema" / "images-00000.parquet")
    (tmp_path / "run" / "results").rename(tmp_path / "aside")
    assert SmallRun(averaged.file, tmp_path / "run").does("evaluate", "--out", tmp_path / "run") == 2
    assert "ema/images-00000.parquet" in capsys.readouterr().err.replace("\n", "")


def test_hard_labels_go_end_to_end(tmp_path: Path) -> None:
    changes = {"method.labels": "hard", "method.iterations": 2, "evaluate.baselines": ["random"]}
    small = small_run(tmp_path, changes)
    assert small.does("evaluate") == 0
    assert {(row["subject"], row["labels"]) for row in raydd.results(small.out).to_pylist()} == {
        ("synthetic", "hard"),
        ("random", "hard"),
    }


def test_assigned_labels_go_end_to_end(tmp_path: Path) -> None:
    method = {**COMMON, "name": "mtt", "gradient": "tesla", "labels": "assigned", "synthetic_lr_space": "log"}
    assert small_run(tmp_path, {"method": method}).does("evaluate") == 0
    found = raydd.results(tmp_path / "run").to_pylist()
    assert [(row["subject"], row["labels"]) for row in found].count(("synthetic", "stored")) == 1
    assert {row["labels"] for row in found if row["subject"] == "random"} == {"hard", "stored"}
    assert all(row["status"] == "ok" for row in found)
    assert raydd.load(tmp_path / "run").synthetic.soft_labels is not None


def test_rows_at_once_change_nothing_but_rounding(tmp_path: Path) -> None:
    images = []
    for rows in (10, 3):
        (folder := tmp_path / str(rows)).mkdir()
        own = small_run(folder, {"cluster.rows_at_once": rows})
        assert own.does("distill") == 0
        images.append(SyntheticSet.load(opened(own).synthetic).images)
    assert not torch.equal(*images)
    assert torch.allclose(*images, atol=1e-4)


def test_an_inner_step_is_halved_until_it_fits_into_half_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(finished_run(tmp_path))
    assert auto.rows_at_once(run.last_stage) == 10
    facts = DataFacts(len(run.data.train), len(run.data.test), run.data.shape, run.data.num_classes)
    for rows, wanted in ((10, 10), (9, 5), (5, 5), (4, 3), (1, 1)):
        taken = matching_step(run.config.network, facts, rows, True).memory_bytes
        monkeypatch.setattr(process, "memory_bytes", lambda device, taken=taken: 2 * taken)
        assert auto.rows_at_once(run.last_stage) == wanted, rows


def test_a_run_travels_light(tmp_path: Path) -> None:
    run = opened(finished_run(tmp_path))
    assert len(run.data.train) == 120
    sent = pickle.dumps(run)
    arrived = pickle.loads(sent)
    assert len(sent) < 10_000 and arrived == run and arrived.synthetic_key == run.synthetic_key
