"""DC, DSA and DM as running methods: equations, draws, frozen images, workers, exact continuation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.methods import Start, Task
from raydd.methods.base import NetworkStates
from raydd.methods.condensation import family
from raydd.methods.condensation.compared import ClassImages, RealImages
from raydd.methods.condensation.dc import (
    DISTANCES,
    PUBLISHED_LOOPS,
    DCConfig,
    DSAConfig,
    GradientMatchingConfig,
    class_gradients,
    settle_batch_norms,
)
from raydd.methods.condensation.dm import DMConfig, MeanFeatures
from raydd.methods.condensation.family import Condensation, CondensationConfig, siamese
from raydd.methods.drawn import drawn_network
from raydd.methods.initial import random_real
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.dsa import augmentation
from tests.reference import condensation as reference
from tests.reference import matching
from tests.support import tiny
from tests.support.tiny import CLASSES, CPU, NETWORK, Results, assert_equal, relative_error

KEY = Key.root(7)
SMALL: dict[str, Any] = {"images_per_class": 2, "iterations": 8, "real_batch_size": 5}
LOOPS: dict[str, Any] = {"outer_loops": 3, "inner_epochs": 2, "network_lr": 0.1}
DM = DMConfig(**SMALL)
DC = DCConfig(**SMALL, **LOOPS)
DSA = DSAConfig(**SMALL, **LOOPS, network_batch_size=4)
METHODS: dict[str, CondensationConfig] = {"dm": DM, "dc": DC, "dsa": DSA}
CONFIGS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
BATCH_NORM = NetworkConfig(width=4, depth=2, norm="batch")


def task(network: NetworkConfig = NETWORK, dtype: torch.dtype = torch.float64) -> Task:
    return Task(data=tiny.data(), network=network, dtype=dtype)


def build(config: CondensationConfig, start: Start | None = None, **of_task: Any) -> Condensation:
    assert isinstance(config, DMConfig | GradientMatchingConfig)
    method = config.build(task(**of_task), start or Start(), KEY)
    assert isinstance(method, Condensation)
    return method


def after(method: Condensation, steps: int) -> Condensation:
    for _ in range(steps):
        method.step()
    return method


def by_class(images: Tensor, labels: Tensor) -> list[Tensor]:
    return [images[labels == label].double() for label in range(len(CLASSES))]


def features(theta_P: Tensor, images: Tensor) -> Tensor:
    """The reference's network with an identity in the place of its last layer."""
    size = NETWORK.width * 4
    body = theta_P[: len(theta_P) - (size + 1) * len(CLASSES)]
    identity = torch.cat([body, torch.eye(size, dtype=body.dtype).flatten(), body.new_zeros(size)])
    return matching.convnet(identity, images, width=NETWORK.width, depth=NETWORK.depth, num_classes=size)


def earlier() -> SyntheticSet:
    """Frozen images, some classes more than others, out of order."""
    stage = build(replace(DM, images_per_class=3)).result()
    rows = torch.tensor([3, 0, 8, 1])
    return replace(stage, images=stage.images[rows], labels=stage.labels[rows], stage=stage.stage[rows])


# Equations


@pytest.mark.parametrize("start", ["alone", "after frozen images", "from a pool", "with earlier images learned on"])
@pytest.mark.parametrize(
    "config",
    [
        DM,
        replace(DM, augmentation="none", momentum=0.0),
        DC,
        replace(DC, distance="mse", image_lr=0.5),
        replace(DC, distance="cosine", image_init="random"),
        DSA,
        replace(DSA, augmentation="color+crop_scale"),
    ],
    ids=["dm", "dm without augmentation", "dc", "dc mse", "dc cosine", "dsa", "dsa chain"],
)
def test_steps_are_the_plain_loops(config: CondensationConfig, start: str) -> None:
    config = replace(config, real_batch_size=99)  # all there are: no draw of real images is left
    if isinstance(config, GradientMatchingConfig):
        config = replace(config, network_batch_size=99)
    before = replace(earlier(), labels=earlier().labels.sort().values)  # in the reference's order
    begin = STARTS[start](before)
    method, data = build(config, begin), tiny.data()
    held = by_class(before.images, before.labels) if begin.frozen else [torch.zeros(0, 1, 8, 8).double()] * 3
    new = list(method.result().images.double().split(2))
    images, velocity = [*held, *new], [torch.zeros_like(x) for x in (*held, *new)]
    lrs = [begin.frozen_lr_scale * config.image_lr] * 3 + [config.image_lr] * 3
    real = by_class(data.train.images[:], data.train.labels)
    for iteration in range(2):
        flat = FlatNetwork(drawn_network(task(), KEY, iteration, begin))
        step = reference_step(config, flat, iteration, lrs)
        images, velocity, loss = step(real, images, velocity)
        assert method.step() == {"loss": pytest.approx(loss, rel=1e-9)}
        learned = slice(None if begin.frozen_lr_scale else 3, None)
        assert relative_error(method.state_dict()["images"], torch.cat(list(images[learned]))) < 1e-9
        assert relative_error(method.state_dict()["velocity"], torch.cat(list(velocity[learned]))) < 1e-7


