"""Runs of several stages, on digits and in this process: what PDD promises of them (specification, section 7.4)."""

import copy
import hashlib
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import raydd as package
from raydd import config as configs
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.evaluation.students.training import training_on
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.network_pool import network_state, without_momenta
from raydd.ingredients.setting import build_seeded
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.training_sets import training_set
from raydd.storage import Folder
from tests.pipeline.test_condensation_runs import METHODS as CONDENSED
from tests.pipeline.test_condensation_runs import RECIPE
from tests.pipeline.test_decoupled_runs import CONFIG as TEACHER
from tests.support.small import COMMON, SmallRun, raydd, state
from tests.support.small import CONFIG as DATM

STAGES: dict[str, Any] = {"count": 3, "pool_size": 2, "epochs": 4}
CONDENSATION: dict[str, Any] = {**DATM, "evaluate": {**DATM["evaluate"], "recipe": RECIPE}}
METHODS: dict[str, dict[str, Any]] = {
    "mtt": {**DATM, "method": {**COMMON, "name": "mtt"}},
    "datm": DATM,
    "ftd": {**DATM, "method": {**COMMON, "name": "ftd", "ema_decay": 0.9}},
    "dm": {**CONDENSATION, "method": CONDENSED["dm"]},
}


def staged(folder: Path, base: dict[str, Any], stages: dict[str, Any] | None = None, **changes: Any) -> SmallRun:
    """A run of a base method in stages that is not begun."""
    values = copy.deepcopy(base) | {"out": str(folder / "run")} | changes
    if stages is not None:
        values["stages"] = stages
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    return SmallRun(file, folder / "run")


def opened(run: SmallRun) -> Run:
    config = configs.load(str(run.file))
    return Run(config, Folder.at(config.out))


def images(folder: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("images-*.parquet"))]


@cache
def finished(method: str) -> SmallRun:
    """A finished run of three stages; shared, so not to be changed."""
    run = staged(Path(mkdtemp()), METHODS[method], STAGES)
    assert run.does("run") == 0
    return run


@pytest.fixture(params=["mtt", "dm"])
def done(request: pytest.FixtureRequest, tmp_path: Path) -> SmallRun:
    """A copy of a finished run of three stages."""
    method: str = request.param
    shutil.copytree(finished(method).out, tmp_path / "run")
    return staged(tmp_path, METHODS[method], STAGES)


# One stage


BASES = {
    **METHODS,
    **{name: {**CONDENSATION, "method": CONDENSED[name]} for name in ("dc", "dsa")},
    **{
        name: {**TEACHER, "method": method}
        for name, method in {
            "delt": TEACHER["method"],
            "sre2l": {"name": "sre2l", "images_per_class": 2, "iterations": 3},
            "cda": {"name": "cda", "images_per_class": 2, "iterations": 3},
            "rded": {"name": "rded", "images_per_class": 2},
        }.items()
    },
}


@pytest.mark.parametrize("name", BASES)
def test_one_stage_is_the_base_method(name: str, tmp_path: Path) -> None:
    """Whatever `stages` says of later stages: there are none."""
    plain = staged(tmp_path / "plain", BASES[name])
    one = staged(tmp_path / "one", BASES[name], {**STAGES, "count": 1})
    assert plain.does("distill") == one.does("distill") == 0
    assert images(plain.out / "synthetic") == images(one.out / "synthetic") != []
    assert opened(plain).synthetic_key == opened(one).synthetic_key


# Parts, unions and keys


@pytest.mark.slow
def test_earlier_parts_stay_as_they_are(tmp_path: Path) -> None:
    """They do while later stages are made, and every union begins with them, bit for bit."""
    run = staged(tmp_path, METHODS["mtt"], {**STAGES, "count": 1})
    assert run.does("run") == 0
    before = {name: seen for name, seen in state(run.out / "stages").items() if seen[1] != "folder"}
    more = staged(tmp_path, METHODS["mtt"], STAGES)
    assert more.does("run") == 0
    after = state(run.out / "stages")
    assert {name: after[name] for name in before} == before
    whole = opened(more).last_stage.union()
    first, second, third = (stage.part() for stage in opened(more).stages)
    assert torch.equal(whole.images, torch.cat([first.images, second.images, third.images]))
    assert whole.stage.tolist() == [0] * len(first) + [1] * len(second) + [2] * len(third)
    assert len(whole.learned_lr) == 3


