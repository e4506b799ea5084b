"""DELT, CDA and SRe2L as running methods: schedules, loss, packing, images that join late, exact continuation."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resized_crop

from raydd.core import keyed_random
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.data.preprocessing import ZCA
from raydd.ingredients.teacher import Teacher
from raydd.methods import CDAConfig, DELTConfig, SRe2LConfig, Start
from raydd.methods.decoupled.earlylate import image_iterations, part_sizes, saving, starts
from raydd.methods.decoupled.family import RecoverConfig, cosine_lr, curriculum, jitter
from raydd.methods.decoupled.recover import Recover, adam_step
from raydd.methods.decoupled.resample import resampled, resampling
from raydd.sets.synthetic import union
from raydd.training.views import crop_boxes
from tests.reference import recover as reference
from tests.support import taught
from tests.support.tiny import assert_equal

KEY = Key.root(7)
DELT = DELTConfig(images_per_class=3, batch_size=6, iterations=6, round_iterations=2, image_lr=0.1, bn_weight=0.5)
"""Two classes a group, one in the last; one image of each joins at 0, at 2 and at 4."""
CDA = CDAConfig(images_per_class=2, batch_size=3, iterations=6, image_lr=0.1, init="random")
"""Two groups of three and of two classes for each of two images."""
METHODS: dict[str, RecoverConfig] = {
    "delt": DELT,
    "own lr clock": replace(DELT, lr_clock="per_group"),
    "own crop clock": replace(DELT, crop_clock="per_group", crop_milestone=0.5, jitter=2),
    "no crop": replace(DELT, crop="none", crop_clock="per_group", first_bn_weight=1.0),
    "one class a group": replace(DELT, batch_size=2, mosaic=2),
    "cda": CDA,
    "sre2l": SRe2LConfig(images_per_class=2, batch_size=3, iterations=6, image_lr=0.3),
}
CONFIGS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())


def build(config: RecoverConfig, *groups: int, dtype: torch.dtype = torch.float32, teacher: Teacher | None = None,
          key: Key = KEY) -> Recover:  # fmt: skip
    task = taught.task(*groups, dtype=dtype)
    method = config.build(replace(task, teacher=teacher or task.teacher), Start(), key)
    assert isinstance(method, Recover)
    return method


def after(method: Recover, steps: int) -> Recover:
    for _ in range(steps):
        method.step()
    return method


# Schedules and accounts


def test_parts_are_dealt_as_published() -> None:
    assert part_sizes(50, 8) == (7, 7, 6, 6, 6, 6, 6, 6)
    assert part_sizes(10, 8) == (2, 2, 1, 1, 1, 1, 1, 1)
    assert part_sizes(100, 8) == (13,) * 4 + (12,) * 4
    assert part_sizes(10, 4) == (3, 3, 2, 2)
    assert part_sizes(3, 8) == (1, 1, 1)


@pytest.mark.parametrize(
    ("images_per_class", "round_iterations", "total", "part"),
    [(50, 500, 115_500, 0.4225), (50, 1000, 127_000, 0.365), (10, 500, 25_500, 0.3625), (100, 500, 229_000, 0.4275)],
)
def test_published_accounts(images_per_class: int, round_iterations: int, total: int, part: float) -> None:
    config = DELTConfig(images_per_class=images_per_class, round_iterations=round_iterations)
    assert config.image_iterations(1) == total
    assert config.image_iterations(10) == 10 * total
    assert saving(total, config.uniform_iterations(1)) == pytest.approx(part, abs=1e-12)


@pytest.mark.parametrize("images_per_class", [1, 2, 3, 5, 8, 10, 23])
@pytest.mark.parametrize(("iterations", "round_iterations"), [(4000, 500), (12, 4), (6, 6), (9, 1)])
def test_accounts_are_those_of_the_starts(images_per_class: int, iterations: int, round_iterations: int) -> None:
    found = starts(images_per_class, iterations, round_iterations).tolist()
    assert found == reference.starts(images_per_class, iterations, round_iterations)
    total = sum(iterations - start for start in found)
    assert image_iterations(images_per_class, iterations, round_iterations) == total


def test_schedules_are_those_of_the_published_table() -> None:
    config = DELTConfig(images_per_class=8)
    lrs = [0.2500, 0.2405, 0.2134, 0.1728, 0.1250, 0.0772, 0.0366, 0.0095]
    scales = [1.00, 0.965, 0.865, 0.716, 0.540, 0.364, 0.215, 0.115]
    sums = [500, 377, 263, 166, 91, 40, 12.5, 1.6]
    for start, lr, scale, total in zip(starts(8, 4000, 500).tolist(), lrs, scales, sums, strict=True):
        assert cosine_lr(0.25, start, 4000) == pytest.approx(lr, abs=5e-5)
        assert config.crop_scale(start, 4000) == pytest.approx(scale, abs=5e-4)
        assert sum(cosine_lr(0.25, t, 4000) for t in range(start, 4000)) == pytest.approx(total, rel=0.02)
    assert cosine_lr(0.25, 3999, 4000) == pytest.approx(0.25 * (math.pi / 8000) ** 2, rel=1e-4)
    assert config.crop_scale(3999, 4000) == pytest.approx(0.08, abs=1e-6)


def test_curriculum_ends_at_its_milestone() -> None:
    assert [curriculum(0.1, t, 4.0) for t in (0, 2, 4, 7)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert SRe2LConfig().crop_scale(0, 4000) == SRe2LConfig().crop_scale(3999, 4000) == 0.08


def test_jitter_follows_the_size() -> None:
    assert [jitter(None, (3, side, side)) for side in (32, 64, 128, 224)] == [4, 4, 32, 32]
    assert jitter(0, (3, 224, 224)) == 0
    assert (DELTConfig().jitter, CDAConfig().jitter, SRe2LConfig().jitter) == (0, None, None)


# Class groups


def test_delt_groups_are_whole_classes() -> None:
    config = DELTConfig(images_per_class=10)
    assert [config.num_groups(classes) for classes in (1, 10, 11, 1000)] == [1, 1, 2, 100]
    assert replace(config, images_per_class=50).num_groups(1000) == 500
    assert replace(config, images_per_class=200).num_groups(1000) == 1000
    rows = DELT.rows(1, 5)
    assert rows.labels.tolist() == [2, 3] * 3
    assert rows.ranks.tolist() == rows.starts.div(2).tolist() == [0, 0, 1, 1, 2, 2]
    assert DELT.rows(2, 5).labels.tolist() == [4, 4, 4]


def test_the_active_batch_grows_as_published() -> None:
    rows = DELTConfig(images_per_class=10).rows(0, 10)
    assert [int((rows.starts <= t).sum()) for t in range(0, 4000, 500)] == [20, 40, 50, 60, 70, 80, 90, 100]
    rows = DELTConfig(images_per_class=50).rows(0, 10)
    assert [int((rows.starts <= t).sum()) for t in (0, 499, 500, 3500)] == [14, 14, 28, 100]


def test_cda_groups_are_one_image_of_each_class() -> None:
    config = CDAConfig(images_per_class=50)
    assert [config.num_groups(classes) for classes in (10, 100, 101, 1000)] == [50, 50, 100, 500]
    rows = config.rows(13, 1000)
    assert rows.labels.tolist() == list(range(300, 400))
    assert rows.ranks.unique().tolist() == [1]
    assert not rows.starts.any()


@CONFIGS
def test_groups_cover_every_image_once(config: RecoverConfig) -> None:
    found = [
        pair
        for group in range(config.num_groups(5))
        for pair in zip(config.rows(group, 5).labels.tolist(), config.rows(group, 5).ranks.tolist(), strict=True)
    ]
    assert sorted(found) == [(label, rank) for label in range(5) for rank in range(config.images_per_class)]


# Equations


def draws(config: RecoverConfig, group: int, t: int, start: int, key: Key = KEY) -> reference.Draw:
    """What the product draws for an image of a class group that joined at `start`."""
    ids, key = torch.tensor([group]), key.child("augment", t)
    flip, down, right = keyed_random.uniform(key.child("flip and shift"), ids, 3)[0].tolist()
    reach = 1 + jitter(config.jitter, taught.SHAPE)
    begin = start if getattr(config, "crop_clock", "global") == "per_group" else 0
    scale = config.crop_scale(t - begin, config.iterations - begin)
    box = (0, 0, 8, 8)
    if config.crop != "none":
        box = tuple(crop_boxes(key.child("crop"), ids, 8, 8, scale)[0].tolist())
    return reference.Draw(box, flip < 0.5 and config.crop != "none", (int(down * reach), int(right * reach)))


def plain_loop(
    config: RecoverConfig, group: int, images: Tensor, **earlier: Any
) -> tuple[Tensor, list[tuple[float, float]]]:
    """A class group after six iterations of the reference, and the losses; `earlier` is what a stage adds."""
    rows = config.rows(group, 5)
    low, high = (torch.tensor(list(ends), dtype=torch.float64).view(3, 1, 1) for ends in zip(*_ends(), strict=True))
    return reference.recover(
        taught.teacher(torch.float64).module,
        list(images),
        rows.labels.tolist(),
        rows.starts.tolist(),
        lambda t: [draws(config, group, t, start) for start in rows.starts.tolist()],
        iterations=config.iterations,
        lr=config.image_lr,
        restarts_lr=getattr(config, "lr_clock", "global") == "per_group",
        bn_weight=config.bn_weight,
        first_weight=config.first_bn_weight,
        low=low,
        high=high,
        steps=6,
        **earlier,
    )


@CONFIGS
def test_recover_is_the_plain_loop(config: RecoverConfig) -> None:
    for group in range(config.num_groups(5))[-2:]:
        method = build(config, group, dtype=torch.float64)
        images = method.state_dict()["images"]
        found = [method.step() for _ in range(6)]
        wanted, losses = plain_loop(config, group, images)
        state = method.state_dict()["images"]
        assert (state - wanted).abs().max() < 1e-6
        assert (wanted - images).abs().mean() > 0.05
        for row, (ce, moments) in zip(found, losses, strict=True):
            assert row["ce"] == pytest.approx(ce, rel=1e-7)
            assert row["bn_loss"] == pytest.approx(moments, rel=1e-7)
            assert row["loss"] == pytest.approx(ce + config.bn_weight * moments, rel=1e-7)
            assert row["bn_share"] == pytest.approx(1 - ce / row["loss"], rel=1e-6)


def _ends() -> list[tuple[float, float]]:
    """Black and white of each channel, in network space."""
    mean, std = (0.45, 0.5, 0.55), (0.2, 0.25, 0.3)
    return [(-m / s, (1 - m) / s) for m, s in zip(mean, std, strict=True)]


def test_clamped_at_black_and_white() -> None:
    method = after(build(replace(CDA, image_lr=50.0, init="noise")), 1)
    for channel, (low, high) in zip(method.state_dict()["images"].unbind(1), _ends(), strict=True):
        assert (channel.min(), channel.max()) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (2, 1, 3, 6), (5, 0, 1, 8), (0, 7, 4, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_resampling_is_crop_flip_and_roll(box: tuple[int, ...], flip: bool) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    top, left, height, width = torch.tensor(box).expand(4, 4).T
    down, right, mirrored = torch.tensor([0, 1, 4, 7]), torch.tensor([2, 0, 3, 1]), torch.full((4,), flip)
    rows = resampling(8, top, height, torch.zeros(4, dtype=torch.bool), down).float()
    found = resampled(images, rows, resampling(8, left, width, mirrored, right).float())
    for image, by, result in zip(images, zip(down.tolist(), right.tolist(), strict=True), found, strict=True):
        crop = resized_crop(image[None], *box, [8, 8], antialias=True)
        assert (result - torch.roll(crop.flip(3) if flip else crop, by, (2, 3))[0]).abs().max() < 1e-5


def test_adam_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    found, mean, square = torch.randn(3, 1, 2, 2, generator=generator), torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    leaf = found.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.3, betas=(0.5, 0.9))
    for steps in range(1, 6):
        leaf.grad = torch.randn(3, 1, 2, 2, generator=generator)
        optimizer.step()
        adam_step(found, mean, square, leaf.grad, torch.full((3,), 0.3), steps)
        assert torch.allclose(found, leaf, atol=1e-6)


def test_late_images_take_a_longer_first_step() -> None:
    image = torch.zeros(1, 1, 1, 1)
    adam_step(image, image.clone(), image.clone(), image + 2, torch.ones(1), 1000)
    assert -float(image) == pytest.approx(0.5 / math.sqrt(0.1), rel=1e-5)


# Packing, joining, continuing


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@CONFIGS
def test_packed_is_unpacked(config: RecoverConfig, dtype: torch.dtype, tolerance: float) -> None:
    groups = list(range(config.num_groups(5)))[::-1]
    gradients: list[Tensor] = []
    for pack in (groups, *([group] for group in groups)):
        method = build(config, *pack, dtype=dtype)
        images = method.state_dict()["images"]
        method.iteration = 4  # all images take part
        leaf = images.clone().requires_grad_()
        weights, terms = method._term_weights, method._losses(leaf)
        loss = torch.stack([weights[name] * term_P.sum() for name, term_P in terms.items()]).sum()
        gradient = torch.autograd.grad(loss, leaf)[0]
        gradients += [gradient[method._rows.groups == group] for group in pack]
    packed, alone = gradients[: len(groups)], gradients[len(groups) :]
    for one, other in zip(packed, alone, strict=True):
        assert (one - other).norm() < tolerance * other.norm()
    together = after(build(config, *groups, dtype=torch.float64), 6).results()
    for group, found in zip(groups, together, strict=True):
        (wanted,) = after(build(config, group, dtype=torch.float64), 6).results()
        assert torch.equal(found.pixels(), wanted.pixels())
        assert torch.equal(found.labels, wanted.labels)
        assert found.card == wanted.card


@CONFIGS
def test_images_are_untouched_until_they_join(config: RecoverConfig) -> None:
    method = build(config)
    begun = method.state_dict()
    for t in range(6):
        method.step()
        state = method.state_dict()
        late = method._rows.starts > t
        changed = (state["images"] != begun["images"]).flatten(1).any(1)
        assert torch.equal(changed, ~late)
        assert not state["first_moment"][late].any()
        assert not state["second_moment"][late].any()


@CONFIGS
def test_counted_image_iterations_are_the_formula(config: RecoverConfig) -> None:
    method = build(config)
    rows = [method.step() for _ in range(6)]
    assert rows[-1]["image_iterations"] == config.image_iterations(5) == sum(row["active"] for row in rows)
    card = method.result().card
    assert card["image_iterations"] == config.image_iterations(5)
    assert card["uniform_iterations"] == config.uniform_iterations(5)
    assert card["saving"] == 1 - config.image_iterations(5) / config.uniform_iterations(5)
    assert sum(part.card["image_iterations"] for part in method.results()) == config.image_iterations(5)


@CONFIGS
def test_continues_to_the_bit(config: RecoverConfig) -> None:
    undisturbed, broken = build(config), after(build(config), 3)
    state = broken.state_dict()
    kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    after(broken, 1)
    assert_equal(state, kept)
    continued = build(config, key=KEY)
    continued.load_state_dict(state)
    after(undisturbed, 6)
    after(continued, 3)
    assert_equal(continued.state_dict(), undisturbed.state_dict())
    assert_equal(state, kept)


def test_another_key_gives_another_set() -> None:
    one, other = (after(build(DELT, key=key), 2).result() for key in (KEY, Key.root(8)))
    assert not torch.equal(one.images, other.images)


def test_a_smaller_spread_set_is_part_of_a_larger_one() -> None:
    config = METHODS["sre2l"]
    small, large = (
        after(build(replace(config, images_per_class=count), dtype=torch.float64), 6).result() for count in (1, 2)
    )
    first = torch.arange(0, 10, 2)
    assert torch.equal(small.labels, large.labels[first])
    assert torch.equal(small.pixels(), large.pixels()[first])


# Results


@CONFIGS
def test_results_are_whole_pixels_class_by_class(config: RecoverConfig) -> None:
    method = after(build(config), 2)
    whole, parts = method.result(), method.results()
    assert whole.is_exact
    assert whole.labels.tolist() == sorted(whole.labels.tolist())
    assert len(parts) == method.units == config.num_groups(5)
    merged = union(parts)
    order = merged.labels.argsort(stable=True)
    assert torch.equal(merged.images[order], whole.images)
    assert method.averaged() is None
    assert method.revised() is None
    assert whole.learned_lr == (None,)
    assert whole.soft_labels is None


def test_starting_images_are_the_chosen_photographs() -> None:
    begun = build(DELT).result()
    rows = torch.cat([taught.ranking().first(label, 3, "medium", KEY) for label in range(5)])
    assert torch.equal(begun.images, taught.data().train.images[rows])
    assert begun.card["saving"] == 0


def test_bf16_is_close_to_fp32() -> None:
    losses, gradients = [], []
    for precision in ("fp32", "bf16"):
        method = build(replace(DELT, precision=precision))
        images = method.state_dict()["images"].requires_grad_()
        method.iteration = 4
        ce_P, bn_P = method._losses(images).values()
        assert ce_P.dtype == bn_P.dtype == torch.float64
        gradients.append(torch.autograd.grad((ce_P + 0.5 * bn_P).sum(), images)[0].flatten())
        losses.append(torch.stack([ce_P, bn_P]))
    assert not torch.equal(*losses)
    assert torch.allclose(*losses, rtol=0.03)
    assert gradients[1].dtype == torch.float32
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


# Mistakes


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("images_per_class", {"images_per_class": 0}),
        ("iterations", {"iterations": 0}),
        ("round_iterations", {"round_iterations": 4}),
        ("round_iterations", {"round_iterations": 0}),
        ("batch_size", {"batch_size": 0}),
        ("image_lr", {"image_lr": -1.0}),
        ("bn_weight", {"bn_weight": math.nan}),
        ("min_crop_scale", {"min_crop_scale": 0.0}),
        ("crop_milestone", {"crop_milestone": 1.5}),
        ("jitter", {"jitter": -1}),
        ("mosaic", {"mosaic": 0}),
        ("mosaic", {"mosaic": 2, "init": "noise"}),
    ],
)
def test_refuses_what_cannot_run(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^method.{field}: "):
        replace(DELT, **change)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("method.images_per_class", {"images_per_class": 19}),
        ("method.images_per_class", {"images_per_class": 19, "init": "random"}),
        ("method.mosaic", {"mosaic": 3}),
    ],
)
def test_refuses_what_the_data_cannot_give(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        build(replace(DELT, **change))


def test_refuses_whitened_images_and_tasks_without_what_it_needs() -> None:
    whitened = replace(taught.data(), preprocessing=ZCA(torch.zeros(192), torch.eye(192), torch.eye(192)))
    with pytest.raises(ConfigError, match=r"^data.preprocess: "):
        DELT.build(replace(taught.task(), data=whitened), Start(), KEY)
    with pytest.raises(ConfigError, match=r"^teacher: "):
        DELT.build(replace(taught.task(), teacher=None), Start(), KEY)
    with pytest.raises(ConfigError, match=r"^ranking: "):
        DELT.build(replace(taught.task(), ranking=None), Start(), KEY)
    CDA.build(replace(taught.task(), ranking=None), Start(), KEY)
    assert DELT.made_first == ("teacher", "ranking")
    assert CDA.made_first == ("teacher",)


def test_stops_at_a_loss_that_is_not_finite() -> None:
    method = build(DELT, 1)
    state = method.state_dict()
    state["images"][0, 0, 0, 0] = math.nan
    method.load_state_dict(state)
    with pytest.raises(RunError, match="iteration 0: the loss is nan"):
        method.step()
    assert torch.equal(method.state_dict()["images"].isnan(), state["images"].isnan())
