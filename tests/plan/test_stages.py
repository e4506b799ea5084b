"""The plan of runs in stages: against figures worked out elsewhere, counts by hand, and what is really done."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from raydd.config import RunConfig, from_mapping
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.evaluation import records
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.ingredients.trajectory_card import TrajectoryCard
from raydd.methods import Start, Task
from raydd.networks import build
from raydd.networks.flat import FlatNetwork
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.plan import DataFacts, distill_stage, make_plan, trajectory_bytes
from raydd.plan.distill import setting_of
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.training.cost import network_size
from raydd.training.recipe import Recipe
from tests.support.planned import K, counted, facts_of, random_data, sizes, step
from tests.support.presets import facts, preset

BETWEEN = """
cifar10       10 0.40 0.63 0.98
cifar10       50 0.60 1.41 0.98
cifar100      10 1.00 1.88 0.98
cifar100      50 4.00 1.80 0.98
tiny-imagenet 10 1.8  3.6  0.94
tiny-imagenet 50 8.0  3.6  0.94
"""
"""Of PDD on MTT, as reckoned from the published code's commands: data, images per class; millions of SGD steps, by 100
networks, on synthetic images, on real ones from there, and of the first trajectories."""
POOLED = {("cifar10", 10): 0.3e6, ("cifar10", 50): 1.3e6, ("cifar100", 10): 2.5e6, ("cifar100", 50): 12.5e6}
"""Steps of a pool of 100 networks of PDD on IDC, as reckoned elsewhere."""
CHAINS = """
cifar10       10  2505  1001
cifar10       50  4008  2002
cifar100      10  7014  4004
cifar100      50 30060 20020
tiny-imagenet 10 13026  8008
tiny-imagenet 50 60120 40040
"""
"""Optimiser steps of a student of PDD on MTT: through the stages, 501 epochs on each union, and 1,001 at once."""


def table(text: str) -> dict[tuple[str, int], list[float]]:
    split = (line.split() for line in text.strip().splitlines())
    return {(data, int(images)): list(map(float, values)) for data, images, *values in split}


def pdd(base: str, which: tuple[str, int]) -> RunConfig:
    return preset(f"{which[0]}/published/pdd_{base}_ipc{which[1]}.yaml")


@pytest.mark.parametrize("which", table(BETWEEN), ids=str)
def test_steps_between_stages_are_as_reckoned_elsewhere(which: tuple[str, int]) -> None:
    """The published code trains later trajectories for two epochs that are never read."""
    synthetic, real, first = table(BETWEEN)[which]
    config = pdd("mtt", which)
    size, method = facts(config), config.method
    published = method.max_start_epoch + method.expert_epochs + 1
    longer = replace(config, stages=replace(config.stages, trajectory_epochs=published))
    later = step(longer, size, "experts").optimizer_steps - 1e6 * first
    assert step(config, size, "transition").optimizer_steps == pytest.approx(1e6 * synthetic, rel=0.02)
    assert later == pytest.approx(1e6 * real, rel=0.02)
    read = (published - 2) / published
    assert step(config, size, "experts").optimizer_steps == pytest.approx(1e6 * (first + read * real), rel=0.02)


@pytest.mark.parametrize("which", table(CHAINS), ids=str)
def test_steps_of_students_are_as_reckoned_elsewhere(which: tuple[str, int]) -> None:
    chain, once = table(CHAINS)[which]
    config = pdd("mtt", which)
    for modes, budgets, expected in (
        (("chain",), ("reference",), chain),
        (("single_shot",), ("reference",), once),
        (("chain",), ("matched",), once),
    ):
        evaluate = replace(config.evaluate, modes=modes, budgets=budgets, baselines=(), num_students=3)
        planned = step(replace(config, evaluate=evaluate), facts(config), "evaluate")
        assert planned.units == 3
        exact = {} if "matched" not in budgets else {"rel": 0.004}
        assert planned.optimizer_steps == pytest.approx(3 * expected, **exact)


@pytest.mark.parametrize("which", POOLED, ids=str)
def test_steps_of_a_pool_of_idc_are_as_reckoned_elsewhere(which: tuple[str, int]) -> None:
    config = pdd("idc", which)
    assert step(config, facts(config), "transition").optimizer_steps == pytest.approx(POOLED[which], rel=0.07)
    inner = config.stages.count * config.method.iterations * config.method.inner_loops
    assert inner * math.ceil(config.method.num_real / 64) == (16e6 if which == ("cifar100", 50) else 32e6)


SMALL: dict[str, Any] = {
    "data": {"source": "digits", "train_limit_per_class": 12},
    "network": {"width": 8, "depth": 2},
    "experts": {"count": 3, "training": {"epochs": 4, "lr": 0.2, "batch_size": 50, "augmentation": "none"}},
    "method": {
        "name": "mtt",
        "images_per_class": 1,
        "iterations": 3,
        "synthetic_steps": 4,
        "synthetic_batch_size": 7,
        "expert_epochs": 1,
        "max_start_epoch": 2,
        "image_lr": 1.0,
        "augmentation": "none",
    },
    "stages": {
        "count": 3,
        "overrides": {2: {"images_per_class": 2}},
        "pool_size": 2,
        "epochs": 4,
        "transition_epochs": 3,
    },
    "evaluate": {
        "num_students": 2,
        "random_draws": 1,
        "modes": ["chain", "single_shot", "new_only"],
        "budgets": ["reference", "matched"],
        "recipe": {"epochs": 5, "lr": None, "momentum": 0.9, "batch_size": 16, "augmentation": "none"},
        "full_epochs": 1,
    },
}
FACTS = DataFacts(120, 296, (1, 8, 8), 10)


def config_of(**parts: Any) -> RunConfig:
    """A run in stages of 1, 1 and 2 images of each of 10 classes."""
    return from_mapping({name: {**SMALL.get(name, {}), **parts.get(name, {})} for name in {**SMALL, **parts}})


def test_steps_counted_by_hand() -> None:
    """Unions of 10, 20 and 40 images in batches of 16, 120 real ones in batches of 50."""
    steps = {step.work: step for step in make_plan(config_of(), FACTS).steps}
    assert list(steps) == ["data", "experts", "transition", "distill", "evaluate"]
    assert steps["experts"].optimizer_steps == 3 * 4 * 3 + 2 * 2 * 2 * 3
    assert steps["transition"].optimizer_steps == 2 * 3 * (1 + 2)
    once, chain, new = 5 * 3, 1 + 2 + 3, 1 + 1 + 2
    matched = round(once / chain) * chain + round(once / new) * new
    compared = 2 * once + 2 * once + 8  # where the images began, random ones, and an epoch on all
    assert steps["evaluate"].optimizer_steps == 2 * (4 * chain + 4 * new + matched + once) + compared
    assert (steps["experts"].units, steps["transition"].units, steps["distill"].units) == (3 + 2 * 2, 2 * 2, 3 * 3)
    assert make_plan(config_of(), FACTS).total.optimizer_steps == sum(step.optimizer_steps for step in steps.values())


@pytest.mark.parametrize(
    ("conditioning", "stored"), [("none", [0, 1, 2, 4]), ("expert_window", [0, 1, 2, 3, 4, 5, 6, 8])]
)
def test_without_pools_all_stages_read_the_first_trajectories(conditioning: str, stored: list[int]) -> None:
    epochs = max(stored)
    experts = {"keep": "needed", "training": {"epochs": epochs, "batch_size": 50}}
    config = config_of(stages={"conditioning": conditioning}, experts=experts)
    steps = {step.work: step for step in make_plan(config, FACTS).steps}
    assert "transition" not in steps
    assert steps["experts"].optimizer_steps == 3 * epochs * 3
    whole = step(replace(config, experts=replace(config.experts, keep="all")), FACTS, "experts").disk_bytes
    assert steps["experts"].disk_bytes / whole == pytest.approx(len(stored) / (epochs + 1), rel=0.05)


def test_a_run_of_one_stage_is_planned_as_before() -> None:
    alone = config_of(stages={"count": 1, "overrides": {}}, evaluate={"modes": None})
    steps = {step.work: step for step in make_plan(alone, FACTS).steps}
    assert list(steps) == ["data", "experts", "distill", "evaluate"]
    assert steps["distill"] == distill_stage(alone, FACTS, 0) == distill_stage(config_of(), FACTS, 0)
    assert steps["evaluate"].optimizer_steps == 6 * 5 + 8


def test_what_is_kept_of_later_stages() -> None:
    config = config_of()
    kept = config_of(stages={"keep_trajectories": True})
    shared, own = (step(one, FACTS, "experts") for one in (config, kept))
    later = 2 * trajectory_bytes(network_size(config.network, FACTS)[0], 3)
    assert own.disk_bytes - shared.disk_bytes == 2 * later
    assert shared.working_disk_bytes > max(later, own.working_disk_bytes)
    frozen = [setting_of(config, FACTS, stage).frozen for stage in range(3)]
    assert frozen == [0, 10, 20]
    peaks = [distill_stage(config, FACTS, stage).peak_tensor_bytes for stage in range(2)]
    assert peaks[1] - peaks[0] == 10 * 64 * 4


def test_forgetting_is_counted_in_a_training_of_its_own() -> None:
    scoring = {"epochs": 6, "lr": 0.1, "batch_size": 50, "augmentation": "none"}
    config = config_of(stages={"filter": {"policy": "forgetting_window", "window": 1, "scoring": scoring}})
    assert step(config, FACTS, "forgetting").optimizer_steps == 6 * 3


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """How often any optimiser of torch's steps."""
    count = [0]

    def stepped(*_: object) -> None:
        count[0] += 1

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield count
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, int], dict[str, int]]:
    """A finished run, with the optimiser steps and the FLOPs of its commands."""
    config = replace(config_of(), out=str(tmp_path_factory.mktemp("run")))
    steps, flops = {}, {}
    for last_step in ("experts", "distill", "evaluate"):
        with counted_steps() as count, counted() as counter:
            execution.execute(config, LocalExecutor(), NoProgress(), last_step)
        steps[last_step], flops[last_step] = count[0], counter.get_total_flops()
    return config, steps, flops


