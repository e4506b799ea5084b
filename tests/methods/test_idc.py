"""IDC as a running method: equations, turns of the classes, mosaics, earlier stages, workers, exact continuation."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.preprocessing import Standardise
from raydd.methods import IDCConfig, Start, Task, method_identity
from raydd.methods.base import NetworkStates
from raydd.methods.condensation.family import Condensation, drift, siamese
from raydd.methods.condensation.idc import Mosaics, mosaics
from raydd.methods.drawn import drawn_network
from raydd.methods.initial import random_real
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.sets.formation import Formation
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from tests.reference import idc as reference
from tests.support import tiny
from tests.support.tiny import CLASSES, NETWORK, Results, assert_equal, relative_error

KEY = Key.root(11)
SMALL: dict[str, Any] = {"images_per_class": 2, "iterations": 8, "inner_loops": 3, "real_batch_size": 5}
IDC = IDCConfig(**SMALL, num_real=20, network_batch_size=8, image_lr=2.0)
PLAIN = replace(
    IDC, real_batch_size=99, num_real=99, network_batch_size=99, network_augmentation="none", cutmix=0, network_lr=0.1
)
"""What the reference does: no draw is left but that of the augmentation."""
BATCH_NORM = NetworkConfig(width=4, depth=2, norm="batch")
RATE = 2 / 10 * (8 / 28) ** 2
"""Of two images of 8x8 pixels."""


def task(network: NetworkConfig = NETWORK, dtype: torch.dtype = torch.float64) -> Task:
    return Task(data=tiny.data(), network=network, dtype=dtype)


def build(config: IDCConfig = IDC, start: Start | None = None, **of_task: Any) -> Condensation:
    method = config.build(task(**of_task), start or Start(), KEY)
    assert isinstance(method, Condensation)
    return method


def after(method: Condensation, steps: int) -> Condensation:
    for _ in range(steps):
        method.step()
    return method


def earlier(config: IDCConfig = IDC, images_per_class: int = 3) -> SyntheticSet:
    """What an earlier stage made, some classes more of it than others."""
    stage = (
        replace(config, images_per_class=images_per_class, image_init="noise")
        .build(task(), Start(), Key.root(3))
        .result()
    )
    rows = torch.tensor([0, 2, 3, 6, 7, 8])
    return replace(stage, images=stage.images[rows], labels=stage.labels[rows], stage=stage.stage[rows])


def pool(size: int = 3) -> NetworkStates:
    return [drawn_network(task(), Key.root(99), number).state_dict() for number in range(size)]


STARTS: dict[str, dict[str, Any]] = {
    "alone": {},
    "after frozen images": {"stage": 1, "frozen": True},
    "from a pool": {"stage": 1, "frozen": True, "pool": pool(), "fresh_fraction": 0.3},
    "with earlier images learned on": {"stage": 1, "frozen": True, "frozen_lr_scale": 0.25},
}

# Equations


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, factor=1, momentum=0.9),
        replace(PLAIN, factor=3, image_init="noise", augmentation="none", momentum=0.0),
        replace(PLAIN, distance="l1", image_lr=0.05),
    ],
    ids=["idc", "idc-i", "factor 3", "l1"],
)
def test_steps_are_the_plain_loops(config: IDCConfig, start: str) -> None:
    arguments = dict(STARTS[start])
    if "frozen" in arguments:
        arguments["frozen"] = earlier(config)
    begin, data = Start(**arguments), tiny.data()
    method = build(config, begin)
    inverse, forward = pixels_of(data.preprocessing)
    held = [inverse(x) for x in by_class(begin.frozen)] if begin.frozen else [torch.zeros(0, 1, 8, 8).double()] * 3
    new = list(method.state_dict()["images"][-6:].split(2))
    images, velocity = [*held, *new], [torch.zeros_like(x) for x in (*held, *new)]
    rate = config.image_lr * RATE
    real = [data.train.images[data.train.labels == label].double() for label in range(3)]
    for iteration in range(2):
        flat = FlatNetwork(drawn_network(task(), KEY, iteration, begin))

        def augment(number: int, label: int, images: Tensor, iteration: int = iteration) -> Tensor:
            key = KEY.child("round", iteration, number).child("augment", label)
            return siamese(config.augmentation).draw(key, torch.zeros(len(images), dtype=torch.int64))(images)

        images, velocity, loss = reference.iteration(
            tiny.network, flat.flat(), list(flat.shapes.values()), real, images, velocity, forward, augment,
            [begin.frozen_lr_scale * rate] * 3 + [rate] * 3, config.momentum, config.distance, config.factor,
            inner=3, network_lr=0.1, network_momentum=0.9, weight_decay=5e-4,
        )  # fmt: skip
        assert method.step() == {"loss": pytest.approx(loss, rel=1e-8)}
        learned = slice(None if begin.frozen_lr_scale else 3, None)
        state = method.state_dict()
        assert relative_error(state["images"], torch.cat(list(images[learned]))) < 1e-9
        assert relative_error(state["velocity"], torch.cat(list(velocity[learned]))) < 1e-6
    assert (state["images"][-6:] - torch.cat(new)).abs().max() > 1e-3


def pixels_of(preprocessing: Any) -> tuple[Any, Any]:
    assert isinstance(preprocessing, Standardise)
    mean, deviation = float(preprocessing.mean_C), float(preprocessing.std_C)
    return lambda x: x * deviation + mean, lambda pixels: (pixels - mean) / deviation


def by_class(made: SyntheticSet) -> list[Tensor]:
    return [made.images[made.labels == label].double() for label in range(len(CLASSES))]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 200), st.floats(0, 0.99), st.floats(0.01, 10))
def test_drift_is_so_many_steps(steps: int, momentum: float, lr: float) -> None:
    x, v = tiny.randn(1, 2, 1, 2, 2), tiny.randn(2, 2, 1, 2, 2)
    count = torch.tensor([steps, 0.0], dtype=torch.float64).view(2, 1, 1, 1)
    rates = torch.tensor([lr, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    found_x, found_v = drift(x, v, rates, momentum, count)
    assert torch.equal(found_x[1], x[1]) and torch.equal(found_v[1], v[1])
    one, speed = x[0], v[0]
    for _ in range(steps):
        speed = momentum * speed
        one = one - lr * speed
    torch.testing.assert_close(found_x[0], one)
    torch.testing.assert_close(found_v[0], speed)


def test_step_sizes() -> None:
    """Times images per class / 10, times the area compared with the published one."""
    for images_per_class, size, wanted in [
        (10, 32, 5e-3), (2, 32, 1e-3), (50, 32, 25e-3), (10, 28, 5e-3), (10, 224, 5e-3), (10, 64, 20e-3),
        (20, 112, 2.5e-3), (10, 14, 1.25e-3),
    ]:  # fmt: skip
        assert IDCConfig(images_per_class=images_per_class).rate((3, size, size)) == pytest.approx(wanted)


# Mosaics


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_starting_images_are_mosaics_of_real_ones(factor: int) -> None:
    data = tiny.data()
    config = replace(IDC, factor=factor, images_per_class=1)
    result = build(config).result()
    inverse, forward = pixels_of(data.preprocessing)
    rows = random_real(data, factor**2, KEY.child("init")).view(3, factor, factor)
    cell, kept = math.ceil(8 / factor), [[i for i in range(8)], [0, 2, 4, 6], [0, 2, 5]][factor - 1]
    for label in range(3):
        for i in range(factor):
            for j in range(factor):
                small = data.train.images[rows[label, i, j]][:, kept][:, :, kept]
                wanted = forward(inverse(small).clamp(0, 1))[:, : 8 - i * cell, : 8 - j * cell]
                found = result.images[label, :, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell]
                torch.testing.assert_close(found, wanted)
    assert len(rows.unique()) == rows.numel() and result.labels.tolist() == [0, 1, 2]


def test_every_stage_starts_from_images_of_its_own() -> None:
    first, second = (replace(IDC).build(task(), Start(), Key.root(0).child("stage", s)).result() for s in (0, 1))
    assert not torch.equal(first.images, second.images)


def test_noise_is_of_pixels_about_grey() -> None:
    """N(1/2, 1/16), cut off at 0 and 1, beyond which 2.3 % of the values lie on either side."""
    pixels = build(replace(IDC, image_init="noise", images_per_class=20)).state_dict()["images"]
    shares = [float((pixels <= limit).float().mean()) for limit in (0, 0.25, 0.5, 0.75)]
    assert shares == pytest.approx([NormalDist().cdf(z) for z in (-2, -1, 0, 1)], abs=0.02)
    assert float((pixels >= 1).float().mean()) == pytest.approx(NormalDist().cdf(-2), abs=0.01)
    assert float(pixels.min()) == 0 and float(pixels.max()) == 1


def test_noise_of_pixels_has_a_key_of_its_own() -> None:
    """Sets that began at noise of network space, as they once did, are not taken for it."""
    assert method_identity(replace(IDC, image_init="noise"))["noise"] == "pixels"
    assert "noise" not in method_identity(IDC)


def test_mosaics_of_too_few_images() -> None:
    with pytest.raises(ConfigError, match=r"^method\.images_per_class: 16 asked for, but class 'ant' has only 12 "):
        build(replace(IDC, images_per_class=4))


def test_sets_say_how_they_are_decoded() -> None:
    for config, formation in [
        (replace(IDC, factor=1), None),
        (IDC, Formation(factor=2)),
        (replace(IDC, decode="multi"), Formation(factor=2, mode="multi")),
        (replace(IDC, decode="bound"), Formation(factor=2)),
    ]:
        result = build(config).result()
        assert result.formation == formation
        assert len(result.decoded()) == 6 * {None: 1, "single": 4, "multi": 5}[formation.mode if formation else None]


def form(decode: Any, limit: int, factor: int = 2) -> Mosaics:
    return Mosaics(tiny.data().preprocessing, factor, decode, limit, Formation(factor=factor))


@pytest.mark.parametrize(
    ("decode", "limit", "others", "wanted"),
    [
        ("single", 128, 0, 12),
        ("single", 12, 0, 12),
        ("single", 7, 0, 7),
        ("single", 24, 3, 12),
        ("single", 8, 9, 2),
        ("single", 8, 99, 1),  # new images are never left out
        ("multi", 128, 0, 15),
        ("multi", 10, 0, 10),
        ("bound", 128, 0, 12),
        ("bound", 10, 0, 6),  # 4 + 1 + 1, as the published code counts
        ("bound", 11, 0, 9),
        ("bound", 2, 0, 2),
    ],
)
def test_how_many_parts_are_seen(decode: Any, limit: int, others: int, wanted: int) -> None:
    pixels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    seen = [form(decode, limit).seen(pixels, others, KEY.child(number)) for number in range(20)]
    assert {len(parts) for parts in seen} == {wanted}
    assert all(len(parts.unique(dim=0)) == wanted for parts in seen)
    (gradient,) = torch.autograd.grad(seen[0].square().sum(), pixels)
    assert (gradient != 0).any()
    whole = {"single": 12, "multi": 15}.get(decode, wanted)
    differ = any(not torch.equal(parts, seen[0]) for parts in seen)
    assert differ == (wanted < whole or (decode, limit) == ("bound", 2))


def test_new_and_earlier_images_are_both_seen_under_a_limit() -> None:
    """Every class's new images have a gradient though earlier ones are many times more, and those matter too."""
    config = replace(IDC, decoded_per_class=3, inner_loops=20, augmentation="none", cutmix=0)
    frozen = earlier(config)
    rows = torch.arange(6).repeat(10)
    many = replace(frozen, images=frozen.images[rows], labels=frozen.labels[rows], stage=frozen.stage[rows])
    method = build(config, Start(stage=1, frozen=many))
    before = method.state_dict()["images"]
    loss = method.step()["loss"]
    assert (method.state_dict()["images"] - before).flatten(1).abs().amax(1).gt(0).all()
    other = build(config, Start(stage=1, frozen=replace(many, images=-many.images)))
    assert other.step()["loss"] != loss