def test_a_stage_can_be_appended(done: SmallRun) -> None:
    run = opened(done)
    before = state(done.out / "stages")
    assert done.does("run", "--stages.count", "4") == 0
    after = state(done.out / "stages")
    assert {name: after[name] for name in before if "/" in name and before[name][1] != "folder"} == {
        name: seen for name, seen in before.items() if "/" in name and seen[1] != "folder"
    }
    assert len(package.load(done.out)) == 4 * len(run.stages[0].part())
    assert done.does("run") == 2, "a stage less would have to replace the set"


def test_every_view_of_a_union_has_the_same_images(done: SmallRun) -> None:
    """Stage after stage, class after class, and the prefix of each stage."""
    run = opened(done)
    whole = run.last_stage.union()
    by_class = whole.labels.argsort(stable=True)
    seen = {bytes(image.numpy().tobytes()) for image in whole.images}
    assert len(seen) == len(whole) == len(by_class)
    assert {bytes(image.numpy().tobytes()) for image in whole.images[by_class]} == seen
    parts = [run.stages[number].part() for number in range(3)]
    for number in range(3):
        prefix = run.stages[number].union()
        assert torch.equal(prefix.images, whole.images[: len(prefix)])
        assert torch.equal(prefix.images, torch.cat([part.images for part in parts[: number + 1]]))
        assert (whole.stage[: len(prefix)] <= number).all() and (whole.stage[len(prefix) :] > number).all()


def test_settings_of_a_stage_leave_the_keys_of_earlier_ones(tmp_path: Path) -> None:
    plain = opened(staged(tmp_path / "a", METHODS["mtt"], STAGES))
    other = opened(staged(tmp_path / "b", METHODS["mtt"], {**STAGES, "overrides": {2: {"image_lr": 3.0}}}))
    keys = [[stage.key for stage in run.stages] for run in (plain, other)]
    assert keys[0][:2] == keys[1][:2] and keys[0][2] != keys[1][2]
    assert plain.stages[2].pool_key == other.stages[2].pool_key


def test_branches_share_their_first_stages(tmp_path: Path) -> None:
    shared = {**STAGES, "count": 2, "store": str(tmp_path / "stages")}
    assert staged(tmp_path / "a", METHODS["dm"], shared).does("distill") == 0
    made = {name: seen for name, seen in state(tmp_path / "stages").items() if seen[1] != "folder"}
    branch = staged(tmp_path / "b", METHODS["dm"], {**shared, "overrides": {1: {"image_lr": 0.3}}})
    assert branch.does("distill") == 0
    after = state(tmp_path / "stages")
    assert {name: after[name] for name in made} == made
    first, second = opened(branch).stages
    new = {name.split("/")[0] for name in after} - {name.split("/")[0] for name in made}
    assert new == {second.key} and first.folder.path.is_dir()


# Interruptions


class Stop(Exception):
    """Raised where a run is broken off."""