def test_planned_steps_are_those_that_are_made(done: tuple[RunConfig, dict[str, int], dict[str, int]]) -> None:
    """Later trajectories and the networks of pools are trained while distilling."""
    config, made, _ = done
    planned = {step.work: step.optimizer_steps for step in make_plan(config, FACTS).steps}
    later = planned["experts"] - made["experts"]
    assert later == 2 * 2 * config.trajectory_epochs(1) * 3
    assert made == {
        "experts": 3 * 4 * 3,
        "distill": planned["transition"] + later,
        "evaluate": planned["evaluate"],
    }


def test_planned_steps_are_those_of_records_and_pools(done: tuple[RunConfig, dict[str, int], dict[str, int]]) -> None:
    config, _, _ = done
    out, per_student = Path(config.out), dict[tuple[Any, ...], int]()
    for record in records.read(Folder.at(out / "results")).to_pylist():
        student = tuple(record[name] for name in ("subject", "mode", "budget", "distill_seed", "student_seed"))
        per_student[student] = max(per_student.get(student, 0), record["optimizer_steps"])
    planned = step(config, FACTS, "evaluate")
    assert (sum(per_student.values()), len(per_student)) == (planned.optimizer_steps, planned.units)
    members = {stage: len(list((out / f"stages/{stage:03d}/pool").glob("member-*"))) for stage in (1, 2)}
    recipe, transition = config.stages.transition(config.evaluate.recipe), step(config, FACTS, "transition")
    made = sum(members[stage] * recipe.steps(10 * stage) for stage in (1, 2))
    assert (made, sum(members.values())) == (transition.optimizer_steps, transition.units)