def pool(size: int = 3) -> NetworkStates:
    return [drawn_network(task(), Key.root(99), number).state_dict() for number in range(size)]


STARTS: dict[str, Callable[[SyntheticSet], Start]] = {
    "alone": lambda frozen: Start(),
    "after frozen images": lambda frozen: Start(stage=1, frozen=frozen),
    "from a pool": lambda frozen: Start(stage=1, frozen=frozen, pool=pool(), fresh_fraction=0.3),
    "with earlier images learned on": lambda frozen: Start(stage=1, frozen=frozen, frozen_lr_scale=0.25),
}


def reference_step(
    config: CondensationConfig, flat: FlatNetwork, iteration: int, lrs: list[float]
) -> Callable[..., Any]:
    def augment(number: int, label: int, images: Tensor) -> Tensor:
        key = KEY.child("round", iteration, number).child("augment", label)
        return siamese(config.augmentation).draw(key, torch.zeros(len(images), dtype=torch.int64))(images)

    def augment_epoch(number: int, epoch: int, images: Tensor) -> Tensor:
        key = KEY.child("round", iteration, number).child("train").child("augment", epoch, 0)
        return augmentation(config.augmentation).draw(key, torch.arange(len(images)))(images)

    shared = {"augment": augment, "lrs": lrs, "momentum": config.momentum}
    if not isinstance(config, GradientMatchingConfig):
        return partial(reference.dm_step, features, flat.flat(), **shared)
    return partial(
        reference.dc_step, tiny.network, flat.flat(), list(flat.shapes.values()), **shared, augment_epoch=augment_epoch,
        distance=config.distance, outer=3, inner=2, network_lr=config.network_lr,
    )  # fmt: skip


@pytest.mark.parametrize("name", DISTANCES)
def test_distances(name: str) -> None:
    shapes = [(4, 3, 3, 3), (4,), (4,), (5, 16), (5,)]
    a, b = (tiny.randn(seed, 4 * 27 + 8 + 80 + 5) for seed in (1, 2))
    distance, one, other = DISTANCES[name], reference.pieces(a, shapes), reference.pieces(b, shapes)
    assert float(distance(one, other)) == pytest.approx(float(reference.DISTANCES[name](a, b, shapes)), rel=1e-12)
    assert float(distance(one, one)) == pytest.approx(0, abs=1e-5)  # the published epsilon beside the norms
    negative = [-x for x in one]
    scaled = {"layerwise": 2 * 9, "mse": 4 * float(a.square().sum()), "cosine": 2}[name]
    assert float(distance(one, negative)) == pytest.approx(scaled, rel=1e-5)
    vectors = [x + 1 if x.ndim == 1 else x for x in one]
    assert (float(distance(one, vectors)) < 1e-5) == (name == "layerwise")


def test_no_gradient_where_synthetic_images_are_the_real_ones() -> None:
    network, real = drawn_network(task(), KEY, 0), tiny.data().train.images[:12].double()
    leaf = real.clone().requires_grad_()
    block = [ClassImages(1, real, [], leaf)]
    for objective in (replace(DC, distance="mse").objective(has_batch_norm=False), MeanFeatures(joint=False)):
        loss = objective.loss(network, block)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-20)
        assert torch.autograd.grad(loss, leaf)[0].abs().max() < 1e-12


