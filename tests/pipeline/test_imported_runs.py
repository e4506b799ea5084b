"""From other code's files to records: `raydd import` and the run that it makes ready."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import raydd
from raydd import config as configs
from raydd.cli.main import main
from raydd.core.errors import ArtefactError, ConfigError, DataError, UserError
from raydd.core.progress import NoProgress, Progress
from raydd.exchange.export import ExportTerms, export
from raydd.ingredients.base import Ingredient
from raydd.methods.imported import fingerprint
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.runs.run import Run
from raydd.sets.formation import Formation
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Artefact, Folder
from tests.support import foreign
from tests.support.runs import CONFIG

SHORT = {"epochs": 3, "lr": None, "momentum": 0.9, "batch_size": 10, "augmentation": "none"}
SET_WITH_LR: dict[str, Any] = {
    **foreign.CONFIG,
    "evaluate": {**foreign.CONFIG["evaluate"], "recipe": {**SHORT, "lr": 0.1}},
}
SET: dict[str, Any] = {**foreign.CONFIG, "evaluate": {**foreign.CONFIG["evaluate"], "recipe": SHORT}}


def execute(file: Path, last_step: str = "evaluate") -> Run:
    return execution.execute(configs.load(str(file)), LocalExecutor(), NoProgress(), last_step)


def soft_set(folder: Path, seed: int = 1) -> Path:
    return foreign.write_triple(folder, foreign.images(foreign.digits(), seed=seed), foreign.logits(), 0.03)


def test_from_files_to_records(tmp_path: Path) -> None:
    source = soft_set(tmp_path / "datm")
    file = foreign.run_import(source, "pt", tmp_path / "run", "--soft-labels", "logits", config=SET)
    run = execute(file)
    made = SyntheticSet.load(run.synthetic)
    assert torch.equal(made.images, foreign.images(foreign.digits()))
    assert made.soft_labels is not None and torch.equal(made.soft_labels, foreign.logits())
    assert made.card["source"]["format"] == "pt" and len(made.card["source"]["files"]) == 3
    rows = raydd.results(run.folder.path).to_pylist()
    assert [(row["subject"], row["labels"]) for row in rows].count(("imported", "stored")) == 1
    assert {(row["subject"], row["labels"]) for row in rows} == {
        ("imported", "stored"),
        ("imported", "hard"),
        ("random", "hard"),
        ("full", "hard"),
    }
    assert all(row["status"] == "ok" and row["method"] == "imported" for row in rows)
    assert [row["learned_lr"] for row in rows if row["subject"] == "imported"] == [pytest.approx(0.03)] * 2
    assert execute(file).folder == run.folder
    plan = execution.plan_of(configs.load(str(file)))
    assert {step.work: step.flops for step in plan.steps}["distill"] == 0


def test_the_set_of_a_run_gives_the_same_students(tmp_path: Path) -> None:
    """The path may also be the `synthetic` folder of a run; the same set is the same training set."""
    file = foreign.run_import(soft_set(tmp_path / "datm"), "pt", tmp_path / "a", "--soft-labels", "logits", config=SET)
    first = execute(file)
    values = yaml.safe_load(file.read_text())
    values["out"], values["method"]["path"] = str(tmp_path / "b"), str(tmp_path / "a" / "synthetic")
    again = tmp_path / "b.yaml"
    again.write_text(yaml.safe_dump(values))
    second = execute(again)
    assert first.synthetic_key == second.synthetic_key
    accuracies = [
        {row["record_id"]: row["test_accuracy"] for row in raydd.results(run.folder.path).to_pylist()}
        for run in (first, second)
    ]
    assert accuracies[0] == accuracies[1]


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    flags = ("--soft-labels", "logits")
    foreign.run_import(soft_set(tmp_path / "datm"), "pt", tmp_path / "a", *flags, config=SET)
    own = Folder.at(tmp_path / "a" / "imported")
    export(own, "pt", Folder.at(tmp_path / "pt"))
    export(own, "imagefolder", Folder.at(tmp_path / "png"))
    foreign.run_import(tmp_path / "pt", "pt", tmp_path / "b", *flags, config=SET)
    again = Folder.at(tmp_path / "b" / "imported")
    assert fingerprint(SyntheticSet.load(again)) == fingerprint(SyntheticSet.load(own))
    foreign.run_import(tmp_path / "png", "imagefolder", tmp_path / "c", "--recipe", "dsa", config=SET)
    assert torch.equal(
        SyntheticSet.load(Folder.at(tmp_path / "c" / "imported")).pixels(), SyntheticSet.load(own).pixels()
    )


@pytest.mark.parametrize("form", ["pt", "imagefolder", "parquet"])
@pytest.mark.parametrize("soft", [False, True])
def test_an_export_of_raydd_comes_back_without_a_question(form: Any, soft: bool, tmp_path: Path) -> None:
    """Space, kind of labels, order of classes, step size and recipe are those of its card."""
    labels = foreign.logits() if soft else foreign.classes()
    theirs = foreign.write_triple(tmp_path / "theirs", foreign.images(foreign.digits()), labels, 0.03)
    asked = ("--soft-labels", "logits") if soft else ()
    foreign.run_import(theirs, "pt", tmp_path / "a", *asked, config=SET)
    own = SyntheticSet.load(Folder.at(tmp_path / "a" / "imported"))
    export(Folder.at(tmp_path / "a" / "imported"), form, Folder.at(tmp_path / "out"), ExportTerms(measure=False))
    data = {"source": "digits", "train_limit_per_class": 12}
    file = foreign.run_import(tmp_path / "out", form, tmp_path / "b", config={"data": data})
    again, config = SyntheticSet.load(Folder.at(tmp_path / "b" / "imported")), configs.load(str(file))
    assert torch.equal(again.labels, own.labels) and again.learned_lr == pytest.approx(own.learned_lr)
    assert (again.soft_labels is None) == (not soft)
    if soft:
        assert own.soft_labels is not None and again.soft_labels is not None
        assert torch.equal(again.soft_labels, own.soft_labels)
    if form == "imagefolder":
        assert torch.equal(again.pixels(), own.pixels())
    else:
        assert torch.equal(again.images, own.images)
    assert (config.data.preprocess, config.data.statistics) == ("standardise", "computed")
    assert config.evaluate.recipe == configs.load(str(tmp_path / "a" / "import.yaml")).evaluate.recipe
    if form == "pt":
        assert config.method.fingerprint == fingerprint(own)  # type: ignore[union-attr]


def test_an_export_of_other_pixels_or_classes_or_a_damaged_one_does_not_come_back(tmp_path: Path) -> None:
    foreign.run_import(soft_set(tmp_path / "theirs"), "pt", tmp_path / "a", "--soft-labels", "logits", config=SET)
    out = tmp_path / "out"
    export(Folder.at(tmp_path / "a" / "imported"), "pt", Folder.at(out))

    def refused(words: str, form: str = "pt", *flags: str, **data: Any) -> None:
        config = {"data": {**foreign.CONFIG["data"], **data}}
        with pytest.raises(UserError, match=words):
            foreign.run_import(out, form, tmp_path / "b", *flags, config=config)
        assert not (tmp_path / "b").exists()

    refused("data.statistics: .* apart", train_limit_per_class=100)
    refused("say --format pt", "imagefolder")
    refused("its classes are not those of", classes=[0, 1, 2])
    refused("in another order than --class-order", "pt", "--class-order", "9,8,7,6,5,4,3,2,1,0")
    (out / "labels_best.pt").write_bytes((out / "labels_best.pt").read_bytes()[:-1])
    refused("labels_best.pt: is not the file that card.json names")
    (out / "labels_best.pt").unlink()
    refused("labels_best.pt: is missing")
    card = json.loads((out / "card.json").read_text())
    (out / "card.json").write_text(json.dumps({**card, "class_names": 3}))
    refused("card.json: class_names")


def test_mosaics_of_idc_become_a_run(tmp_path: Path) -> None:
    """The README's command, by the flags of the command line; the students see four images of each stored one."""
    torch.save([torch.rand(20, 1, 8, 8), foreign.classes()], tmp_path / "data.pt")
    file = foreign.run_import(tmp_path / "data.pt", "idc", tmp_path / "a", "--factor", 2, config=SET_WITH_LR)
    assert configs.load(str(file)).method.formation == Formation(factor=2)  # type: ignore[union-attr]
    rows = raydd.results(execute(file).folder.path).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["images_per_class"] for row in rows if row["subject"] == "imported"} == {2}