class StopAfter(NoProgress):
    """Breaks off after so many updates of progress."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stop


@pytest.mark.parametrize(
    ("method", "updates"),
    [
        ("dm", 17),
        *(
            pytest.param(method, updates, marks=pytest.mark.slow)
            for method, updates in [
                ("mtt", 17),
                ("mtt", 38),
                ("mtt", 53),
                ("datm", 17),
                ("datm", 38),
                ("dm", 5),
                ("dm", 38),
            ]
        ),
    ],
)
def test_runs_broken_off_anywhere_end_as_others(method: str, updates: int, tmp_path: Path) -> None:
    run = staged(tmp_path, METHODS[method], STAGES, cluster={"checkpoint_seconds": 0})
    config = configs.load(str(run.file))
    for again in range(3):
        try:
            package.run(config, ray=False, progress=StopAfter(updates + 5 * again))
        except Stop:
            continue
    assert run.does("run") == 0
    wanted = finished(method).out
    for name in ("stages/000/synthetic", "stages/001/synthetic", "stages/002/synthetic", "synthetic"):
        assert images(run.out / name) == images(wanted / name) != []
    columns = ["record_id", "test_accuracy", "optimizer_steps"]
    found, other = (package.results(out).select(columns).to_pylist() for out in (run.out, wanted))
    assert found == other


def test_a_transition_without_a_trajectory_is_incomplete(done: SmallRun, tmp_path: Path) -> None:
    """One file less, of a pool or of trajectories, and it is trained again; the others stay as they are."""
    run = opened(done)
    last = run.last_stage
    for name in ("synthetic", "init"):
        shutil.rmtree(last.folder.path / name)
    shutil.rmtree(done.out / "synthetic")
    assert last.pool.is_finished
    (last.pool.folder.path / "member-00001.safetensors").unlink()
    assert not last.pool.is_finished and last.pool.missing() == [1]
    before = (last.pool.folder.path / "member-00000.safetensors").read_bytes()
    assert done.does("distill") == 0
    assert last.pool.is_finished
    assert (last.pool.folder.path / "member-00000.safetensors").read_bytes() == before
    method = run.config.method.name
    assert images(done.out / "synthetic") == images(finished(method).out / "synthetic")


def test_a_removed_trajectory_file_is_missed(tmp_path: Path) -> None:
    stages = {**STAGES, "count": 2, "keep_trajectories": True}
    run = staged(tmp_path, METHODS["mtt"], stages)
    assert run.does("distill") == 0
    wanted = images(run.out / "synthetic")
    for name in ("stages/001/synthetic", "stages/001/init", "synthetic"):
        shutil.rmtree(run.out / name)
    stage = opened(run).last_stage
    assert stage.has_trajectories
    kept = (stage.trajectories.folder.path / "expert-00000.arrow").stat().st_mtime_ns
    (stage.trajectories.folder.path / "expert-00001.arrow").unlink()
    assert not stage.has_trajectories and stage.missing_trajectories() == [1]
    assert run.does("distill") == 0
    assert stage.has_trajectories
    assert (stage.trajectories.folder.path / "expert-00000.arrow").stat().st_mtime_ns == kept
    assert images(run.out / "synthetic") == wanted


# Transitions and chains


def test_a_transition_is_a_stage_of_a_chain(tmp_path: Path) -> None:
    """The network that a pool passes on is a student's after that stage: same recipe, same trainer, bit for bit."""
    run = opened(finished("mtt"))
    data, config = run.data, run.config
    for stage in run.stages[1:]:
        recipe = stage.transition
        trial = Trial(
            subject="synthetic", labels="hard", network=config.network, recipe=recipe, student_seed=0, mode="chain"
        )
        learned = training_set(run, Trial(**{**trial.__dict__, "stage": stage.number - 1}))
        root = Key.root(config.experts_seed).child("expert", 1)
        module = build_seeded(config.network, data, root.child("init"))
        before = [stage.earlier.pool.state(1)] if stage.number > 1 else []
        training = training_on(learned, recipe, [module], [root.child("transition")], stage.number - 1, False, before)
        for epoch in range(recipe.epochs):
            training.run_epoch(epoch)
        (wanted,) = training.state_dicts()
        found = stage.pool.state(1)
        assert found.keys() == wanted.keys() and any("momentum" in name for name in found)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_chain_of_one_set_is_a_training_with_restarts(tmp_path: Path) -> None:
    """With nothing new in later stages a chain is one long training whose step size starts anew."""
    run = opened(finished("dm"))
    trial = next(trial for trial in run.trials() if trial.mode == "chain")
    learned = training_set(run, Trial(**{**trial.__dict__, "stage": 0}))
    states: list[dict[str, Tensor]] = []
    weights = []
    for number in range(3):
        key = Key.root(7).child("student")
        module = build_seeded(trial.network, run.data, key.child("init"))
        training = training_on(learned, trial.recipe, [module], [key], number, False, states)
        for epoch in range(trial.recipe.epochs):
            training.run_epoch(epoch)
        states = training.state_dicts()
        weights.append(network_state(states[0]))
    key = Key.root(7).child("student")
    module = build_seeded(trial.network, run.data, key.child("init"))
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=trial.recipe.lr or learned.learned_lr,
        momentum=trial.recipe.momentum,
        weight_decay=trial.recipe.weight_decay,
    )
    assert len(learned.images) <= trial.recipe.batch_size, "a step takes the whole set, so that its order is no matter"
    for number in range(3):
        for _ in range(trial.recipe.epochs):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(learned.images), learned.targets).backward()
            optimizer.step()
        found = weights[number]
        for name, value in module.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_momenta_are_forgotten_where_they_are_not_carried() -> None:
    run = opened(finished("mtt"))
    found = run.stages[1].pool.state(0)
    assert without_momenta(found).keys() == {name for name in found if name.startswith("module.")} != found.keys()


