"""Trajectory matching behind the images of earlier stages: as constants, and as images that are learned on."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydd.core import compilation
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.ingredients.trajectories import Snapshot
from raydd.methods import DATMConfig, FTDConfig, MTTConfig, Start
from raydd.methods.initial import class_labels, masked_mean_logits
from raydd.methods.trajectory.image_labels import ImageLabels
from raydd.methods.trajectory.matcher import TrajectoryMatching
from raydd.methods.trajectory.matching import MatchingConfig, draw_batches
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.dsa import DSA
from tests.reference import matching
from tests.support import tiny
from tests.support.children import output, running
from tests.support.tiny import CLASSES, EXPERTS, Results, assert_equal, randn, relative_error

KEY = Key.root(11)
SMALL: dict[str, Any] = {
    "images_per_class": 2,
    "synthetic_steps": 4,
    "max_start_epoch": 4,
    "image_lr": 5.0,
    "synthetic_lr_lr": 1e-4,
}
MTT = MTTConfig(**SMALL)
DATM = DATMConfig(**SMALL, initial_max_start_epoch=2, expansion_iterations=9, label_lr=0.5, threshold=None)
METHODS = {
    "mtt": MTT,
    "datm": DATM,
    "ftd": FTDConfig(**SMALL, ema_decay=0.8),
    "assigned": MTTConfig(**SMALL, labels="assigned"),
    "fixed": replace(DATM, labels="fixed", gradient="truncated:2"),
}
CONFIGS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
SCALES = pytest.mark.parametrize("scale", [0.0, 0.1], ids=["constants", "learned on"])
LEARNED = "images", "earlier", "lr", "soft_labels"


def earlier_set(config: MatchingConfig, per_class: int = 2) -> SyntheticSet:
    """What two earlier stages left."""
    labels = class_labels(len(CLASSES), per_class)
    return SyntheticSet(
        images=randn(1, len(labels), 1, 8, 8, dtype=torch.float32),
        labels=labels,
        soft_labels=2 * randn(2, len(labels), 3, dtype=torch.float32) if config.has_soft_labels else None,
        stage=(torch.arange(len(labels)) % per_class * 2 // per_class).int(),
        learned_lr=(0.02, 0.03),
        class_names=CLASSES,
        preprocessing=tiny.data().preprocessing,
        card={"made": "earlier"},
    )


def start_of(config: MatchingConfig, scale: float = 0.0, per_class: int = 2) -> Start:
    return Start(stage=2, frozen=earlier_set(config, per_class), frozen_lr_scale=scale)


def build(config: MatchingConfig, start: Start, folder: Folder | None = None, **task: Any) -> TrajectoryMatching:
    task = {"dtype": torch.float64} | task
    method = config.build(replace(tiny.task(folder or tiny.expert_folder()), **task), start, KEY)
    assert isinstance(method, TrajectoryMatching)
    return method


def digest(synthetic: SyntheticSet) -> str:
    tensors = [synthetic.images, synthetic.labels, synthetic.targets, synthetic.stage]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def learned(state: dict[str, Any]) -> Results:
    return {name: state[name] for name in LEARNED if f"velocity.{name}" in state}


# Equations


@pytest.fixture(params=[False, True], ids=["differentiated", "written"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Which way inner steps are computed; the written equations are left uncompiled, which takes long."""
    monkeypatch.setattr(compilation, "compiled", lambda function, options: function)
    return bool(request.param)


def batches_of(config: MatchingConfig, iteration: int, own: int, size: int) -> tuple[list[list[int]], list[Any]]:
    """The rows of the union that inner steps take, and what they do with them."""
    key = KEY.child("inner", iteration)
    batches = draw_batches(key, own + 6, size, config.synthetic_steps)
    draws = [DSA().draw(key.child("augment", t), batch) for t, batch in enumerate(batches)]
    return [batch.tolist() for batch in batches], draws


