"""FADRM: segments, sizes and residuals against the restatement and the methods that it reduces to."""

from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, seeded
from raydd.ingredients.teacher import Teacher
from raydd.methods import FADRMConfig, SRe2LConfig, Start
from raydd.methods.decoupled.fadrm import Segmented, at_size, residual
from raydd.networks.config import NetworkConfig
from raydd.training.views import crop_boxes
from tests.methods.test_recover import _ends as ends
from tests.reference import fadrm as reference
from tests.reference.recover import Draw
from tests.support import taught
from tests.support.tiny import assert_equal

KEY = Key.root(7)
FADRM = FADRMConfig(
    images_per_class=2, batch_size=3, iterations=6, segments=3, image_lr=0.1, bn_weight=0.5, init="random", jitter=1
)
SIZED = replace(FADRM, sizes=(6, 10, 8))
"""Smaller and larger than the pictures of 8 pixels; for a teacher that averages its last maps."""


@cache
def averaging() -> Teacher:
    """A WRN-16-2 with statistics of its own, which takes images of any size from 5 pixels on."""
    network = NetworkConfig(name="wrn16_2", norm="batch")
    with seeded(Key.root(3)):
        module = networks.build(network, taught.SHAPE, 5).double()
    module.train()(taught.data().train.images[:].double())
    return Teacher(module.eval().requires_grad_(False), replace(taught.teacher().card, network=asdict(network)))


def build(config: Any, *groups: int, teacher: Teacher | None = None) -> Any:
    task = taught.task(*groups, dtype=torch.float64)
    return config.build(replace(task, teacher=teacher or task.teacher), Start(), KEY)


def after(method: Any, steps: int) -> Any:
    for _ in range(steps):
        method.step()
    return method


def images(method: Any) -> Tensor:
    found: Tensor = method.state_dict()["images"]
    return found


def drawn(group: int, t: int, side: int) -> Draw:
    """What the product draws for a class group."""
    ids, key = torch.tensor([group]), KEY.child("augment", t)
    flip, down, right = keyed_random.uniform(key.child("flip and shift"), ids, 3)[0].tolist()
    box = crop_boxes(key.child("crop"), ids, side, side, FADRM.min_crop_scale)[0].tolist()
    return Draw(tuple(box), flip < 0.5, (int(down * 2), int(right * 2)))


@pytest.mark.parametrize(("config", "sides"), [(FADRM, (8, 8, 8)), (SIZED, (6, 10, 8))], ids=["one size", "sizes"])
def test_it_is_the_restatement(config: FADRMConfig, sides: tuple[int, ...]) -> None:
    group, teacher = 3, averaging()
    begun = build(replace(config, sizes=None), group, teacher=teacher)
    low, high = (torch.tensor(list(end), dtype=torch.float64).view(3, 1, 1) for end in zip(*ends(), strict=True))
    wanted = reference.fadrm(
        teacher.module,
        list(images(begun)),
        config.rows(group, 5).labels.tolist(),
        lambda t, side: drawn(group, t, side),
        sides=sides,
        length=2,
        alpha=0.5,
        lr=config.image_lr,
        bn_weight=config.bn_weight,
        first_weight=config.first_bn_weight,
        low=low,
        high=high,
    )
    found = images(after(build(config, group, teacher=teacher), 6))
    assert (found - wanted).abs().max() < 1e-6
    assert (found - images(begun)).abs().mean() > 0.05


def test_one_segment_is_sre2l_from_real_images() -> None:
    fields = {name: value for name, value in asdict(FADRM).items() if name not in ("name", "segments", "sizes")}
    del fields["residual"]
    sre2l = after(build(SRe2LConfig(**fields)), 6)
    assert torch.equal(images(after(build(replace(FADRM, segments=1)), 6)), images(sre2l))