# Bounds


def test_pixels_are_kept_in_range() -> None:
    config = replace(IDC, image_lr=50.0)
    method = build(config, dtype=torch.float32)
    method.step()
    learned, result = method.state_dict()["images"], method.result()
    inverse, _ = pixels_of(result.preprocessing)
    assert learned.min() < -0.01 or learned.max() > 1.01
    torch.testing.assert_close(inverse(result.images), learned.clamp(0, 1))
    clamped = build(config, dtype=torch.float32)
    state = method.state_dict()
    clamped.load_state_dict({**state, "images": state["images"].clamp(0, 1)})
    assert clamped.step() == method.step()


# Learning


def test_the_loss_falls() -> None:
    """Compared with images that stay, under the same draws."""
    config = replace(IDC, image_init="noise", real_batch_size=12, inner_loops=2, image_lr=30.0)
    learned, still = (build(c, dtype=torch.float32) for c in (config, replace(config, image_lr=1e-12)))
    losses = [(learned.step()["loss"], still.step()["loss"]) for _ in range(10)]
    last, unlearned = (sum(column[-4:]) for column in zip(*losses, strict=True))
    assert last < 0.8 * unlearned


def test_the_global_generator_plays_no_part() -> None:
    torch.manual_seed(1)
    first = after(build(), 1).state_dict()
    torch.manual_seed(2)
    assert_equal(after(build(), 1).state_dict(), first)