@SCALES
@pytest.mark.parametrize("batch_size", [None, 5, 99])
@CONFIGS
def test_a_stage_is_sgd_on_the_unrolled_loss(
    config: MatchingConfig, batch_size: int | None, scale: float, compiled: bool
) -> None:
    """In batches of as many images as the stage has of its own, drawn among all."""
    config, start = replace(config, synthetic_batch_size=batch_size), start_of(config, scale)
    method, store = build(config, start, compiled=compiled), tiny.store(tiny.expert_folder())
    state, frozen = method.state_dict(), start.frozen
    assert frozen is not None
    values = {name: value.clone() for name, value in learned(state).items()}
    velocities = {name: torch.zeros_like(value) for name, value in values.items()}
    assert ("earlier" in values) == (scale > 0)
    rates = {"images": (5.0, 0.5), "earlier": (5.0 * scale, 0.5), "lr": (1e-4, 0.5), "soft_labels": (0.5, 0.9)}
    history = [values["images"].clone()]
    for iteration in range(3):
        row = method.step()
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        target = store.params(row["expert"], row["start_epoch"] + config.expert_epochs).double()
        labels = leaves.get("soft_labels", state.get("soft_labels", class_labels(3, 2)))
        if getattr(config, "labels", None) == "assigned":
            labels = tiny.network(target, leaves["images"]).detach()
        loss = matching.unrolled_loss(
            tiny.network,
            store.params(row["expert"], row["start_epoch"]).double(),
            target,
            leaves["lr"],
            torch.cat([leaves.get("earlier", frozen.images.double()), leaves["images"]]),
            torch.cat([frozen.targets.to(labels.dtype), labels]),
            *batches_of(config, iteration, 6, {None: 6, 5: 5, 99: 12}[batch_size]),
            2 if config.gradient == "truncated:2" else None,
        )
        assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
        for (name, value), gradient in zip(
            values.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True
        ):
            matching.sgd([value], [gradient], [velocities[name]], *rates[name], 0.0)
            assert relative_error(method.state_dict()[name], value) < 1e-9, name
        history.append(values["images"].clone())
    average = method.averaged()
    if average is not None:
        wanted = matching.weighted_average(history, 0.8)
        assert relative_error(method.state_dict()["ema"], wanted) < 1e-9 and len(average) == 6


@pytest.mark.parametrize("rows_at_once", [1, 4])
@SCALES
def test_in_pieces_it_is_the_same(rows_at_once: int, scale: float, compiled: bool) -> None:
    whole = build(DATM, start_of(DATM, scale))
    pieces = build(DATM, start_of(DATM, scale), rows_at_once=rows_at_once, compiled=compiled)
    for _ in range(3):
        whole.step()
        pieces.step()
    for name, value in learned(whole.state_dict()).items():
        assert relative_error(pieces.state_dict()[name], value) < 1e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("config", [MTT, replace(DATM, synthetic_batch_size=5)], ids=["mtt", "datm ragged"])
def test_compiled_steps_give_the_same_updates(config: MatchingConfig) -> None:
    found, wanted = (build(config, start_of(config), compiled=compiled) for compiled in (True, False))
    for _ in range(3):
        found.step()
        wanted.step()
    for name, value in learned(wanted.state_dict()).items():
        assert relative_error(found.state_dict()[name], value) < 1e-9, name


# Constants


class Floats(TorchDispatchMode):
    """Records the shapes of new tensors of floats whose first side is a given one or longer."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.shapes = rows, list[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it made, unless it is a view of what it was given."""
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        for tensor in tree_leaves(made):
            long = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.shape[:1] >= (self.rows,)
            if long and tensor.untyped_storage().data_ptr() not in given:
                self.shapes.append(tuple(tensor.shape))
        return made


@CONFIGS
def test_nothing_as_long_as_the_frozen_images_is_ever_made(config: MatchingConfig, compiled: bool) -> None:
    """Neither a gradient nor a copy: 600 frozen images, where batches have 6 and parameters are 255."""
    config = replace(config, synthetic_steps=2, max_start_epoch=3)
    if isinstance(config, DATMConfig):
        config = replace(config, label_epoch=0)
    start = start_of(config, per_class=200)
    tiny.data()
    with Floats(600) as floats:
        method = build(config, start, dtype=torch.float32, compiled=compiled)
        for _ in range(2):
            assert not method.step()["skipped"]
        method.state_dict()
    assert not floats.shapes
    with Floats(600) as floats:
        build(config, replace(start, frozen_lr_scale=0.1), dtype=torch.float32, compiled=compiled).step()
    assert (606, 1, 8, 8) in floats.shapes and (600, 1, 8, 8) in floats.shapes  # it would be noticed


@SCALES
@CONFIGS
def test_what_earlier_stages_made_stays_to_the_byte(config: MatchingConfig, scale: float) -> None:
    for dtype in (torch.float32, torch.float64):
        start = start_of(config, scale)
        assert start.frozen is not None
        before = digest(start.frozen)
        method = build(config, start, dtype=dtype)
        first = digest(method.result())
        for _ in range(3):
            method.step()
        method.load_state_dict(method.state_dict())
        method.step()
        assert digest(start.frozen) == before and digest(method.result()) != first
        result = method.result()
        assert len(result) == 6 and result.stage.tolist() == [2] * 6 and len(result.learned_lr) == 1


@pytest.mark.parametrize("config, other", [(MTT, DATM), (DATM, MTT), (METHODS["assigned"], MTT)])
def test_soft_and_hard_labels_do_not_mix(config: MatchingConfig, other: MatchingConfig) -> None:
    own = "soft" if config.has_soft_labels else "hard"
    with pytest.raises(ConfigError, match=rf"^stages\.overrides: stage 2 has {own} labels, .* same method\.labels"):
        build(config, start_of(other))


