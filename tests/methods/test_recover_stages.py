"""Later stages of what is recovered from a teacher: earlier images in its batch norms, what students do not know."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2.functional import resize, resized_crop

from raydd import networks
from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.methods import DELTConfig, SRe2LConfig, Start
from raydd.methods.decoupled import recover
from raydd.methods.decoupled.disagreement import class_weights, disagreement, student_probabilities
from raydd.methods.decoupled.family import RecoverConfig
from raydd.methods.decoupled.rded import ChosenCrops, square_boxes
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.selection import random_rows
from tests.methods.test_recover import CONFIGS, DELT, KEY, METHODS, after, plain_loop
from tests.methods.test_selection import RDED, TRAIN, pixels
from tests.reference import recover as reference
from tests.support import taught
from tests.support.tiny import assert_equal

STATISTICS = Start(stage=1, frozen=taught.earlier())
"""Of two, one, three, two and no earlier images of the classes."""
DISAGREEMENT = Start(stage=1, pool=taught.pool())
BOTH = replace(STATISTICS, pool=DISAGREEMENT.pool)
LABELS = TRAIN.labels.tolist()


def build(config: RecoverConfig, *groups: int, start: Start = BOTH, dtype: torch.dtype = torch.float32) -> Recover:
    method = config.build(taught.task(*groups, dtype=dtype, network=taught.STUDENT), start, KEY)
    assert isinstance(method, Recover)
    return method


@cache
def unknown() -> list[float]:
    """How much surer the teacher is of every real image than the students are, image by image."""
    teacher, students = taught.teacher(torch.float64).module, exact_students()
    pictures = zip(TRAIN.images[:].double(), LABELS, strict=True)
    return [reference.unknown(teacher, students, image, label) for image, label in pictures]


def exact_students() -> list[networks.Network]:
    found = []
    for state in taught.pool():
        module = networks.build(taught.STUDENT, taught.SHAPE, 5)
        module.load_state_dict(state)
        found.append(module.double().eval())
    return found


def frozen_of(labels: Tensor) -> Tensor | None:
    """The earlier images of some classes."""
    of = [x for x, label in zip(taught.earlier().images, taught.earlier().labels, strict=True) if label in labels]
    return torch.stack(of).double() if of else None


# The whole loop


@CONFIGS
def test_recover_beside_earlier_images_is_the_plain_loop(config: RecoverConfig) -> None:
    for group in range(config.num_groups(5))[-2:]:
        method = build(config, group, start=STATISTICS, dtype=torch.float64)
        images = method.state_dict()["images"]
        found = [method.step() for _ in range(6)]
        wanted, losses = plain_loop(config, group, images, frozen=frozen_of(method._rows.labels))
        assert (method.state_dict()["images"] - wanted).abs().max() < 1e-6
        for row, (ce, moments) in zip(found, losses, strict=True):
            assert row["ce"] == pytest.approx(ce, rel=1e-7)
            assert row["bn_loss"] == pytest.approx(moments, rel=1e-7)
        alone, _ = plain_loop(config, group, images)
        assert (alone - wanted).abs().mean() > 1e-3 or frozen_of(method._rows.labels) is None


@CONFIGS
def test_recover_with_students_is_the_plain_loop(config: RecoverConfig) -> None:
    weights = reference.class_weights(unknown(), LABELS, 5)
    for group in range(config.num_groups(5))[-2:]:
        method = build(config, group, dtype=torch.float64)
        images = method.state_dict()["images"]
        found = [method.step() for _ in range(6)]
        wanted, losses = plain_loop(config, group, images, frozen=frozen_of(method._rows.labels), weights=weights)
        assert (method.state_dict()["images"] - wanted).abs().max() < 1e-4
        for row, (ce, moments) in zip(found, losses, strict=True):
            assert row["ce"] == pytest.approx(ce, rel=1e-5)
            assert row["bn_loss"] == pytest.approx(moments, rel=1e-5)


@CONFIGS
def test_packed_is_unpacked_in_later_stages(config: RecoverConfig) -> None:
    groups = list(range(config.num_groups(5)))[::-1]
    together = after(build(config, *groups, dtype=torch.float64), 6).results()
    for group, found in zip(groups, together, strict=True):
        (wanted,) = after(build(config, group, dtype=torch.float64), 6).results()
        assert torch.equal(found.pixels(), wanted.pixels())
        assert found.stage.tolist() == [1] * len(found)


@pytest.mark.parametrize("name", ["delt", "sre2l"])
def test_later_stages_continue_to_the_bit(name: str) -> None:
    undisturbed, broken = build(METHODS[name]), after(build(METHODS[name]), 3)
    continued = build(METHODS[name])
    continued.load_state_dict(broken.state_dict())
    assert_equal(after(continued, 3).state_dict(), after(undisturbed, 6).state_dict())


def test_a_stage_without_conditions_is_a_stage_of_its_own() -> None:
    for config in METHODS.values():
        first, later = after(build(config, start=Start()), 6), after(build(config, start=Start(stage=3)), 6)
        assert_equal(later.state_dict(), first.state_dict())
        assert later.result().stage.tolist() == [3] * len(later.result())


# Statistics


def test_a_group_without_earlier_images_is_as_it_was() -> None:
    for config, group in ((DELT, 2), (replace(DELT, batch_size=2), 4)):
        assert frozen_of(config.rows(group, 5).labels) is None
        assert_equal(
            after(build(config, group, start=STATISTICS), 6).state_dict(),
            after(build(config, group, start=Start(stage=1)), 6).state_dict(),
        )
    beside = after(build(DELT, 0, 2, start=STATISTICS), 6)
    alone = after(build(DELT, 0, 2, start=Start(stage=1)), 6)
    last = beside._rows.groups == 2
    found, wanted = beside.state_dict()["images"], alone.state_dict()["images"]
    assert torch.equal(found[last], wanted[last])
    assert not torch.equal(found[~last], wanted[~last])


def test_earlier_images_stay_as_they_are() -> None:
    before = taught.earlier().images.clone()
    method = after(build(DELT, start=STATISTICS), 6)
    assert torch.equal(taught.earlier().images, before)
    assert not taught.earlier().images.requires_grad
    assert method.revised() is None
    assert len(method.result()) == 15


def test_earlier_images_are_shown_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = after(build(DELT, start=STATISTICS, dtype=torch.float64), 6).state_dict()["images"]
    shown: list[int] = []
    monkeypatch.setattr(recover, "FROZEN_AT_ONCE", 3)
    method = build(DELT, start=STATISTICS, dtype=torch.float64)
    first = taught.teacher(torch.float64).batch_norms()[0]
    handle = first.register_forward_pre_hook(lambda norm, inputs: shown.append(len(inputs[0])))
    try:
        method._frozen_moments(taught.earlier())
    finally:
        handle.remove()
    assert shown == [3, 3, 2]
    assert (after(method, 6).state_dict()["images"] - whole).abs().max() < 1e-9


def test_bf16_is_close_to_fp32_beside_earlier_images() -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        method = build(replace(DELT, precision=precision))
        losses.append(torch.stack([*method._losses(method.state_dict()["images"]).values()]))
    assert not torch.equal(*losses)
    assert torch.allclose(*losses, rtol=0.03)


# Disagreement


def test_students_are_asked_image_by_image() -> None:
    task = taught.task(network=taught.STUDENT)
    found = student_probabilities(task, taught.pool(), TRAIN.images, TRAIN.labels)
    students = exact_students()
    for p, image, label in zip(found.tolist(), TRAIN.images, LABELS, strict=True):
        wanted = sum(reference.sureness(module, image.double(), label) for module in students) / 3
        assert p == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("ranked", [True, False])
def test_disagreement_is_the_teachers_less_the_students(ranked: bool) -> None:
    found = disagreement(taught.task(network=taught.STUDENT, ranked=ranked), taught.pool())
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(unknown(), abs=1e-6)
    assert found.min() < 0 < found.max()


def test_weights_of_the_pictures() -> None:
    found = class_weights(disagreement(taught.task(network=taught.STUDENT), taught.pool()), TRAIN.labels, 5)
    assert found.tolist() == pytest.approx(reference.class_weights(unknown(), LABELS, 5), rel=1e-5)
    assert found.mean().item() == pytest.approx(1)
    assert found.argmax() == 4, "the students have seen nothing of the last class"


def test_weights_by_hand() -> None:
    gaps, labels = torch.tensor([0.5, -1.0, 0.25, 0.25, -0.5]).double(), torch.tensor([0, 0, 1, 1, 2])
    assert class_weights(gaps, labels, 3).tolist() == pytest.approx([1.25, 1.25, 0.5])
    assert class_weights(-gaps.abs(), labels, 3).tolist() == [1, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1, allow_subnormal=False)), max_size=30))
def test_weights_are_one_on_average(pairs: list[tuple[int, float]]) -> None:
    pairs = [(label, 0.0) for label in range(4)] + pairs
    labels, gaps = (list(column) for column in zip(*pairs, strict=True))
    found = class_weights(torch.tensor(gaps, dtype=torch.float64), torch.tensor(labels), 4)
    assert found.mean().item() == pytest.approx(1)
    assert (found >= 0.5).all()
    if max(gaps) > 1e-6:
        assert found.tolist() == pytest.approx(reference.class_weights(gaps, labels, 4), abs=1e-9)


def widest(label: int, count: int) -> list[int]:
    """The rows of a class of which the students know least beside the teacher."""
    of_class = [(-gap, row) for row, (gap, other) in enumerate(zip(unknown(), LABELS, strict=True)) if other == label]
    return [row for _, row in sorted(of_class)][:count]


@pytest.mark.parametrize("name", ["delt", "cda", "own crop clock"])
def test_images_start_where_students_know_least(name: str) -> None:
    config = METHODS[name]
    begun = build(config, start=DISAGREEMENT).result()
    count = config.images_per_class
    rows = torch.tensor([row for label in range(5) for row in widest(label, count)])
    assert torch.equal(begun.images, TRAIN.images[rows])
    assert not torch.equal(begun.images, build(config, start=Start(stage=1)).result().images)


def test_mosaics_start_where_students_know_least() -> None:
    config = METHODS["one class a group"]
    method = build(config, 3, start=DISAGREEMENT)
    small = resize(TRAIN.images[torch.tensor(widest(3, 12))], [4, 4], antialias=True)
    wanted = [reference.mosaic([small[q * 3 + rank] for q in range(4)], 2) for rank in range(3)]
    assert torch.allclose(method.state_dict()["images"], torch.stack(wanted), atol=1e-5)


def test_noise_stays_noise_and_only_the_cross_entropy_changes() -> None:
    config = METHODS["sre2l"]
    alone, asked = build(config, start=Start(stage=1)), build(config, start=DISAGREEMENT)
    images = alone.state_dict()["images"]
    assert torch.equal(asked.state_dict()["images"], images)
    (ce, moments), (weighted, same) = alone._losses(images).values(), asked._losses(images).values()
    assert torch.equal(moments, same)
    assert not torch.allclose(ce, weighted, rtol=1e-3)


def test_students_need_no_ranking_of_images() -> None:
    task = taught.task(network=taught.STUDENT, ranked=False)
    method = DELT.build(task, DISAGREEMENT, KEY)
    assert torch.equal(method.result().images, build(DELT, start=DISAGREEMENT).result().images)


@pytest.mark.parametrize("factor", [1, 2])
def test_rded_takes_the_crops_that_students_know_least(factor: int) -> None:
    config, task = replace(RDED, factor=factor), taught.task(3, 4, network=taught.STUDENT)
    method = config.build(task, DISAGREEMENT, KEY)
    assert isinstance(method, ChosenCrops)
    changed = 0
    for label, part in zip((3, 4), method.results(), strict=True):
        crops = []
        for row in random_rows(taught.data(), label, 12, KEY.child("candidates"), "").tolist():
            boxes = square_boxes(KEY.child("crops"), 3 * row + torch.arange(3), 8, 8, 0.2).tolist()
            size = [8 // factor] * 2
            crops.append([resized_crop(TRAIN.images[row], t, left, s, s, size, antialias=True) for t, left, s in boxes])
        teacher, students = taught.teacher().module, taught.students()
        wanted = torch.stack(reference.rded(teacher, crops, label, 3, factor, 8, students))
        assert torch.equal(part.pixels(), pixels(wanted))
        assert part.stage.tolist() == [1] * 3
        plain = torch.stack(reference.rded(teacher, crops, label, 3, factor, 8))
        changed += not torch.equal(pixels(plain), pixels(wanted))
    assert changed


def test_no_generator_is_touched() -> None:
    state = torch.get_rng_state()
    build(DELT)
    assert torch.equal(torch.get_rng_state(), state)


# Mistakes


@pytest.mark.parametrize("config", [*METHODS.values(), RDED], ids=[*METHODS, "rded"])
def test_earlier_images_are_not_learned_on(config: Any) -> None:
    for frozen in (None, taught.earlier()):
        with pytest.raises(ConfigError, match=r"^stages.frozen_lr_scale: is 0.1, .* set it to 0"):
            config.build(taught.task(), Start(stage=1, frozen=frozen, frozen_lr_scale=0.1), KEY)


def test_rded_has_no_moments() -> None:
    with pytest.raises(ConfigError, match=r"^stages.teacher_conditions: .* leave statistics out"):
        RDED.build(taught.task(), STATISTICS, KEY)


def test_a_pool_of_other_networks_is_refused() -> None:
    with pytest.raises(ArtefactError, match="not this network's"):
        DELT.build(taught.task(network=replace(taught.STUDENT, width=6)), DISAGREEMENT, KEY)


def test_students_that_are_not_finite_are_refused() -> None:
    broken = [*taught.pool()[:2], {name: tensor * torch.nan for name, tensor in taught.pool()[2].items()}]
    for config in (SRe2LConfig(iterations=6), RDED):
        with pytest.raises(RunError, match="network of the pool is not finite"):
            config.build(taught.task(network=taught.STUDENT), Start(stage=1, pool=broken), KEY)


@pytest.mark.parametrize("change", [{"images_per_class": 19}, {"images_per_class": 5, "mosaic": 2}])
def test_classes_with_too_few_images_are_refused(change: dict[str, Any]) -> None:
    config: DELTConfig = replace(DELT, **change)
    with pytest.raises(ConfigError, match=r"^method.images_per_class: takes (19|20) real images of a class, but 'ant'"):
        build(config, start=DISAGREEMENT)
