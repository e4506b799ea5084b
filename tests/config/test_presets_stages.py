"""The shipped configurations of runs in stages: the published settings, and headers that hold."""

import re
from functools import cache
from typing import Any

import pytest

from raydd.config import RunConfig
from raydd.plan import Step, make_plan
from raydd.training.recipe import Recipe
from tests.support.presets import PRESETS, facts, header_of, preset

PDD_MTT = """
cifar10       10  2 3 zca         50 50 2  5  1e3 1e-7  20 66.9±0.4
cifar10       50 10 3 zca         50 30 2 15  1e3 1e-5 100 74.2±0.5
cifar100      10  2 3 zca         50 20 3 20  1e3 1e-5 200 43.1±0.7
cifar100      50 10 3 zca         50 20 2 20  1e3 1e-5 512 52.0±0.5
tiny-imagenet 10  2 4 standardise 24 20 2 20  1e4 1e-4  64 -
tiny-imagenet 50 10 4 standardise 24 20 2 20  1e4 1e-4  64 -
"""
"""The published code's commands, the same in each of 5 stages: data, images per class of all stages and of one, depth,
preprocessing, epochs of the experts, inner steps, expert epochs, bound of the start epochs, rates of images and step
size, batch; published accuracy."""
PDD_IDC = """
cifar10  10  2 2000 1e-3 67.9±0.2
cifar10  50 10 2000 5e-3 76.5±0.4
cifar100 10  2 2000 1e-3 45.8±0.5
cifar100 50 10 1000 5e-3 53.1±0.4
"""
"""Likewise: data, images per class of all stages and of one, iterations, size of a step on images; accuracy."""
SEQMATCH = {
    "cifar10/published/seqmatch_mtt_ipc50.yaml": "74.4±0.5",
    "cifar10/published/seqmatch_idc_ipc50.yaml": "75.3±0.2",
}
DIGITS = {f"digits/reduced/pdd_{base}.yaml" for base in ("dm_ipc3", "mtt_ipc3", "datm_ipc2")}


def rows(table: str, base: str) -> dict[str, list[str]]:
    """By preset."""
    split = (line.split() for line in table.strip().splitlines())
    return {f"{data}/published/pdd_{base}_ipc{total}.yaml": values for data, total, *values in split}


MTT, IDC = rows(PDD_MTT, "mtt"), rows(PDD_IDC, "idc")
ACCURACY = {**{name: values[-1] for name, values in {**MTT, **IDC}.items()}, **SEQMATCH}
RECIPES = {
    "mtt": Recipe(
        epochs=1001, lr=None, momentum=0.9, weight_decay=5e-4, batch_size=256, schedule="step_kept", augmentation="dsa"
    ),
    "idc": Recipe(
        epochs=1000,
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=64,
        schedule="two_steps",
        augmentation="idc:color_crop_flip_scale_rotate",
        cutmix=0.5,
    ),
}
"""Of students: with MTT a tenth of the learned step size after half of the epochs; with IDC DSA without cutout, as code
drops it beside CutMix, and a fifth after 2/3 and 5/6."""


@cache
def steps_of(name: str) -> dict[str, Step]:
    return {step.work: step for step in make_plan(preset(name), facts(preset(name))).steps}


def agrees(thing: object, **values: Any) -> None:
    assert {name: getattr(thing, name) for name in values} == values


def test_every_preset_has_its_row() -> None:
    found = {name for name in PRESETS if re.search(r"/(published/(pdd|seqmatch)_|reduced/pdd_.*_ipc)", name)}
    assert found == ACCURACY.keys() | DIGITS


@pytest.mark.parametrize("name", ACCURACY)
def test_students_are_trained_as_published(name: str) -> None:
    config = preset(name)
    agrees(config.network, label=f"convnet-d{config.network.depth}-w128-instance")
    agrees(
        config.evaluate, num_students=5, modes=("chain", "single_shot", "new_only"), budgets=("reference", "matched")
    )
    recipe = RECIPES["idc" if "idc" in name else "mtt"]
    expected = (
        {**vars(recipe), "schedule": "step"} if name == "cifar10/published/seqmatch_mtt_ipc50.yaml" else vars(recipe)
    )
    assert config.evaluate.recipe == Recipe(**expected)


@pytest.mark.parametrize("name", MTT)
def test_pdd_on_mtt_is_as_published(name: str) -> None:
    n, depth, preprocess, epochs, steps, expert_epochs, bound, image_lr, lr_lr, batch, _ = MTT[name]
    config = preset(name)
    agrees(config.data, source=name.partition("/")[0], preprocess=preprocess)
    assert config.network.depth == int(depth)
    check_experts(config, int(epochs))
    agrees(
        config.stages,
        count=5,
        overrides={},
        conditioning="synthetic",
        pool_size=100,
        epochs=501,
        transition_epochs=1001,
        carry_momentum=True,
        trajectory_epochs=None,
    )
    for stage, method in enumerate(config.methods):
        agrees(
            method,
            name="mtt",
            images_per_class=int(n),
            iterations=5000,
            synthetic_steps=int(steps),
            expert_epochs=int(expert_epochs),
            min_start_epoch=0,
            max_start_epoch=int(bound),
            image_lr=float(image_lr),
            synthetic_lr_init=0.01,
            synthetic_lr_lr=float(lr_lr),
            synthetic_batch_size=int(batch),
            momentum=0.5,
            augmentation="dsa",
            threshold=None,
        )
        assert config.trajectory_epochs(stage) == (int(bound) - 1 + int(expert_epochs) if stage else int(epochs))
    assert f"ipc{config.images_per_class}.yaml" in name