def test_a_network_of_auto_depth_is_imported_for(tmp_path: Path) -> None:
    config = {**SET, "network": {"width": 8, "depth": "auto"}}
    flags = ("--soft-labels", "logits")
    file = foreign.run_import(soft_set(tmp_path / "theirs"), "pt", tmp_path / "a", *flags, config=config)
    assert yaml.safe_load(file.read_text())["network"]["depth"] in ("auto", 3)
    execute(file)


def test_a_distilled_set_leaves_by_pt_and_comes_back_as_it_was(tmp_path: Path) -> None:
    """The four commands of a user: run, export, import, run; the same seeds train the same students."""
    config = {**CONFIG, "out": str(tmp_path / "a")}
    longer = {**config["evaluate"]["recipe"], "epochs": 60}
    config["evaluate"] = {**config["evaluate"], "num_students": 2, "baselines": [], "recipe": longer}
    first, second, pt = tmp_path / "a.yaml", tmp_path / "b" / "import.yaml", tmp_path / "pt"
    first.write_text(yaml.safe_dump(config))
    space = ("--preprocess", "standardise", "--statistics", "computed", "--soft-labels", "logits")
    came_back = ("--format", "pt", "--to", str(second.parent), "--config", str(first), *space)
    for command in (
        ["run", str(first), "--no-ray", "--quiet"],
        ["export", str(tmp_path / "a"), "--format", "pt", "--to", str(pt)],
        ["import", str(pt), *came_back],
        ["run", str(second), "--no-ray", "--quiet"],
    ):
        assert main(command) == 0, command
    ours, theirs = (
        {
            (row["labels"], row["student_seed"]): (row["test_accuracy"], row["learned_lr"])
            for row in raydd.results(run).to_pylist()
            if row["subject"] == subject
        }
        for run, subject in ((tmp_path / "a", "synthetic"), (tmp_path / "b", "imported"))
    )
    assert ours == theirs
    assert len({accuracy for accuracy, _ in ours.values()}) == 4 and max(ours.values())[0] > 0.3


