"""The plan against what is really used."""

import inspect
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd.config import RunConfig, from_mapping
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data.fit_preprocessing import fit_standardise, fit_zca
from raydd.data.prepared import PreparedData
from raydd.data.prepared import save as save_data
from raydd.data.size import data_bytes
from raydd.ingredients.experts import Experts, epochs_stored, train_experts, trajectory_card
from raydd.ingredients.setting import Setting
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.methods import Start, Task
from raydd.methods.initial import masked_mean_logits
from raydd.methods.trajectory.cost import matching_step
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.matcher import TrajectoryMatching
from raydd.methods.trajectory.step_size import MOST_HALVINGS
from raydd.networks import build
from raydd.networks.flat import FlatNetwork
from raydd.plan import DataFacts, make_plan, trajectory_bytes
from raydd.plan.distill import stage_cost
from raydd.plan.sizes import result_bytes
from raydd.plan.students import trials_of
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.cost import HEAP_LIMIT_BYTES, PREDICT_BATCH, network_size, predicting
from raydd.training.loop import Training, predict
from tests.support.planned import K, Work, counted, facts_of, fresh_processes, measured_peak, random_data, sizes, step

CIFAR = DataFacts(50_000, 10_000, (3, 32, 32), 10)


def config_of(**parts: Any) -> RunConfig:
    """A small run: 16x16 RGB images of K classes."""
    small: dict[str, Any] = {
        "network": {"width": 12, "depth": 2},
        "experts": {"count": 2, "training": {"epochs": 3, "batch_size": 16}},
        "method": {"name": "mtt", "images_per_class": 4, "max_start_epoch": 2, "expert_epochs": 1, "iterations": 3},
    }
    return from_mapping({name: {**small.get(name, {}), **parts.get(name, {})} for name in {**small, **parts}})


def empty_store(config: RunConfig, data: PreparedData, root: Path) -> TrajectoryStore:
    return TrajectoryStore(Folder.at(root), trajectory_card(config.experts, config.network, data, 0))


def task_of(config: RunConfig, data: PreparedData, root: Path) -> Task:
    """Experts that move a little, without training them."""
    store = empty_store(config, data, root)
    start = FlatNetwork(build(config.network, data.shape, data.num_classes)).flat()
    epochs = range(config.experts.training.epochs + 1)
    for expert in range(config.experts.count):
        moved = (Snapshot(epoch, start + 0.01 * epoch * torch.randn(len(start))) for epoch in epochs)
        store.write(expert, moved)
    return Task(
        data=data,
        network=config.network,
        trajectories=store,
        num_experts=config.experts.count,
        last_epoch=config.experts.training.epochs,
    )


def distiller(config: RunConfig, task: Task) -> TrajectoryMatching:
    """The config's method at random images, which experts that know nothing could not choose."""
    count, soft = config.method.images_per_class * K, config.method.name == "datm"
    return TrajectoryMatching(
        config.method,
        task,
        Start(),
        Key.root(0),
        images_MCHW=torch.randn(count, *task.data.shape),
        labels=ImageLabels(
            classes_M=torch.arange(count) % K,
            soft_MK=torch.randn(count, K) if soft else None,
            lr=1.0,
            momentum=0.9,
        ),
        window=lambda iteration: (0, 1),
        ema_decay=0.9 if config.method.has_average else None,
    )


def test_published_figures_of_the_standard_network():
    cost = matching_step(config_of(network={"width": 128, "depth": 3}).network, CIFAR, 10, True)
    assert network_size(config_of(network={"width": 128, "depth": 3}).network, CIFAR)[0] == 320_010
    assert cost.flops_of(1) == pytest.approx(101.49e6 * (2.93 + 8.79), rel=1e-3)
    tesla = matching_step(config_of(network={"width": 128, "depth": 3}).network, CIFAR, 10, True, curvature=False)
    assert tesla.flops_of(1) == pytest.approx(101.49e6 * (2.93 + 7.79), rel=1e-3)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("method", ["mtt", "datm", "mtt tesla", "mtt truncated:2"])
