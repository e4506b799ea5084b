"""Runs of the decoupled family from teacher to students, in this process: what is made, resumed and refused."""

import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

import raydd as package
from raydd import config as configs
from raydd.core.errors import ConfigError
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.networks.config import NetworkConfig
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.small import SmallRun, raydd, state

VIEWS = {"min_scale": 0.5, "mix": "cutmix"}
CONFIG: dict[str, Any] = {
    "name": "decoupled",
    "data": {"source": "digits", "train_limit_per_class": 12},
    "network": {"width": 8, "depth": 2, "norm": "batch"},
    "teacher": {"training": {"epochs": 3, "lr": 0.05, "momentum": 0.9, "batch_size": 16, "augmentation": "none"}},
    "method": {"name": "delt", "images_per_class": 3, "iterations": 9, "round_iterations": 3, "batch_size": 9},
    "evaluate": {
        "num_students": 1,
        "random_draws": 1,
        "labels": ["online", "replayed", "hard"],
        "label_epochs": 2,
        "recipe": {
            "epochs": 3,
            "lr": 0.01,
            "optimizer": "adamw",
            "batch_size": 16,
            "schedule": "half_cosine",
            "augmentation": "none",
            "temperature": 20.0,
            "views": VIEWS,
        },
        "full_epochs": 1,
    },
    "cluster": {"checkpoint_seconds": 0},
}
"""Four class groups of three classes, the last of one."""
METHODS: dict[str, dict[str, Any]] = {
    "delt": CONFIG["method"],
    "cda": {"name": "cda", "images_per_class": 2, "iterations": 4, "batch_size": 10, "init": "random"},
    "sre2l": {"name": "sre2l", "images_per_class": 2, "iterations": 4, "batch_size": 4},
    "rded": {"name": "rded", "images_per_class": 2, "candidates": 6, "crops": 2},
    "fadrm": {"name": "fadrm", "images_per_class": 2, "iterations": 4, "segments": 2, "batch_size": 4},
}
GROUPS = {"delt": 4, "cda": 2, "sre2l": 6, "rded": 10, "fadrm": 6}
ITERATIONS = {"delt": 10 * (9 + 6 + 3), "cda": 10 * 2 * 4, "sre2l": 10 * 2 * 4, "rded": 0, "fadrm": 10 * 2 * 4}