def test_another_set_under_the_same_path_is_noticed(tmp_path: Path) -> None:
    file = foreign.run_import(soft_set(tmp_path / "one"), "pt", tmp_path / "a", "--soft-labels", "logits", config=SET)
    other = foreign.run_import(
        soft_set(tmp_path / "two", 7), "pt", tmp_path / "b", "--soft-labels", "logits", config=SET
    )
    keys = [Run.of(configs.load(str(each))).synthetic_key for each in (file, other)]
    assert keys[0] != keys[1]
    shutil.rmtree(tmp_path / "a" / "imported")
    with pytest.raises(ArtefactError, match="no synthetic set here"):
        execute(file)
    shutil.copytree(tmp_path / "b" / "imported", tmp_path / "a" / "imported")
    with pytest.raises(ConfigError, match=r"method\.fingerprint"):
        execute(file)
    assert not (tmp_path / "a" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("data", {"preprocess": "none"}, ["data.preprocess", "made under standardise"]),
        ("data", {"train_limit_per_class": 100}, ["data.statistics", "apart"]),
        ("data", {"image_size": 16}, ["data.image_size", "1x8x8"]),
        ("method", {"images_per_class": 3}, ["method.images_per_class", "[2]"]),
        ("method", {"labels": "hard"}, ["method.labels", "stored"]),
        ("method", {"formation": {"factor": 2}}, ["method.formation", "None"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_a_set_that_does_not_fit_is_refused(
    tmp_path: Path, section: str, changes: dict[str, Any], words: list[str]
) -> None:
    file = foreign.run_import(soft_set(tmp_path / "set"), "pt", tmp_path / "run", "--soft-labels", "logits", config=SET)
    values = yaml.safe_load(file.read_text())
    values[section] |= changes
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        execute(file)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["import.yaml", "imported"]


def test_stages_are_gone_through(tmp_path: Path) -> None:
    parts = [(foreign.images(foreign.digits(), 1, seed), foreign.classes(1)) for seed in range(2)]
    source = foreign.write_stages(tmp_path / "pdd", parts)
    file = foreign.run_import(source, "pdd", tmp_path / "run", config=SET)
    values = yaml.safe_load(file.read_text())
    values["stages"]["epochs"] = 2
    values["evaluate"] |= {"baselines": [], "budgets": ["reference"]}
    file.write_text(yaml.safe_dump(values))
    run = execute(file)
    made = SyntheticSet.load(run.synthetic)
    assert (
        torch.equal(made.images, torch.cat([images for images, _ in parts]))
        and made.stage.tolist() == [0] * 10 + [1] * 10
    )
    assert made.learned_lr == pytest.approx((0.02, 0.04))
    rows = raydd.results(run.folder.path).to_pylist()
    shown = [(row["subject"], row["mode"], row["stage"], row["num_images"], row["learned_lr"]) for row in rows]
    assert sorted(shown) == [
        ("imported", "chain", 0, 10, pytest.approx(0.02)),
        ("imported", "chain", 1, 20, pytest.approx(0.04)),
        ("imported", "single_shot", 1, 20, pytest.approx(0.04)),
    ]


def test_nothing_is_left_to_a_default(tmp_path: Path) -> None:
    source = foreign.write_triple(tmp_path / "set", foreign.images(foreign.digits()), foreign.classes())
    bare = {"data": {"source": "digits", "train_limit_per_class": 12}}
    with pytest.raises(UserError, match=r"--preprocess none, standardise or zca; and --statistics"):
        foreign.run_import(source, "pt", tmp_path / "run", config=bare)
    space = ("--preprocess", "standardise", "--statistics", "computed")
    with pytest.raises(UserError, match=r"add --lr, or a --recipe"):
        foreign.run_import(source, "pt", tmp_path / "run", *space, config=bare)
    assert not (tmp_path / "run").exists()
    config = configs.load(str(foreign.run_import(source, "pt", tmp_path / "run", *space, "--lr", 0.02, config=bare)))
    recipe = config.evaluate.recipe
    assert config.evaluate.recipe_name == "mtt" and (recipe.epochs, recipe.batch_size, recipe.lr) == (1001, 256, None)
    with pytest.raises(UserError, match="already; choose another --to"):
        foreign.run_import(source, "pt", tmp_path / "run", *space, "--lr", 0.02, config=bare)
    other = configs.load(str(foreign.run_import(source, "pt", tmp_path / "b", *space, "--recipe", "dsa", config=bare)))
    assert (other.evaluate.recipe_name, other.evaluate.recipe.lr) == ("dsa", 0.01)
    with pytest.raises(UserError, match=r"--experiment: means nothing for --format pt"):
        foreign.run_import(source, "pt", tmp_path / "c", "--experiment", 0)


def test_fingerprints_tell_sets_apart(tmp_path: Path) -> None:
    file = foreign.run_import(soft_set(tmp_path / "set"), "pt", tmp_path / "run", "--soft-labels", "logits", config=SET)
    found = SyntheticSet.load(Folder.at(tmp_path / "run" / "imported"))
    assert fingerprint(found) == configs.load(str(file)).method.fingerprint  # type: ignore[union-attr]
    assert found.soft_labels is not None
    others = [
        replace(found, images=found.images + 1e-6),
        replace(found, labels=found.labels.flip(0)),
        replace(found, soft_labels=found.soft_labels.flip(0)),
        replace(found, learned_lr=(0.031,)),
        replace(found, class_names=found.class_names[::-1]),
    ]
    assert len({fingerprint(other) for other in [found, *others]}) == 6
    assert fingerprint(replace(found, card={})) == fingerprint(found)


EXPERTS: dict[str, Any] = {
    **foreign.CONFIG,
    "experts": {"training": {"lr": 0.3, "batch_size": 8, "augmentation": "none"}},
    "method": {
        "name": "mtt",
        "images_per_class": 1,
        "iterations": 2,
        "synthetic_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 2,
        "image_lr": 1.0,
        "augmentation": "none",
    },
}


class TrainsNothing(LocalExecutor):
    """Fails where experts or a teacher are to be trained."""

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        assert not {"experts", "teacher"} & {ingredient.kind for ingredient in wanted}, "they are there"
        super().make(run, wanted, progress, others)


def write_buffers(folder: Path, files: list[list[Any]]) -> Path:
    folder.mkdir()
    for number, trajectories in enumerate(files):
        torch.save(trajectories, folder / f"replay_buffer_{number}.pt")
    return folder


def test_experts_are_found_by_the_run(tmp_path: Path) -> None:
    trajectories = [foreign.trajectory(seed, 4) for seed in range(3)]
    source = write_buffers(tmp_path / "buffers", [trajectories[:2], trajectories[2:]])
    file = foreign.run_import(source, "experts", tmp_path / "run", config=EXPERTS)
    config = configs.load(str(file))
    assert (config.experts.count, config.experts.training.epochs) == (3, 4)
    run = execution.execute(config, TrainsNothing(), NoProgress(), "distill")
    for expert, epochs in enumerate(trajectories):
        for epoch, params in enumerate(epochs):
            flat = torch.cat([part.flatten() for part in params])
            assert torch.equal(run.experts.store.params(expert, epoch), flat)
    Artefact.require(run.experts.store.folder).verify()
    assert run.has_synthetic()


def test_buffers_that_are_not_trajectories_are_refused(tmp_path: Path) -> None:
    good = foreign.trajectory(0, 2)
    aliased = foreign.trajectory(0, 2, copied=False)
    spoiled = [[part.clone() for part in params] for params in good]
    spoiled[1][2][0] = torch.nan
    cases: dict[str, tuple[list[Any], str]] = {
        "aliased": ([good, aliased], r"trajectory 1: all 3 epochs have the same parameters"),
        "twice": ([[good[0], good[0], good[1]]], r"epochs 0 and 1 have the same parameters"),
        "nan": ([spoiled], r"trajectory 0, epoch 1: parameters are not all finite"),
        "short": ([good, good[:2]], r"from 1 to 2 epochs"),
        "network": ([[params[:-1] for params in good]], r"parameter tensors, convnet-d2-w8-instance has"),
        "shape": ([[[part.flip(0)[:4] for part in params] for params in good]], r"is \[4, .*correct `network`"),
        "objects": ([[tmp_path]], "holds pickled objects"),
    }
    for name, (content, words) in cases.items():
        source = write_buffers(tmp_path / name, [content])
        with pytest.raises(DataError, match=words):
            foreign.run_import(source, "experts", tmp_path / "run", config=EXPERTS)
    guessing = [[part + torch.randn_like(part) for part in params] for params in good]
    with pytest.raises(ConfigError, match="which is guessing"):
        foreign.run_import(write_buffers(tmp_path / "guess", [[guessing]]), "experts", tmp_path / "run", config=EXPERTS)
    rolled = [[*params[:-2], params[-2].roll(1, 0), params[-1].roll(1, 0)] for params in good]
    with pytest.raises(ConfigError, match=r"^data.classes: .* looks like another class order: .* 0→1, 1→2"):
        foreign.run_import(write_buffers(tmp_path / "roll", [[rolled]]), "experts", tmp_path / "run", config=EXPERTS)
    source = write_buffers(tmp_path / "good", [[good]])
    with pytest.raises(UserError, match="do not say how the experts were trained"):
        foreign.run_import(source, "experts", tmp_path / "run")
    for field, value in (("count", 2), ("training", {"lr": 0.1, "epochs": 5})):
        wrong = {**EXPERTS, "experts": {**EXPERTS["experts"], field: value}}
        with pytest.raises(UserError, match=rf"experts\.{field}"):
            foreign.run_import(source, "experts", tmp_path / "run", config=wrong)
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_taken_over_once_its_class_order_is_said(tmp_path: Path) -> None:
    data, state = foreign.digits(), foreign.taught_digits()
    turned = {name: t.flip(0) if name.startswith("head.") else t for name, t in state.items()}
    weights, backwards = tmp_path / "weights.pt", tmp_path / "backwards.pt"
    torch.save(state, weights)
    torch.save(turned, backwards)
    protocol = {"protocol": "rd3", "num_students": 1}
    method = {"name": "rded", "images_per_class": 1}
    config = {**foreign.CONFIG, "network": {"width": 8, "depth": 2, "norm": "batch"}, "method": method}
    config["evaluate"] = protocol
    with pytest.raises(UserError, match="add --class-order data"):
        foreign.run_import(weights, "teacher", tmp_path / "run", config=config)
    with pytest.raises(ConfigError, match="looks like another class order"):
        foreign.run_import(backwards, "teacher", tmp_path / "run", "--class-order", "data", config=config)
    assert not (tmp_path / "run" / "import.yaml").exists()
    made = foreign.run_import(weights, "teacher", tmp_path / "run", "--class-order", "data", config=config)
    assert configs.load(str(made)).teacher.weights == str(weights)
    order = ",".join(data.class_names[::-1])
    made = foreign.run_import(backwards, "teacher", tmp_path / "b", "--class-order", order, config=config)
    taken = configs.load(str(made)).teacher
    assert taken.weights == str(backwards) and taken.class_order == data.class_names[::-1]