def test_records_say_what_a_chain_saw() -> None:
    out = finished("dm").out
    run = opened(finished("dm"))
    rows = package.results(out).to_pylist()
    chained = [row for row in rows if row["mode"] == "chain" and row["student_seed"] == 0]
    sizes = [len(stage.union()) for stage in run.stages]
    assert [row["stage"] for row in chained] == [0, 1, 2]
    assert [row["num_images"] for row in chained] == sizes
    single = next(row for row in rows if row["mode"] == "single_shot" and row["subject"] == "synthetic")
    batch = run.config.evaluate.recipe.batch_size
    of_stage = [chained[0]["epochs"] * -(-size // batch) for size in sizes]
    assert [row["optimizer_steps"] for row in chained] == [sum(of_stage[: n + 1]) for n in range(3)]
    assert abs(chained[-1]["optimizer_steps"] - single["optimizer_steps"]) <= sum(-(-size // batch) for size in sizes)
    assert {row["budget"] for row in chained} == {"matched"}


def test_a_failed_leg_stays_as_a_row(tmp_path: Path) -> None:
    """A student that breaks down on the way has records that say so, to the end of its way."""
    recipe = {"epochs": 6, "lr": 1e30, "momentum": 0.0, "batch_size": 32, "augmentation": "none"}
    evaluate = {**METHODS["dm"]["evaluate"], "recipe": recipe, "modes": ["chain"], "baselines": []}
    run = staged(tmp_path, METHODS["dm"], {**STAGES, "conditioning": "none"}, evaluate=evaluate)
    run.does("run")
    rows = package.results(run.out).to_pylist()
    assert [row["stage"] for row in rows] == [0, 1, 2] and {row["status"] for row in rows} == {"failed"}
    assert all("loss" in row["error"] for row in rows) and rows[2]["num_images"] == 3 * rows[0]["num_images"]


# Other ways to condition


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mtt", {"conditioning": "expert_window", "count": 2}),
        ("dm", {"fresh_fraction": 0.5, "image_lr_scale": "union"}),
        ("dm", {"frozen_lr_scale": 0.1}),
        ("mtt", {"frozen_lr_scale": 0.1}),
        ("ftd", {}),
        ("dm", {"carry_momentum": False, "transition_epochs": 2}),
        ("dm", {"filter": {"policy": "ensemble_correct", "keep": 0.5}}),
        ("mtt", {"filter": {"policy": "forgetting_min", "least": [0, 0, 0], "scoring": {"epochs": 3, "lr": 0.1}}}),
    ],
    ids=["window", "fresh", "revised dm", "revised mtt", "average", "no momenta", "ensemble", "forgetting"],
)
def test_ways_to_condition(method: str, changes: dict[str, Any], tmp_path: Path) -> None:
    experts = {**DATM["experts"], "training": {**DATM["experts"]["training"], "epochs": 5}}
    run = staged(tmp_path, METHODS[method], {**STAGES, **changes}, experts=experts)
    assert run.does("run") == 0
    made = opened(run)
    union = made.last_stage.union()
    first = made.stages[0].part()
    assert len(union) == made.config.stages.count * len(first)
    revised = bool(changes.get("frozen_lr_scale"))
    assert torch.equal(union.images[: len(first)], first.images) != revised
    assert torch.equal(package.load(run.out).synthetic.images, union.images)
    assert made.stages[1].uses_pool == (changes.get("conditioning", "synthetic") == "synthetic")


@pytest.mark.parametrize("conditions", [["statistics"], ["teacher_epoch"], ["disagreement"]])
def test_stages_of_a_teacher(conditions: list[str], tmp_path: Path) -> None:
    """A condition changes what the second stage makes, and of the first no more than its teacher."""
    method = {"name": "delt", "images_per_class": 2, "iterations": 6, "round_iterations": 3, "batch_size": 2}
    base = {**TEACHER, "method": method, "evaluate": {**TEACHER["evaluate"], "labels": ["hard"], "baselines": []}}
    stages = {"count": 2, "pool_size": 2, "epochs": 2}
    alone = staged(tmp_path / "alone", base, {**stages, "conditioning": "none"})
    run = staged(tmp_path / "run", base, {**stages, "teacher_conditions": conditions})
    assert alone.does("distill") == run.does("run") == 0
    made, plain = (opened(each).stages for each in (run, alone))
    same = [torch.equal(one.part().images, other.part().images) for one, other in zip(made, plain, strict=True)]
    assert same == {"teacher_epoch": [False, True]}.get(conditions[0], [True, False])
    assert {row["mode"] for row in package.results(run.out).to_pylist()} == {"chain", "single_shot"}


def test_independent_stages_are_those_of_separate_draws(tmp_path: Path) -> None:
    run = staged(tmp_path, METHODS["dm"], {**STAGES, "conditioning": "none"})
    assert run.does("distill") == 0
    parts = [stage.part() for stage in opened(run).stages]
    assert not torch.equal(parts[0].images, parts[1].images)
    assert torch.equal(parts[0].images, opened(finished("dm")).stages[0].part().images)


@pytest.mark.parametrize(
    ("method", "stages", "words"),
    [
        ("mtt", {"count": 0}, ["stages.count"]),
        ("mtt", {"overrides": {5: {"image_lr": 1.0}}}, ["stages.overrides.5"]),
        ("mtt", {"overrides": {1: {"image_lrr": 1.0}}}, ["stages.overrides.1.image_lrr"]),
        ("mtt", {"overrides": {1: {"iterations": 0}}}, ["stages.overrides.1.iterations"]),
        ("mtt", {"overrides": {1: {"name": "datm"}}}, ["stages.overrides.1.name"]),
        ("dm", {"conditioning": "expert_window"}, ["stages.conditioning", "dm"]),
        ("mtt", {"conditioning": "expert_window"}, ["method.max_start_epoch"]),
        ("dm", {"teacher_conditions": ["statistics"]}, ["stages.teacher_conditions"]),
        ("mtt", {"filter": {"policy": "ensemble_correct"}, "conditioning": "none"}, ["stages.filter.policy"]),
    ],
)
def test_what_cannot_be_is_refused(
    method: str, stages: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = staged(tmp_path, METHODS[method], {**STAGES, **stages})
    assert run.does("run") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and not run.out.exists()


def test_a_chain_needs_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = {**METHODS["dm"]["evaluate"], "modes": ["chain"]}
    assert staged(tmp_path, METHODS["dm"], evaluate=evaluate).does("run") == 2
    assert "evaluate.modes" in capsys.readouterr().err
    assert raydd("verify", finished("mtt").out) == 0