def small(folder: Path, **changes: Mapping[str, object]) -> SmallRun:
    """A run of `CONFIG` that is not begun, with some top keys updated."""
    values = copy.deepcopy(CONFIG) | {"out": str(folder / "run")}
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if name != "method" else dict(change)
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return SmallRun(folder / "run.yaml", folder / "run")


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished run of each method; not to be changed."""
    run = small(tmp_path_factory.mktemp(request.param), method=METHODS[request.param])
    assert run.does("run") == 0
    return run


def opened(run: SmallRun) -> Run:
    config = configs.load(str(run.file))
    return Run(config, Folder.at(config.out))


def test_every_class_group_is_an_artefact_and_the_set_their_union(finished: SmallRun) -> None:
    run = opened(finished)
    name = run.config.method.name
    (stage,) = run.stages
    assert stage.num_groups == GROUPS[name] == len((stage.folder / "groups").folders())
    made = SyntheticSet.load(run.synthetic)
    count = run.config.method.images_per_class
    assert made.labels.tolist() == [label for label in range(10) for _ in range(count)]
    of_groups = [SyntheticSet.load(stage.group(number) / "synthetic") for number in range(stage.num_groups)]
    for label in range(10):
        parts = torch.cat([part.images[part.labels == label] for part in of_groups])
        assert torch.equal(parts, made.images[made.labels == label])
    assert made.card["image_iterations"] == ITERATIONS[name] == run.config.method.image_iterations(10)
    assert verify(run.folder)


def test_images_are_whole_pixels_and_stored_once(finished: SmallRun) -> None:
    table = pq.read_table(finished.out / "synthetic" / "images-00000.parquet")
    assert table["tensor"].null_count == table.num_rows and table["image"].null_count == 0
    made = SyntheticSet.load(Folder.at(finished.out / "synthetic"))
    assert torch.equal(made.preprocessing.forward(made.pixels()), made.images)


def test_a_ranking_is_made_only_where_it_is_used(finished: SmallRun) -> None:
    uses = "ranking" in opened(finished).config.method.made_first
    assert (finished.out / "ranking" / "manifest.json").exists() == uses
    if uses:
        table = pq.read_table(finished.out / "ranking" / "ranking.parquet")
        assert table.num_rows == 120 and {"class", "path", "p_true"} <= set(table.column_names)


def test_students_learn_under_every_regime_of_labels(finished: SmallRun) -> None:
    table = package.results(finished.out).to_pylist()
    rows = {(row["subject"], row["labels"]): row for row in table}
    regimes = {"online", "replayed", "hard"}
    assert {labels for subject, labels in rows if subject == "synthetic"} == regimes
    assert {labels for subject, labels in rows if subject == "random"} == {"online", "hard"}
    assert all(row["status"] == "ok" and row["optimizer"].startswith("adamw") for row in table)
    images = 10 * opened(finished).config.method.images_per_class
    forwards = {labels: rows["synthetic", labels]["teacher_forwards"] for labels in regimes}
    assert forwards == {"online": 3 * images, "replayed": 2 * images, "hard": 0}
    sizes = {labels: rows["synthetic", labels]["bytes_total"] for labels in regimes}
    assert sizes["hard"] < sizes["replayed"] and sizes["hard"] < sizes["online"]
    parts = {labels: dict(rows["synthetic", labels]["metrics"]) for labels in regimes}
    for labels, named in (("online", "bytes.teacher"), ("replayed", "bytes.labels")):
        assert parts[labels]["bytes.images"] + parts[labels][named] == sizes[labels]
    similar = dict(rows["synthetic", "online"]["metrics"])
    assert 0 < similar["centroid_similarity"] <= 1
    of_classes = [value for name, value in similar.items() if name.startswith("centroid_similarity.")]
    assert len(of_classes) == 10
    assert sum(of_classes) / 10 == pytest.approx(similar["centroid_similarity"])


def test_the_second_run_makes_nothing(finished: SmallRun) -> None:
    before = finished.artefacts()
    assert finished.does("run") == 0
    assert finished.artefacts() == before


def test_the_set_comes_with_its_recipe_and_can_be_trained_on(finished: SmallRun) -> None:
    dataset = package.load(finished.out)
    assert dataset.recipe.views is not None and dataset.recipe.temperature == 20
    assert dataset[0][1].dtype == torch.int64
    data = configs.load(str(finished.file)).data
    (record,) = package.evaluate(dataset, data, network=NetworkConfig(width=4, depth=2), num_students=1)
    assert record.status == "ok" and record.labels == "hard" and record.teacher_forwards == 0


def test_only_unfinished_groups_are_made_again(finished: SmallRun, tmp_path: Path) -> None:
    shutil.copytree(finished.out, tmp_path / "run")
    run = SmallRun(finished.file, tmp_path / "run")
    kept = state(run.out / "stages" / "000" / "groups" / "00000")
    wanted = SyntheticSet.load(Folder.at(run.out / "synthetic")).images
    for folder in ("synthetic", "stages/000/synthetic", "stages/000/groups/00001"):
        shutil.rmtree(run.out / folder)
    assert run.does("distill", "--out", run.out) == 0
    assert state(run.out / "stages" / "000" / "groups" / "00000") == kept
    assert torch.equal(SyntheticSet.load(Folder.at(run.out / "synthetic")).images, wanted)


class Interrupts(NoProgress):
    """Presses Ctrl-C when the second class group has come to its middle."""

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if str(task) == "recover 2-2 of 4 groups" and done == 5:
            raise KeyboardInterrupt


def test_a_group_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    for name in ("disturbed", "undisturbed"):
        (tmp_path / name).mkdir()
    disturbed, undisturbed = small(tmp_path / "disturbed"), small(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        execution.execute(configs.load(str(disturbed.file)), LocalExecutor(), Interrupts(), "distill")
    assert len(list((disturbed.out / "work" / "checkpoints").glob("groups-*"))) == 1
    for run in (disturbed, undisturbed):
        assert run.does("distill") == 0
    for folder in ("teacher", "ranking", "stages/000/groups/00001/synthetic", "synthetic"):
        manifests = [json.loads((run.out / folder / "manifest.json").read_text()) for run in (disturbed, undisturbed)]
        assert manifests[0] == manifests[1]


def test_packed_groups_agree_with_single_ones(tmp_path: Path) -> None:
    run = small(tmp_path)
    assert run.does("distill") == 0
    alone = SyntheticSet.load(Folder.at(run.out / "synthetic"))
    flags = "--cluster.groups-at-once", 3, "--out", tmp_path / "packed"
    assert run.does("distill", *flags) == 0
    packed = SyntheticSet.load(Folder.at(tmp_path / "packed" / "synthetic"))
    assert (packed.pixels().int() - alone.pixels().int()).abs().max() <= 1
    assert packed.card["image_iterations"] == alone.card["image_iterations"]


def test_from_nothing_to_students_that_know_more_than_chance(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The smoke test of the specification: ten classes, depth 3, 2 images a class, 8 iterations in rounds of 4."""
    evaluate = {**CONFIG["evaluate"], "labels": ["online"], "baselines": []}
    evaluate["recipe"] = {**evaluate["recipe"], "epochs": 60, "batch_size": 10, "views": {"mix": "none", "flip": False}}
    run = small(
        tmp_path,
        data={"train_limit_per_class": None},
        network={"depth": 3, "width": 16},
        teacher={"training": {**CONFIG["teacher"]["training"], "epochs": 8}},
        method={**CONFIG["method"], "images_per_class": 2, "iterations": 8, "round_iterations": 4},
        evaluate=evaluate,
    )
    began = time.perf_counter()
    assert run.does("run") == 0
    record_property("seconds", time.perf_counter() - began)
    (row,) = package.results(run.out).to_pylist()
    assert row["test_accuracy"] > 0.2