def test_without_residuals_only_adam_begins_anew() -> None:
    kept, restarted = (after(build(replace(FADRM, residual=1.0, segments=n)), 2) for n in (1, 3))
    assert torch.equal(images(kept), images(restarted))
    state = kept.state_dict()
    for name in ("first_moment", "second_moment"):
        kept._values[name] = torch.zeros_like(state[name])
    assert kept._adam_steps == 3 and restarted._adam_steps == 1
    after(kept, 1), after(restarted, 1)
    first = state["images"] - images(restarted)
    assert not torch.equal(images(kept), images(restarted))
    assert torch.equal((state["images"] - images(kept)).sign(), first.sign())


def test_with_nothing_kept_every_segment_starts_at_the_real_images() -> None:
    config = replace(SIZED, residual=0.0)
    begun = images(build(replace(config, sizes=None), teacher=averaging()))
    for steps in (2, 4):
        method = after(build(config, teacher=averaging()), steps)
        step = method.step()
        assert (images(method) - at_size(begun, config.sides(taught.SHAPE)[steps // 2])).abs().max() <= 2 * step["lr"]


def test_a_residual_is_a_mixture_and_keeps_constant_images() -> None:
    x, o = torch.full((2, 3, 6, 6), 0.3).double(), torch.full((2, 3, 8, 8), -0.5).double()
    torch.testing.assert_close(residual(x, o, (8, 8), 0.25), torch.full((2, 3, 8, 8), 0.25 * 0.3 - 0.75 * 0.5).double())
    torch.testing.assert_close(at_size(at_size(o, (5, 5)), (8, 8)), o)
    assert at_size(o, (8, 8)) is o


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_it_continues_to_the_bit_at_any_size(steps: int) -> None:
    undisturbed, broken = (build(SIZED, teacher=averaging()) for _ in range(2))
    state = after(broken, steps).state_dict()
    continued = build(SIZED, teacher=averaging())
    continued.load_state_dict(state)
    assert_equal(after(continued, 6 - steps).state_dict(), after(undisturbed, 6).state_dict())


def test_groups_side_by_side_are_groups_alone_and_results_have_the_size_of_the_data() -> None:
    for steps in (1, 3, 6):
        together = after(build(SIZED, 2, 0, teacher=averaging()), steps).results()
        for group, found in zip((2, 0), together, strict=True):
            (alone,) = after(build(SIZED, group, teacher=averaging()), steps).results()
            assert found.images.shape[1:] == taught.SHAPE and found.is_exact
            assert torch.equal(found.pixels(), alone.pixels())
    assert isinstance(build(SIZED, teacher=averaging()), Segmented)


def test_sides_in_turn_are_as_published() -> None:
    config = FADRMConfig()
    assert config.sides((3, 224, 224)) == [(200, 200), (224, 224)] * 2
    assert replace(config, segments=1).sides((3, 224, 224)) == [(224, 224)]
    assert config.sides((3, 64, 64)) == [(64, 64)] * 4
    assert config.sides((3, 300, 224)) == [(300, 224)] * 4
    assert config.segment_length == 500 and config.image_iterations(1000) == 1000 * 10 * 2000


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("segments", {"segments": 0}),
        ("segments", {"segments": 4}),
        ("residual", {"residual": 1.5}),
        ("residual", {"residual": -0.1}),
        ("init", {"init": "noise"}),
        ("sizes", {"sizes": (8, 8)}),
        ("sizes", {"sizes": (8, 0, 8)}),
    ],
)
def test_what_cannot_run_is_refused(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^method.{field}: "):
        replace(FADRM, **change)


@pytest.mark.parametrize(
    ("sizes", "averages", "message"),
    [
        ((8, 8, 6), True, "must end with the side of the data's images, which are 8x8"),
        ((6, 8, 8), False, "takes images of 8x8 alone, not of 6x6"),
        ((4, 8, 8), True, "4 pixels are too few for the teacher: .*at least 5x5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, ...], averages: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^method.sizes: .*{message}"):
        build(replace(FADRM, sizes=sizes), teacher=averaging() if averages else None)