def test_flops_of_an_outer_iteration(tmp_path: Path, batch_size: int | None, method: str):
    method, _, gradient = method.partition(" ")
    own = {"initial_max_start_epoch": 1, "threshold": None} if method == "datm" else {"gradient": gradient or "exact"}
    matching = {"name": method, "synthetic_batch_size": batch_size, "synthetic_steps": 5, "iterations": 1, **own}
    config, data = config_of(method=matching), random_data()
    task = task_of(config, data, tmp_path)
    running = distiller(config, task)
    with counted() as counter:
        running.step()
        if method == "datm":
            masked_mean_logits(task, data.train.images[: 4 * K], torch.arange(4 * K) % K)
    assert step(config, facts_of(data), "distill").flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_search_for_a_step_size_is_counted_at_its_longest(tmp_path: Path):
    fixed, auto = (
        config_of(method={"name": "mtt", "synthetic_steps": 5, "iterations": 1, "synthetic_lr_init": value})
        for value in (0.01, "auto")
    )
    data = random_data()
    task = task_of(auto, data, tmp_path)
    with counted() as counter:
        distiller(auto, task)
    planned = step(auto, facts_of(data), "distill").flops - step(fixed, facts_of(data), "distill").flops
    assert 0.98 * planned / (1 + MOST_HALVINGS) <= counter.get_total_flops() <= 1.02 * planned


def test_skipping_is_not_counted_on(tmp_path: Path):
    """A step whose loss is above the threshold does less than planned: the comparison above can fail."""
    config, data = config_of(method={"threshold": 1e-9, "synthetic_steps": 2, "iterations": 2}), random_data()
    running = distiller(config, task_of(config, data, tmp_path))
    with counted() as counter:
        running.step()
    assert step(config, facts_of(data), "distill").flops > 3 * counter.get_total_flops()


@pytest.mark.parametrize("name", ["convnet", "lenet", "alexnet"])
def test_flops_of_an_epoch(name: str):
    config, data = config_of(network={"name": name}), random_data(num_train=40)
    module = build(config.network, data.shape, data.num_classes)
    recipe = config.experts.training
    training = Training([module], data.train.images, data.train.labels, recipe, [Key.root(0)])
    with counted() as counter:
        training.run_epoch(0)
        in_training = counter.get_total_flops()
        predict(module, data.test.images)
    in_test = counter.get_total_flops() - in_training
    planned = step(config, facts_of(data), "experts").flops
    assert planned == pytest.approx(config.experts.count * (recipe.epochs * in_training + in_test), rel=0.02)


def test_every_student_counts():
    data = facts_of(random_data())
    few, many = (config_of(evaluate={"num_students": n, "baselines": ["init"]}) for n in (1, 3))
    other = step(config_of(evaluate={"num_students": 2, "baselines": ["init"]}), data, "evaluate")
    more = step(many, data, "evaluate").flops - other.flops
    assert more == other.flops - step(few, data, "evaluate").flops > 0
    whole = config_of()
    assert step(whole, data, "evaluate").units == len(trials_of(whole, data)) == 26


def test_gsam_takes_two_gradients_a_step_and_a_pack_the_memory_of_its_members():
    facts = facts_of(random_data())
    plain, sharp, packed = (
        step(
            config_of(experts={"count": 4, "training": {"epochs": 3, **recipe}}, cluster={"pack": pack}),
            facts,
            "experts",
        )
        for recipe, pack in (({}, 1), ({"gsam_rho": 0.01}, 1), ({}, 3))
    )
    tested = 4 * predicting(config_of().network, facts).flops_of(facts.num_test)
    assert sharp.flops - tested == pytest.approx(2 * (plain.flops - tested), rel=1e-3)
    assert packed.peak_tensor_bytes == 3 * plain.peak_tensor_bytes and packed.disk_bytes == plain.disk_bytes
    assert packed.working_disk_bytes == 3 * plain.working_disk_bytes