def test_runs_share_a_teacher(tmp_path: Path) -> None:
    run = small(tmp_path, teacher={**CONFIG["teacher"], "store": str(tmp_path / "teachers"), "seed": 0})
    assert run.does("teacher") == 0
    before = state(tmp_path / "teachers")
    assert run.does("distill", "--seed", 1) == 0
    assert state(tmp_path / "teachers") == before
    assert not (run.out / "teacher").exists()


@pytest.mark.parametrize(
    ("changes", "step", "words"),
    [
        ({}, "experts", ["method.name", "delt", "teacher"]),
        ({"method": METHODS["rded"]}, "run", []),
        ({"data": {"streaming": "on"}}, "run", ["data.streaming"]),
        ({"network": {"norm": "instance"}}, "run", ["teacher.network", "batch norm"]),
        ({"evaluate": {"recipe": {"epochs": 3}}}, "run", ["evaluate.recipe.views"]),
        ({"data": {"preprocess": "zca"}}, "run", ["data.preprocess"]),
        ({"method": {**CONFIG["method"], "images_per_class": 13}}, "run", ["method.images_per_class", "13"]),
        ({"method": {**CONFIG["method"], "round_iterations": 4}}, "run", ["method.round_iterations"]),
    ],
    ids=["step", "fine", "streaming", "norm", "views", "zca", "few images", "rounds"],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], step: str, words: list[str]
) -> None:
    run = small(tmp_path, **changes)
    assert run.does(step) == (2 if words else 0)
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert run.out.exists() == (not words)


def test_views_are_for_sets_that_a_teacher_labels() -> None:
    config = configs.from_mapping({"method": {"name": "mtt"}, "experts": {"training": {"epochs": 30}}})
    with pytest.raises(ConfigError, match=r"evaluate\.protocol"):
        replace(config, evaluate=replace(config.evaluate, protocol="delt"))


def test_another_teacher_is_not_put_in_the_place_of_a_finished_one(
    finished: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.artefacts()
    assert raydd("run", finished.file, "--no-ray", "--quiet", "--teacher.training.epochs", 2) == 2
    assert "teacher.training.epochs" in capsys.readouterr().err
    assert finished.artefacts() == before