def check_experts(config: RunConfig, epochs: int) -> None:
    agrees(
        config.experts.training,
        epochs=epochs,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=256,
        schedule="constant",
        augmentation="dsa",
    )
    agrees(config.experts, count=100, keep="needed")


@pytest.mark.parametrize("name", IDC)
def test_pdd_on_idc_is_as_published(name: str) -> None:
    n, iterations, rate, _ = IDC[name]
    config = preset(name)
    agrees(config.data, source=name.partition("/")[0], preprocess="standardise")
    agrees(
        config.stages,
        count=5,
        overrides={},
        conditioning="synthetic",
        pool_size=100,
        epochs=500,
        transition_epochs=200,
        carry_momentum=True,
    )
    for method in config.methods:
        agrees(method, images_per_class=int(n), iterations=int(iterations), inner_loops=100)
        check_idc(method, float(rate))
    assert f"ipc{config.images_per_class}.yaml" in name


def check_idc(method: Any, rate: float) -> None:
    assert method.rate((3, 32, 32)) == pytest.approx(rate)
    agrees(
        method,
        name="idc",
        factor=2,
        decode="single",
        decoded_per_class=128,
        real_batch_size=64,
        distance="mse",
        num_real=2000,
        momentum=0.5,
        augmentation="idc:color_crop_cutout",
        network_lr=0.01,
        network_momentum=0.9,
        network_weight_decay=5e-4,
        network_batch_size=64,
        network_augmentation="idc:color_crop",
        cutmix=0.5,
    )


def test_seqmatch_on_mtt_is_as_published() -> None:
    """Windows 0-20, 0-20, 0-10; a start is drawn so that two expert epochs from it lie before the window's end."""
    config = preset("cifar10/published/seqmatch_mtt_ipc50.yaml")
    agrees(config.data, source="cifar10", preprocess="zca")
    check_experts(config, 50)
    agrees(config.stages, count=3, pool_size=100, epochs=1001, transition_epochs=None, carry_momentum=False)
    assert [config.trajectory_epochs(stage) for stage in range(3)] == [50, 20, 20]
    published = ((17, 20, 0.001), (17, 20, 0.01), (16, 10, 0.01))
    for method, (images, end, lr) in zip(config.methods, published, strict=True):
        agrees(
            method,
            images_per_class=images,
            min_start_epoch=0,
            max_start_epoch=end - 2,
            synthetic_lr_init=lr,
            expert_epochs=2,
            synthetic_steps=30,
            iterations=5000,
            image_lr=100.0,
            synthetic_lr_lr=1e-5,
            synthetic_batch_size=None,
        )


def test_seqmatch_on_idc_is_as_published() -> None:
    """2000 and 4000 times 100 updates of the images, 50 and 100 with one network; a new network every 50 iterations."""
    config = preset("cifar10/published/seqmatch_idc_ipc50.yaml")
    agrees(config.data, source="cifar10", preprocess="standardise")
    agrees(config.stages, count=2, pool_size=4000 // 50, epochs=1000, transition_epochs=None, carry_momentum=False)
    for method, updates, loops in zip(config.methods, (2000, 4000), (50, 100), strict=True):
        agrees(method, images_per_class=25, inner_loops=loops, iterations=updates * 100 // loops)
        check_idc(method, 0.0125)


@pytest.mark.parametrize("name", ACCURACY)
def test_the_header_says_what_was_published_and_planned(name: str) -> None:
    header, steps = header_of(name), steps_of(name)
    for paper in ("PDD" if "pdd" in name else "SeqMatch", "IDC" if "idc" in name else "MTT"):
        assert re.search(rf'Paper: [^"]*"[^"]*", \w+ \d+ \({paper}\)', header)
    assert f"raydd run configs/{name}" in header and "Settings: " in header
    said = ACCURACY[name].replace("±", " ± ") if ACCURACY[name] != "-" else "the paper's number for this set was not"
    assert f"Published: {said}" in header and "Hardware and time: not measured here" in header
    (peak,) = re.findall(r"Plan: ([\d.]+) GB of tensors at the peak of distilling", header)
    assert float(peak) * 1e9 == pytest.approx(steps["distill"].peak_tensor_bytes, rel=0.05)
    work = ["experts"] * ("experts" in steps) + ["transition", "distill", "evaluate"]
    _, flops, updates = header.partition("Plan: ")[2].split("; ")[:3]
    assert numbers(flops) == pytest.approx([steps[name].flops / 1e18 for name in work], rel=0.05)
    trained = [name for name in work if name != "distill"]
    assert numbers(updates) == pytest.approx([steps[name].optimizer_steps / 1e6 for name in trained], rel=0.02)
    (kept,) = re.findall(r"([\d.]+) GB stay on disk", header)
    assert float(kept) * 1e9 == pytest.approx(sum(step.disk_bytes for step in steps.values()), rel=0.1)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("name", sorted(DIGITS))
def test_digits_take_minutes(name: str) -> None:
    """On a core that does some GFLOP/s at this size, beside what every small step takes."""
    config, steps = preset(name), steps_of(name)
    assert 2 <= config.stages.count <= 5 and 4 <= config.stages.pool_size <= 6
    assert {method.images_per_class for method in config.methods} <= {1, 2}
    assert sum(step.flops for step in steps.values()) < 3e12
    assert sum(step.optimizer_steps for step in steps.values()) < 30_000