@pytest.mark.parametrize("keep", ["all", "needed"])
def test_disk_of_an_expert(tmp_path: Path, keep: str):
    experts = {"count": 1, "keep": keep, "training": {"epochs": 9, "batch_size": 25}}
    config, data = config_of(experts=experts), random_data()
    stored = epochs_stored(config.experts, config.method.epochs_read(config.experts.training.epochs))
    store, facts = empty_store(config, data, tmp_path / "experts"), facts_of(data)
    arguments = config.experts, Setting(config.network, data, torch.device("cpu"))
    expert = Experts([0], *arguments, 0, Folder.at(tmp_path / "work"))
    expert.train(NoProgress())
    planned = step(config, facts, "experts")
    assert planned.working_disk_bytes == pytest.approx(sizes(tmp_path / "work"), rel=0.02)
    train_experts([0], *arguments, store, Folder.at(tmp_path / "work"), NoProgress(), stored)
    assert (len(stored) < 10) is (keep == "needed")
    assert planned.disk_bytes == pytest.approx(sizes(tmp_path / "experts"), rel=0.01)
    assert sizes(tmp_path / "work") == 0


def test_disk_of_a_trajectory_of_the_standard_network(tmp_path: Path):
    config, data = config_of(network={"width": 128, "depth": 3}), random_data(side=32)
    task_of(config, data, tmp_path)
    size, _ = network_size(config.network, facts_of(data))
    assert trajectory_bytes(size, config.experts.training.epochs + 1) == pytest.approx(sizes(tmp_path) / 2, rel=0.01)


@pytest.mark.parametrize("kind", ["soft", "hard", "exact"])
@pytest.mark.parametrize("preprocess", ["standardise", "zca"])
@pytest.mark.parametrize("images_per_class", [2, 30])
def test_disk_of_a_synthetic_set(tmp_path: Path, kind: str, preprocess: str, images_per_class: int):
    method = {"name": "datm", "initial_max_start_epoch": 1} if kind == "soft" else {"name": "mtt"}
    config = config_of(data={"preprocess": preprocess}, method={**method, "images_per_class": images_per_class})
    pixels, count = torch.randint(0, 256, (200, 3, 16, 16), dtype=torch.uint8), images_per_class * K
    fitted = fit_zca(pixels) if preprocess == "zca" else fit_standardise(pixels)
    moved = 0.0 if kind == "exact" else 0.2 * torch.randn(count, 3, 16, 16)
    made = SyntheticSet(
        images=fitted.forward(pixels)[torch.arange(count) % 200] + moved,
        labels=torch.arange(K).repeat_interleave(images_per_class),
        soft_labels=torch.randn(count, K) if kind == "soft" else None,
        stage=torch.zeros(count, dtype=torch.int32),
        learned_lr=(0.01,),
        class_names=tuple("abcde"),
        preprocessing=fitted,
        card={"versions": "x" * 1500},
    )
    made.save(Folder.at(tmp_path), "key")
    assert made.is_exact is (kind == "exact")
    planned = result_bytes(config, facts_of(random_data()), count, made.is_exact)
    assert planned == pytest.approx(sizes(tmp_path), rel=0.2 if made.is_exact else 0.1)  # small: 30 kB and more


@pytest.mark.parametrize("preprocess", ["standardise", "zca"])
def test_disk_of_the_data(tmp_path: Path, preprocess: str):
    pixels = torch.randint(0, 256, (200, 3, 16, 16), dtype=torch.uint8)
    data = random_data(preprocessing=fit_zca(pixels) if preprocess == "zca" else fit_standardise(pixels))
    save_data(data, Folder.at(tmp_path), "key")
    planned = data_bytes(config_of(data={"preprocess": preprocess}).data, facts_of(data))
    assert planned == pytest.approx(sizes(tmp_path), rel=0.02)


@pytest.mark.parametrize("method", ["mtt", "ftd", "datm"])
def test_size_of_a_checkpoint(tmp_path: Path, method: str):
    own = {"initial_max_start_epoch": 1} if method == "datm" else {}
    matching = {"name": method, "images_per_class": 1, "synthetic_steps": 2, "iterations": 100, **own}
    config, data = config_of(method=matching), random_data()
    running = distiller(config, task_of(config, data, tmp_path / "experts"))
    row = {"iteration": 10, **running.step(), "seconds": time.perf_counter()}
    Checkpoints(Folder.at(tmp_path / "checkpoints"), "stage").save(running.state_dict(), [row] * 100)
    planned = stage_cost(config, facts_of(data), 0).checkpoint_bytes
    assert planned == pytest.approx(sizes(tmp_path / "checkpoints"), rel=0.05)