def test_dm_of_a_linear_map_is_closed() -> None:
    """L = |W (m - n)|^2 for means m, n of real and synthetic images, hence dL/dx_i = -2 / S W^T W (m - n).

    S counts constants too, here in two unequal parts.
    """
    weight, real, held, learned = tiny.randn(0, 7, 5), tiny.randn(1, 9, 5), tiny.randn(3, 6, 5), tiny.randn(2, 4, 5)
    body = nn.Linear(5, 7, bias=False).double()
    body.weight.data.copy_(weight)
    loss = MeanFeatures(joint=False).loss(
        Network(body, 7, 3), [ClassImages(0, real, held.split(4), learned.requires_grad_())]
    )
    difference = real.mean(0) - torch.cat([held, learned.detach()]).mean(0)
    assert float(loss.detach()) == pytest.approx(float((weight @ difference).square().sum()))
    wanted = (-2 / 10 * weight.T @ weight @ difference).expand(4, 5)
    torch.testing.assert_close(torch.autograd.grad(loss, learned)[0], wanted)


def test_published_loops() -> None:
    assert {ipc: DCConfig(images_per_class=ipc).loops for ipc in PUBLISHED_LOOPS} == PUBLISHED_LOOPS
    assert (DCConfig(images_per_class=5).loops, DCConfig(images_per_class=41).loops) == ((10, 50), (50, 10))
    assert DSAConfig(images_per_class=100, outer_loops=100, inner_epochs=2).loops == (100, 2)
    assert DSAConfig(images_per_class=10, inner_epochs=5).loops == (10, 5)


# Draws


def test_real_images_of_a_class_none_twice() -> None:
    real, data = RealImages(tiny.data(), CPU, torch.float32), tiny.data().train
    for count, size in ((5, 5), (99, 12)):
        found = real.draw(KEY, 1, count)
        rows = [int((data.images[:] == image).flatten(1).all(1).nonzero()) for image in found]
        assert len(set(rows)) == len(rows) == size and set(data.labels[rows].tolist()) == {1}
    assert not torch.equal(real.draw(KEY, 1, 5), real.draw(KEY.child(0), 1, 5))
    assert torch.equal(real.draw_all(KEY, 4)[4:8], real.draw(KEY, 1, 4))
    images, labels = real.draw_any(KEY, 20)
    rows = [int((data.images[:] == image).flatten(1).all(1).nonzero()) for image in images]
    assert len(set(rows)) == 20 and torch.equal(data.labels[rows], labels)
    assert len(real.draw_any(KEY, 99)[1]) == 36