# Earlier stages


def test_earlier_images_never_change() -> None:
    frozen = earlier()
    kept = frozen.images.clone()
    method = after(build(start=Start(stage=2, frozen=frozen)), 1)
    assert torch.equal(frozen.images, kept) and method.revised() is None
    result = method.result()
    assert result.stage.tolist() == [2] * 6 and len(method.state_dict()["images"]) == 6


def test_earlier_images_that_are_learned_on() -> None:
    frozen = earlier()
    method = build(start=Start(stage=1, frozen=frozen, frozen_lr_scale=0.5))
    first = method.revised()
    assert first is not None
    torch.testing.assert_close(first.images, frozen.images)
    method.step()
    revised = method.revised()
    assert revised is not None and revised.formation == frozen.formation and torch.equal(revised.stage, frozen.stage)
    assert (revised.images - frozen.images).flatten(1).norm(dim=1).gt(0.01).all()


# Continuation


@pytest.mark.parametrize("scale", [0.0, 0.5], ids=["frozen", "learned on"])
def test_exact_continuation(scale: float, tmp_path: Path) -> None:
    start = Start(stage=1, frozen=earlier(), frozen_lr_scale=scale, pool=pool(), fresh_fraction=0.5)
    whole, checkpoints = build(IDC, start, dtype=torch.float32), Checkpoints(Folder.at(tmp_path), "stage")
    rows = [whole.step(), whole.step()]
    checkpoints.save(whole.state_dict(), rows)
    saved = checkpoints.load()
    assert saved is not None and saved[1] == rows
    resumed = after(build(IDC, start, dtype=torch.float32), 1)  # whatever it did before is forgotten
    resumed.load_state_dict(saved[0])
    assert [resumed.step() for _ in range(2)] == [whole.step() for _ in range(2)]
    assert_equal(resumed.state_dict(), whole.state_dict())
    assert torch.equal(resumed.result().images, whole.result().images)