MEMORY = """
import sys, tempfile, torch
from dataclasses import replace
from raydd import networks
from raydd.ingredients.experts import ExpertsConfig, trajectory_card
from raydd.networks.flat import FlatNetwork
from raydd.methods import MTTConfig, Start, Task
from raydd.networks.config import NetworkConfig
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.core.keyed_random import Key
from raydd.storage import Folder
from raydd.sets.synthetic import SyntheticSet
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.data.preprocessing import Standardise

torch.set_num_threads(1)
classes, network = ("ant", "bee"), NetworkConfig(width=8, depth=3)
real = LabelledImages(torch.randn(40, 3, 32, 32), torch.arange(40) % 2)
preprocessing = Standardise(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
data = PreparedData("random", classes, "0" * 64, preprocessing, train=real, test=real)
experts = ExpertsConfig(count=1)
store = TrajectoryStore(Folder.at(tempfile.mkdtemp()), trajectory_card(experts, network, data, seed=0))
theta = FlatNetwork(networks.build(network, data.shape, 2)).flat()
store.write(0, (Snapshot(epoch, theta + 0.01 * epoch * torch.randn(len(theta))) for epoch in range(4)))
task = Task(data=data, network=network, trajectories=store, num_experts=1, last_epoch=3)
config = MTTConfig(images_per_class=10, synthetic_steps=5, max_start_epoch=2)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

def stage(start):
    method = config.build(task, start, Key.root(0))
    for _ in range(4):
        method.step()
    method.state_dict()

stage(Start())
stage(Start())
before = peak()
count = int(sys.argv[1])
frozen = SyntheticSet(images=torch.randn(count, 3, 32, 32), labels=torch.arange(count) % 2, class_names=classes,
                      stage=torch.zeros(count, dtype=torch.int32), learned_lr=(None,), preprocessing=preprocessing)
print(frozen.images.nbytes)
for scale in (0.0, 0.1):
    stage(Start(stage=1, frozen=frozen, frozen_lr_scale=scale))
    print(peak() - before)
"""


@pytest.mark.slow
def test_the_peak_grows_by_the_frozen_images_alone() -> None:
    with running(MEMORY, 5000) as process:
        text = output(process)
    assert process.returncode == 0, text
    size, constants, learned_on = map(int, text.split())
    assert size == 5000 * 3 * 32 * 32 * 4 and constants <= 1.05 * size + 4 * 2**20
    assert learned_on > 3 * size  # which also has their momenta, gradients and a state to fall back to


# Learned on


@pytest.mark.parametrize("labels", ["hard", "fixed"])
def test_at_full_rate_it_is_one_set_of_all_images(labels: Any) -> None:
    """To the bit: the union as a first stage, in batches of the same size."""
    config = replace(DATM, labels=labels)
    method, frozen = build(config, start_of(config, 1.0)), earlier_set(config)
    own, soft = method.result(), config.has_soft_labels
    union = TrajectoryMatching(
        replace(config, synthetic_batch_size=6),
        tiny.task(tiny.expert_folder()),
        Start(),
        KEY,
        images_MCHW=torch.cat([frozen.images, own.images]),
        labels=ImageLabels(
            classes_M=torch.cat([frozen.labels, own.labels]),
            soft_MK=torch.cat([frozen.targets.double(), method.state_dict()["soft_labels"]]) if soft else None,
        ),
        window=method._segments._window,
    )
    for _ in range(4):
        assert method.step() == union.step()
    found, wanted = method.state_dict(), union.state_dict()
    for name in ("", "velocity."):
        assert torch.equal(found[f"{name}earlier"], wanted[f"{name}images"][:6])
        assert torch.equal(found[f"{name}images"], wanted[f"{name}images"][6:])
    revised = method.revised()
    assert revised is not None and torch.equal(revised.images, union.result().images[:6])


@CONFIGS
def test_the_revised_set_differs_in_its_images_alone(config: MatchingConfig) -> None:
    start = start_of(config, 0.1)
    method, frozen = build(config, start), start.frozen
    first = method.revised()
    assert frozen is not None and first is not None and digest(first) == digest(frozen)
    method.step()
    revised = method.revised()
    assert revised is not None and not torch.equal(revised.images, frozen.images)
    assert digest(replace(revised, images=frozen.images)) == digest(frozen)
    assert revised.images.dtype == torch.float32
    assert (revised.learned_lr, revised.card, revised.class_names) == (frozen.learned_lr, frozen.card, CLASSES)
    images = revised.images.clone()
    method.step()
    assert torch.equal(revised.images, images)