def test_planned_flops_are_those_that_are_done(done: tuple[RunConfig, dict[str, int], dict[str, int]]) -> None:
    config, _, flops = done
    planned = {step.work: step.flops for step in make_plan(config, FACTS).steps}
    assert planned["evaluate"] == pytest.approx(flops["evaluate"], rel=0.03)
    together = planned["experts"] + planned["transition"] + planned["distill"]
    assert together == pytest.approx(flops["experts"] + flops["distill"], rel=0.05)


def test_planned_disk_is_what_is_written(done: tuple[RunConfig, dict[str, int], dict[str, int]]) -> None:
    config, _, _ = done
    out, planned = Path(config.out), {step.work: step.disk_bytes for step in make_plan(config, FACTS).steps}
    pools = sum(sizes(out / f"stages/{stage:03d}/pool") for stage in (1, 2))
    log = (out / "metrics" / "events.jsonl").stat().st_size  # which grows with the ingredients, by a line or two each
    written = sum(map(sizes, (out / "stages", out / "synthetic", out / "metrics"))) - pools - log
    assert planned["transition"] == pytest.approx(pools, rel=0.1)
    assert planned["distill"] == pytest.approx(written, rel=0.15)
    assert planned["evaluate"] == pytest.approx(sizes(out / "results"), rel=0.1)


METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "real_batch_size": 8, "augmentation": "none"},
    "dsa": {"name": "dsa", "real_batch_size": 8, "augmentation": "none", "outer_loops": 3, "inner_epochs": 2},
    "idc": {"name": "idc", "real_batch_size": 8, "inner_loops": 2, "num_real": 30},
    "idc, few shown": {
        "name": "idc",
        "real_batch_size": 8,
        "inner_loops": 2,
        "num_real": 30,
        "decoded_per_class": 11,
    },
    "mtt": {"name": "mtt", "synthetic_steps": 5, "max_start_epoch": 2, "expert_epochs": 1, "augmentation": "none"},
    "mtt, batches": {
        "name": "mtt",
        "synthetic_steps": 8,
        "synthetic_batch_size": 6,
        "max_start_epoch": 2,
        "expert_epochs": 1,
        "augmentation": "none",
    },
}


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("name", METHODS)
def test_flops_of_an_iteration_beside_earlier_images(tmp_path: Path, name: str, scale: float) -> None:
    """The second stage of 2 new images per class, with 3 earlier ones that are constants, or learned as well."""
    config, data = stage_run(name, scale), random_data(num_train=60)
    earlier = SyntheticSet(
        images=torch.rand(3 * K, 3, 16, 16),
        labels=torch.arange(K).repeat_interleave(3),
        soft_labels=None,
        stage=torch.zeros(3 * K, dtype=torch.int32),
        learned_lr=(0.01,),
        class_names=data.class_names,
        preprocessing=data.preprocessing,
        formation=config.methods[0].formation if name.startswith("idc") else None,
    )
    start = Start(stage=1, frozen=earlier, frozen_lr_scale=scale)
    task = Task(data=data, network=config.network)
    if name.startswith("mtt"):
        store = moved_experts(config, tmp_path)
        task = replace(task, trajectories=store, num_experts=1, last_epoch=2)
    running = config.methods[1].build(task, start, Key.root(0))
    with counted() as counter:
        running.step()
    planned = distill_stage(config, facts_of(data), 1)
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def stage_run(name: str, scale: float) -> RunConfig:
    return from_mapping(
        {
            "network": {"width": 12, "depth": 2},
            "method": {"images_per_class": 2, "iterations": 1, **METHODS[name]},
            "stages": {"count": 2, "overrides": {0: {"images_per_class": 3}}, "frozen_lr_scale": scale},
            "evaluate": {"recipe": {"epochs": 1, "lr": 0.01}},
        }
    )


def moved_experts(config: RunConfig, root: Path) -> TrajectoryStore:
    """An expert that moves a little, without training it."""
    module = build(config.network, (3, 16, 16), K)
    flat = FlatNetwork(module)
    card = TrajectoryCard(
        dataset="random",
        fingerprint="f" * 64,
        preprocessing={},
        network=config.network.label,
        parameters=tuple(flat.shapes.items()),
        recipe=Recipe().identity(),
        seed=0,
    )
    store, begin = TrajectoryStore(Folder.at(root), card), flat.flat()
    store.write(0, (Snapshot(epoch, begin + 0.01 * epoch * torch.randn(len(begin))) for epoch in range(3)))
    return store
