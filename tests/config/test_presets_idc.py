"""The shipped configurations of IDC: the published settings, and headers that hold."""

import re

import pytest

from raydd.data import DataConfig
from raydd.methods import IDCConfig
from raydd.networks.config import NetworkConfig
from raydd.plan import make_plan
from raydd.training.recipe import Recipe
from tests.support.presets import PRESETS, facts, header_of, preset

IDC = """
cifar10  idc   2  1:50.6 10:67.5 50:74.5
cifar10  idc_i 1  1:36.7 10:58.3 50:69.5
cifar100 idc   2  1:-    10:45.1 50:-
cifar100 idc_i 1  10:36.6
"""
"""Data, name, parts along an axis; images per class, and the accuracy published for them (-: none)."""
ROWS = {
    f"{data}/published/{name}_ipc{cell.partition(':')[0]}.yaml": (data, int(factor), *cell.split(":"))
    for data, name, factor, *cells in (line.split() for line in IDC.strip().splitlines())
    for cell in cells
}


def test_every_preset_has_its_row() -> None:
    assert {name for name in PRESETS if re.search("/published/idc_", name)} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_idc_is_as_published(name: str) -> None:
    data, factor, images, _ = ROWS[name]
    config = preset(name)
    assert config.data == DataConfig(source=data, statistics="literature")
    assert config.network == NetworkConfig(name="convnet", width=128, depth=3, norm="instance")
    assert config.method == IDCConfig(
        images_per_class=int(images),
        factor=factor,
        iterations=2000,
        inner_loops=100,
        image_lr=5e-3,
        momentum=0.5,
        real_batch_size=64,
        num_real=2000,
        distance="mse",
        decode="single",
        decoded_per_class=128,
        augmentation="idc:color_crop_cutout",
        network_lr=0.01,
        network_momentum=0.9,
        network_weight_decay=5e-4,
        network_batch_size=64,
        network_augmentation="idc:color_crop",
        cutmix=0.5,
    )
    assert config.method.rate((3, 32, 32)) == pytest.approx(5e-4 * int(images))
    assert config.evaluate.recipe == Recipe(
        epochs=1000,
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=64,
        schedule="two_steps",
        augmentation="idc:color_crop_flip_scale_rotate",
        cutmix=0.5,
    )
    assert config.stages.count == 1


@pytest.mark.parametrize("name", ROWS)
def test_the_header_says_what_the_table_and_the_plan_say(name: str) -> None:
    header, config, accuracy = header_of(name), preset(name), ROWS[name][-1]
    assert f"Command: RAYDD_DATA=... raydd run configs/{name}" in header and "ICML 2022" in header
    assert (f"Published: {accuracy} (ConvNet" if accuracy != "-" else "Published: nothing for this number") in header
    assert "Hardware and time: not measured" in header
    found = re.search(
        r"Plan: ([\d.]+) GB of tensors at the peak .*; ([\d.]+) EFLOP to distil, ([\d.]+) for the", header
    )
    assert found is not None
    steps = {step.work: step for step in make_plan(config, facts(config)).steps}
    planned = steps["distill"].peak_tensor_bytes * 1e9, steps["distill"].flops, steps["evaluate"].flops
    for said, wanted in zip(found.groups(), planned, strict=True):
        assert float(said) * 1e18 == pytest.approx(wanted, rel=0.06)


def test_the_small_preset_says_what_it_measured() -> None:
    header, config = header_of("digits/reduced/idc_ipc1.yaml"), preset("digits/reduced/idc_ipc1.yaml")
    assert (config.method.name, config.method.factor, config.method.images_per_class) == ("idc", 2, 1)
    found = re.search(r"Measured \(.*\): ([\d.]+) distilled, ([\d.]+) start, ([\d.]+) random, ([\d.]+) all", header)
    assert found is not None
    distilled, start, random, whole = (float(number) for number in found.groups())
    assert start < random < distilled < whole