@pytest.mark.parametrize("start", [Start(), Start(stage=1, frozen_lr_scale=0.5), start_of(MTT)])
def test_without_a_rate_nothing_is_revised(start: Start) -> None:
    method = build(MTT, start)
    method.step()
    assert method.revised() is None and not [name for name in method.state_dict() if "earlier" in name]


def test_a_roll_back_takes_earlier_images_back_too() -> None:
    config = replace(MTT, max_consecutive_skips=2)
    method = build(config, start_of(MTT, 0.5))
    good = method.state_dict()
    method.step()
    state = method.state_dict()
    assert not torch.equal(state["earlier"], good["earlier"])
    method = build(replace(config, threshold=1e-9), start_of(MTT, 0.5))
    method.load_state_dict(state)
    assert [method.step()["rollbacks"] for _ in range(2)] == [0, 1]
    assert method.state_dict()["lr"] == good["lr"] / 2
    for name in ("earlier", "velocity.earlier", "images"):
        assert torch.equal(method.state_dict()[name], good[name]), name


# Continuation and workers


@SCALES
@CONFIGS
def test_exact_continuation(config: MatchingConfig, scale: float, tmp_path: Path) -> None:
    whole, states, rows = build(config, start_of(config, scale)), list[dict[str, Any]](), list[dict[str, float]]()
    for _ in range(5):
        states.append(whole.state_dict())
        rows.append(whole.step())
    for iteration in (0, 2, 4):
        checkpoints = Checkpoints(Folder.at(tmp_path / str(iteration)), "stage")
        checkpoints.save(states[iteration], rows[:iteration])
        saved = checkpoints.load()
        assert saved is not None
        method = build(config, start_of(config, scale))
        method.step()  # whatever it did before is forgotten
        method.load_state_dict(saved[0])
        assert_equal(method.state_dict(), states[iteration])
        assert [method.step() for _ in range(iteration, 5)] == rows[iteration:]
        assert_equal(method.state_dict(), whole.state_dict())


def on_each_worker(folder: Folder, config: MatchingConfig, scale: float) -> Results:
    method = build(config, start_of(config, scale), folder)
    for _ in range(6):
        method.step()
    return learned(method.state_dict())


@SCALES
@pytest.mark.parametrize("config", [MTT, replace(DATM, synthetic_batch_size=5), replace(DATM, synthetic_batch_size=1)])
def test_two_workers_are_one(config: MatchingConfig, scale: float) -> None:
    alone = on_each_worker(tiny.expert_folder(), config, scale)
    first, second = tiny.on_workers(2, on_each_worker, tiny.expert_folder(), config, scale)
    assert_equal(first, second)
    for name, value in alone.items():
        assert relative_error(first[name], value) < 1e-9, name


# Trajectories and windows of a later stage


def test_labels_come_from_the_trajectories_of_the_stage(tmp_path: Path) -> None:
    """Which are short: three epochs, from where the first stage's experts were after three."""
    first, later = tiny.store(tiny.expert_folder()), tiny.store(Folder.at(tmp_path))
    for expert in range(EXPERTS.count):
        later.write(expert, (Snapshot(epoch, first.params(expert, epoch + 3)) for epoch in range(4)))
    config = replace(DATM, initial_max_start_epoch=1, max_start_epoch=2, expansion_iterations=1)
    config.check(trajectory_epochs=3)
    method = build(config, start_of(config), Folder.at(tmp_path), last_epoch=3)
    result = method.result()
    last = [later.params(expert, 3).double() for expert in range(EXPERTS.count)]
    assert any(not torch.equal(later.params(expert, 3), first.params(expert, 3)) for expert in range(EXPERTS.count))
    wanted = torch.stack(matching.masked_mean(tiny.network, last, result.images.double(), result.labels.tolist()))
    torch.testing.assert_close(result.soft_labels, wanted.float(), rtol=1e-5, atol=1e-5)
    rows = [method.step() for _ in range(12)]
    assert {row["start_epoch"] for row in rows} == {0, 1}
    task = replace(tiny.task(Folder.at(tmp_path)), last_epoch=1)
    assert not torch.equal(masked_mean_logits(task, result.images, result.labels), result.soft_labels)


@CONFIGS
def test_a_window_that_is_moved(config: MatchingConfig) -> None:
    moved = config.moved(2)
    shifted = {"min_start_epoch": 2, "max_start_epoch": 6}
    if isinstance(config, DATMConfig):
        shifted["initial_max_start_epoch"] = 4
    assert moved == replace(config, **shifted) and config.moved(0) == config
    assert moved.moved(1) == config.moved(3)
    method = build(replace(moved, synthetic_steps=1, max_start_epoch=5), start_of(config))
    for _ in range(5):
        row = method.step()
        assert 2 <= row["start_epoch"] < row["max_start_epoch"] <= 5