def match_once(width: int, side: int, images: int, steps: int, root: str) -> tuple[RunConfig, DataFacts]:
    method = {"images_per_class": images // K, "synthetic_steps": steps, "iterations": 1}
    config, data = config_of(network={"width": width, "depth": 3}, method=method), random_data(images, 2, side)
    running = distiller(config, task_of(config, data, Path(root)))
    running.step()
    Checkpoints(Folder.at(root), "stage").save(running.state_dict(), [])
    return config, facts_of(data)


def train_once(width: int, side: int, images: int, batch_size: int, root: str) -> tuple[RunConfig, DataFacts]:
    experts = {"count": 1, "training": {"epochs": 3, "batch_size": batch_size}}
    config, data = config_of(network={"width": width, "depth": 3}, experts=experts), random_data(images, 2, side)
    setting = Setting(config.network, data, torch.device("cpu"))
    expert = Experts([0], config.experts, setting, 0, Folder.at(root))
    expert.train(NoProgress())
    return config, facts_of(data)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with fresh_processes() as pool:
        yield pool


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("work", "size"),
    [
        pytest.param(match_once, (32, 32, 65, 10), id="matching: width 32, batch 65, T 10"),
        pytest.param(match_once, (128, 8, 15, 40), id="matching: width 128, batch 15, T 40, small images"),
        pytest.param(match_once, (128, 32, 80, 1), id="matching: tensors above the limit of the heap"),
        pytest.param(train_once, (32, 32, 256, 64), id="training: width 32, batch 64"),
    ],
)
def test_peak_memory(processes: ProcessPoolExecutor, tmp_path: Path, work: Work, size: tuple[int, ...]):
    config, facts, measured = processes.submit(measured_peak, work, (4, 8, K, 1), size, str(tmp_path)).result()
    planned = step(config, facts, "distill" if work is match_once else "experts")
    assert 0.6 < measured / planned.peak_memory_bytes < 1.5
    assert planned.peak_tensor_bytes < 1.1 * measured


def test_memory_grows_by_one_vector_per_inner_step():
    short, long = (step(config_of(method={"synthetic_steps": t}), CIFAR, "distill") for t in (10, 40))
    vector = 4 * network_size(config_of().network, CIFAR)[0]
    assert long.peak_memory_bytes - short.peak_memory_bytes == 30 * vector
    assert long.peak_tensor_bytes - short.peak_tensor_bytes == 30 * vector


def test_workers_share_a_batch():
    alone, shared = (step(config_of(cluster={"num_workers": n}), CIFAR, "distill") for n in (1, 4))
    assert shared.flops == alone.flops
    assert shared.peak_tensor_bytes < 0.5 * alone.peak_tensor_bytes


def test_totals_and_rows():
    plan = make_plan(config_of(), CIFAR)
    rows = plan.rows()
    assert [row["work"] for row in rows] == ["data", "experts", "distill", "evaluate", "total"]
    for name in ("flops", "disk_bytes", "working_disk_bytes"):
        assert rows[-1][name] == sum(row[name] for row in rows[:-1])
    assert rows[-1]["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in rows[:-1])
    assert not any("seconds" in row for row in rows)


def test_seconds_come_from_measured_rates_only():
    plan = make_plan(config_of(), CIFAR, {"distill": 2e9})
    distill = next(step for step in plan.steps if step.work == "distill")
    assert distill.seconds == plan.total.seconds == distill.flops / 2e9
    assert [step.work for step in plan.steps if step.seconds is not None] == ["distill"]


def test_planning_is_quick_and_allocates_nothing():
    config = from_mapping(
        {"data": {"source": "cifar10", "root": "/nowhere", "preprocess": "zca"}, "network": {"width": 136}}
    )
    began = time.process_time()
    plan = make_plan(config, CIFAR)
    assert time.process_time() - began < 2
    assert plan.total.peak_tensor_bytes > HEAP_LIMIT_BYTES


def test_assumed_batch_of_predictions():
    assert inspect.signature(predict).parameters["batch_size"].default == PREDICT_BATCH