# Workers


def on_each_worker(network: NetworkConfig, scale: float, steps: int) -> Results:
    start = Start(stage=1, frozen=earlier(), frozen_lr_scale=scale)
    method = build(replace(IDC, decoded_per_class=10), start, network=network)
    losses = [method.step()["loss"] for _ in range(steps)]
    state = method.state_dict()
    return {"images": state["images"], "velocity": state["velocity"], "losses": torch.tensor(losses).double()}


@pytest.mark.parametrize(
    ("network", "scale"), [(NETWORK, 0.0), (NETWORK, 0.5), (BATCH_NORM, 0.0)], ids=["", "learned on", "batch norm"]
)
def test_two_workers_are_one(network: NetworkConfig, scale: float) -> None:
    alone = on_each_worker(network, scale, 2)
    first, second = tiny.on_workers(2, on_each_worker, network, scale, 2)
    assert_equal(first, second)
    for name, value in alone.items():
        assert relative_error(first[name], value) < 1e-8, name


# Mistakes


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("method.images_per_class", {"images_per_class": 0}),
        ("method.factor", {"factor": 0}),
        ("method.decoded_per_class", {"decoded_per_class": 0}),
        ("method.inner_loops", {"inner_loops": 0}),
        ("method.num_real", {"num_real": 0}),
        ("method.network_batch_size", {"network_batch_size": 0}),
        ("method.network_lr", {"network_lr": 0.0}),
        ("method.network_momentum", {"network_momentum": 1.0}),
        ("method.network_weight_decay", {"network_weight_decay": -0.1}),
        ("method.cutmix", {"cutmix": 1.5}),
        ("method.network_augmentation", {"network_augmentation": "blur"}),
        ("augmentation", {"augmentation": "blur"}),
    ],
)
def test_refuses_what_cannot_run(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        replace(IDC, **change)


def test_refuses_what_has_no_pixels_or_no_convolutions() -> None:
    images = tiny.data().train.images[:].mul(50).clamp(0, 255).to(torch.uint8)
    whitened = replace(task(), data=replace(tiny.data(), preprocessing=fit_zca(images)))
    with pytest.raises(ConfigError, match=r"^data\.preprocess: "):
        IDC.build(whitened, Start(), KEY)
    with pytest.raises(ConfigError, match=r"^network\.name: "):
        build(network=NetworkConfig(name="mlp"))


def test_refuses_earlier_images_that_are_decoded_otherwise() -> None:
    with pytest.raises(ConfigError, match=r"^method\.factor: "):
        build(replace(IDC, factor=3), Start(stage=1, frozen=earlier()))


def test_needs_nothing_that_is_trained_first() -> None:
    IDC.check(trajectory_epochs=0)
    assert IDC.made_first == () and IDC.num_groups(100) == build().units == 1
    assert not (IDC.has_soft_labels or IDC.has_average)


def test_mosaics_are_laid_out_row_by_row() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 4, 4)
    found = mosaics(images, 2)
    assert found[1, 0, ::2, ::2].tolist() == [[4, 5], [6, 7]] and found.shape == (2, 1, 4, 4)