def test_every_iteration_has_a_network_of_its_own() -> None:
    weights = [FlatNetwork(drawn_network(task(), KEY, t)).flat() for t in (0, 1, 0)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def test_networks_of_a_pool() -> None:
    members = pool()
    found = [drawn_network(task(), KEY, t, Start(pool=members)).state_dict() for t in range(20)]
    used = [next(i for i, state in enumerate(members) if is_same(state, x)) for x in found]
    assert set(used) == {0, 1, 2} and used[:3] * 6 != used[:18]
    kept = members[used[0]]["head.weight"].clone()
    assert build(DC, Start(pool=members)).step() != build(DC).step()
    assert torch.equal(members[used[0]]["head.weight"], kept)  # what a step trains is a copy


def is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return torch.equal(one["head.bias"], other["head.bias"])


def test_some_networks_are_fresh_beside_a_pool() -> None:
    for fraction, least, most in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
        start = Start(pool=pool(1), fresh_fraction=fraction)
        found = [drawn_network(task(), KEY, t, start).state_dict() for t in range(200)]
        fresh = [t for t, state in enumerate(found) if not is_same(state, start.pool[0])]
        assert least <= len(fresh) <= most
        for t in fresh[:3]:
            assert is_same(found[t], drawn_network(task(), KEY, t).state_dict())


def test_siamese_draws_are_shared_by_all_samples() -> None:
    images = tiny.randn(0, 1, 1, 8, 8).expand(6, 1, 8, 8)
    for name in ("dsa", "crop+color"):
        for number in range(6):
            draw = siamese(name).draw(KEY.child(number), torch.arange(6))
            assert torch.equal(draw(images), draw(images)[:1].expand(6, 1, 8, 8))
    assert siamese("none") == augmentation("none")


def test_starting_images() -> None:
    data = tiny.data()
    rows = random_real(data, 2, KEY.child("init"))
    for config in (DM, DSA):
        result = build(config).result()
        assert torch.equal(result.images, data.train.images[rows])
        assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert result.soft_labels is None and result.learned_lr == (None,)
    noise = build(replace(DC, images_per_class=40)).result().images  # more than there are real ones
    assert len(noise) == 120 and abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    assert build(DC).averaged() is None and build(DC).revised() is None


def test_the_global_generator_plays_no_part() -> None:
    torch.manual_seed(1)
    first = after(build(DSA), 1).state_dict()
    torch.manual_seed(2)
    assert_equal(after(build(DSA), 1).state_dict(), first)


# Learning


@pytest.mark.parametrize(
    "config",
    [replace(DM, image_lr=10.0), replace(DC, image_lr=0.5), replace(DSA, image_lr=0.5)],
    ids=["dm", "dc", "dsa"],
)
def test_the_loss_falls(config: CondensationConfig) -> None:
    """Compared with noise that stays, under the same draws."""
    config = replace(config, image_init="noise", real_batch_size=12)
    learned, still = (build(c, dtype=torch.float32) for c in (config, replace(config, image_lr=1e-12)))
    losses = [(learned.step()["loss"], still.step()["loss"]) for _ in range(10)]
    last, unlearned = (sum(column[-4:]) for column in zip(*losses, strict=True))
    assert last < 0.8 * unlearned


# Frozen images


@CONFIGS
def test_frozen_images_take_part_and_never_change(config: CondensationConfig) -> None:
    frozen = earlier()
    kept = [tensor.clone() for tensor in (frozen.images, frozen.labels)]
    method = build(config, Start(stage=1, frozen=frozen))
    loss = method.step()["loss"]
    assert torch.equal(frozen.images, kept[0]) and torch.equal(frozen.labels, kept[1])
    result = method.result()
    assert len(result) == 6 and result.stage.tolist() == [1] * 6
    assert build(config, Start(stage=1, frozen=replace(frozen, images=-frozen.images))).step()["loss"] != loss
    assert build(config).step()["loss"] != loss
    assert method.revised() is None and len(method.state_dict()["images"]) == 6


@pytest.mark.parametrize("config", [DM, replace(DC, network_batch_size=4), DSA], ids=METHODS.keys())
def test_no_gradient_by_frozen_images_is_ever_asked_for(
    config: CondensationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither asked for nor made room for: of no more than a few images at a time anything is kept for the way back."""
    asked: list[Tensor] = []
    kept: list[int] = []
    differentiate = torch.autograd.grad

    def listening(outputs: Tensor, inputs: Any, **options: Any) -> Any:
        asked.extend([inputs] if isinstance(inputs, Tensor) else inputs)
        return differentiate(outputs, inputs, **options)

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:
            kept.append(len(tensor))
        return tensor

    monkeypatch.setattr(torch.autograd, "grad", listening)
    monkeypatch.setattr(family, "CONSTANTS_AT_ONCE", 4)
    frozen = repeated(earlier(), 20)
    method = build(config, Start(stage=1, frozen=frozen))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method.step()
    assert 2 <= max(kept) <= config.real_batch_size
    assert not frozen.images.requires_grad and frozen.images.grad is None
    images = [tensor for tensor in asked if tensor.shape[1:] == (1, 8, 8)]
    assert images and all(len(tensor) == 2 for tensor in images)


def repeated(frozen: SyntheticSet, copies: int) -> SyntheticSet:
    rows = torch.arange(len(frozen)).repeat(copies)
    return replace(frozen, images=frozen.images[rows], labels=frozen.labels[rows], stage=frozen.stage[rows])


@CONFIGS
def test_frozen_images_in_chunks_count_as_together(config: CondensationConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(stage=1, frozen=repeated(earlier(), 3))
    together = after(build(config, start), 2).state_dict()
    monkeypatch.setattr(family, "CONSTANTS_AT_ONCE", 2)
    found = after(build(config, start), 2).state_dict()
    for name in ("images", "velocity"):
        assert relative_error(found[name], together[name]) < 1e-10


@CONFIGS
def test_earlier_images_that_are_learned_on(config: CondensationConfig) -> None:
    """They move at their own rate, keep all else that they were, and what they were made from stays."""
    frozen = replace(earlier(), soft_labels=tiny.randn(8, 4, 3).float(), learned_lr=(0.5,))
    kept = frozen.images.clone()
    method = build(config, Start(stage=1, frozen=frozen, frozen_lr_scale=0.1), dtype=torch.float32)
    first = method.revised()
    assert first is not None and torch.equal(first.images, kept)
    after(method, 2)
    revised = method.revised()
    assert revised is not None and torch.equal(frozen.images, kept)
    assert replace(revised, images=kept) == replace(frozen, images=kept)
    assert (revised.images - kept).flatten(1).norm(dim=1).gt(0).all()
    assert len(method.result()) == 6 and len(method.state_dict()["images"]) == 10
    none = build(config, Start(frozen_lr_scale=0.1))
    assert none.revised() is None
    assert_equal(after(none, 1).state_dict(), after(build(config), 1).state_dict())


@CONFIGS
def test_continuation_with_earlier_images_learned_on(config: CondensationConfig) -> None:
    start = Start(stage=1, frozen=earlier(), frozen_lr_scale=0.5, pool=pool(), fresh_fraction=0.5)
    whole = after(build(config, start), 2)
    resumed = build(config, start)
    resumed.load_state_dict(whole.state_dict())
    assert_equal(after(resumed, 2).state_dict(), after(whole, 2).state_dict())


# Batch norm


def test_settled_batch_norms_make_images_independent() -> None:
    network = drawn_network(task(BATCH_NORM), KEY, 0)
    images = tiny.data().train.images[:].double()
    settle_batch_norms(network, images)
    wanted = nn.BatchNorm2d(4).double()
    wanted(network.body[0].conv(images))
    assert torch.allclose(network.body[0].norm.running_mean, wanted.running_mean)
    assert torch.allclose(network(images)[:3], network(images[:3]))
    params = list(network.parameters())
    parts = [class_gradients(network, params, half, 0) for half in images.split(18)]
    whole = class_gradients(network, params, images, 0)
    for first, second, both in zip(*parts, whole, strict=True):
        assert torch.allclose((first + second) / 2, both)


def test_dm_embeds_all_classes_together_under_batch_norm() -> None:
    network, data = drawn_network(task(BATCH_NORM), KEY, 0), tiny.data().train
    real, learned = by_class(data.images[:], data.labels), list(tiny.randn(3, 3, 2, 1, 8, 8).unbind())
    held = by_class(earlier().images, earlier().labels)
    held[0] = torch.cat([held[0], held[0]])

    def block() -> list[ClassImages]:
        return [ClassImages(c, real[c], held[c].split(3), learned[c]) for c in range(3)]

    found = MeanFeatures(joint=True).loss(network, block())
    of_real = network.features(torch.cat(real)).split(12)
    of_synthetic = network.features(torch.cat([*held, *learned]))
    labels = torch.tensor([0] * 4 + [1, 2, 0, 0, 1, 1, 2, 2])
    wanted = sum((of_real[c].mean(0) - of_synthetic[labels == c].mean(0)).square().sum() for c in range(3))
    assert torch.allclose(found, wanted)
    assert not torch.allclose(sum(MeanFeatures(joint=False).loss(network, [part]) for part in block()), wanted)


# Continuation


@CONFIGS
def test_exact_continuation(config: CondensationConfig, tmp_path: Path) -> None:
    whole, checkpoints = build(config, dtype=torch.float32), Checkpoints(Folder.at(tmp_path), "stage")
    rows = [whole.step(), whole.step()]
    checkpoints.save(whole.state_dict(), rows)
    saved = checkpoints.load()
    assert saved is not None and saved[1] == rows
    resumed = after(build(config, dtype=torch.float32), 1)  # whatever it did before is forgotten
    resumed.load_state_dict(saved[0])
    assert_equal(resumed.state_dict(), whole.state_dict())
    assert [resumed.step() for _ in range(2)] == [whole.step() for _ in range(2)]
    assert_equal(resumed.state_dict(), whole.state_dict())
    assert resumed.iteration == 4


@CONFIGS
def test_state_and_result_are_copies(config: CondensationConfig) -> None:
    method = after(build(config), 1)
    state, result = method.state_dict(), method.result()
    kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    images = result.images.clone()
    method.step()
    assert_equal(state, kept)
    assert torch.equal(result.images, images) and not torch.equal(method.result().images, images)
    method.load_state_dict(state)
    for value in (state["images"], state["velocity"], method.state_dict()["images"], method.result().images):
        value.fill_(math.nan)
    assert_equal(method.state_dict(), kept)


@pytest.mark.parametrize("config", [DM, DC], ids=["dm", "dc"])
def test_a_loss_that_is_not_finite_stops_and_leaves_the_state(config: CondensationConfig) -> None:
    config = replace(config, image_lr=1e300)
    method = build(config)
    with pytest.raises(RunError, match=f"{LOST}|{FAR}|training loss"):
        for _ in range(4):
            state = method.state_dict()
            method.step()
    assert_equal(method.state_dict(), state)


@pytest.mark.parametrize("config", [DM, DC], ids=["dm", "dc"])
def test_images_that_are_nothing_like_pixels_stop_though_the_loss_is_finite(config: CondensationConfig) -> None:
    method = build(replace(config, image_lr=1e9))
    with pytest.raises(RunError, match=FAR):
        for _ in range(3):
            state = method.state_dict()
            method.step()
    assert_equal(method.state_dict(), state)


LOST = r"iteration \d+: the loss is (nan|inf); lower method.image_lr"
FAR = r"iteration \d+: the images have left the pixels far behind \(a value of .*\); lower method.image_lr"


# Workers


def on_each_worker(config: CondensationConfig, network: NetworkConfig, steps: int) -> Results:
    method = build(config, network=network)
    losses = [method.step()["loss"] for _ in range(steps)]
    state = method.state_dict()
    return {"images": state["images"], "velocity": state["velocity"], "losses": torch.tensor(losses).double()}


@pytest.mark.parametrize("network", [NETWORK, BATCH_NORM], ids=["instance norm", "batch norm"])
@CONFIGS
def test_two_workers_are_one(config: CondensationConfig, network: NetworkConfig) -> None:
    alone = on_each_worker(config, network, 2)
    first, second = tiny.on_workers(2, on_each_worker, config, network, 2)
    assert_equal(first, second)
    for name, value in alone.items():
        assert relative_error(first[name], value) < 1e-9, name


# Mistakes


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("method.images_per_class", {"images_per_class": 0}),
        ("method.iterations", {"iterations": 0}),
        ("method.real_batch_size", {"real_batch_size": 0}),
        ("method.image_lr", {"image_lr": 0.0}),
        ("method.image_lr", {"image_lr": math.nan}),
        ("method.momentum", {"momentum": 1.0}),
        ("augmentation", {"augmentation": "blur"}),
        ("method.outer_loops", {"outer_loops": 0}),
        ("method.inner_epochs", {"inner_epochs": 0}),
        ("method.outer_loops", {"outer_loops": None, "images_per_class": 100}),
        ("method.inner_epochs", {"inner_epochs": None, "images_per_class": 100}),
        ("method.network_lr", {"network_lr": 0.0}),
        ("method.network_batch_size", {"network_batch_size": 0}),
    ],
)
def test_refuses_what_cannot_run(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        replace(DSA, **change)


def test_more_images_than_a_class_has() -> None:
    with pytest.raises(ConfigError, match=r"^method\.images_per_class: 13 asked for, but class 'ant' has only 12 "):
        build(replace(DM, images_per_class=13))


@CONFIGS
def test_needs_nothing_that_is_trained_first(config: CondensationConfig) -> None:
    config.check(trajectory_epochs=0)
    assert config.made_first == () and config.num_groups(100) == build(config).units == 1
    assert not (config.has_soft_labels or config.has_average)
