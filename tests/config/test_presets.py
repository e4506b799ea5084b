"""The shipped configurations: the published settings, a plan for each, and headers that hold."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydd.config import RunConfig
from tests.support.image_files import encoded, noise, write_parquet, write_tiny
from tests.support.presets import FOLDER, PRESETS, facts, header_of, planned, preset
from tests.support.small import raydd

MATCHING = [name for name in PRESETS if re.search(r"/published/(datm|ftd|mtt)_ipc\d+(_paper)?\.yaml$", name)]
GRAPH_BYTES = {3: 3.0e6, 4: 12.0e6}
"""Of one image in one inner step of an unroll that keeps its graph, by depth of the ConvNet (float32, measured)."""

DATM = """
cifar10          1  80   10  0  -  4    -   100  5 1e-7 1.1  0.01
cifar10         10  80  100  0 10 20 1000   100  2 1e-5 1    0.10
cifar10         50  80  500  0 20 40 2000  1000  2 1e-5 1    0.48
cifar10        500  40 1000 40  - 60    -    50 10 1e-5 1    0.48
cifar10       1000 100 1000 40  - 60    -    50 10 1e-5 1    1.19
cifar100         1  40  100  0 10 20 1000  1000 10 1e-5 1    0.05
cifar100        10  80 1000  0 30 50 2000  1000 10 1e-5 1    0.95
cifar100        50  80 1000 20  - 70    -  1000 10 1e-5 1    0.95
cifar100       100  80 1000 30  - 70    -    50 10 1e-5 1    0.95
tiny-imagenet    1  40  200  0 15 20 2000 10000 10 1e-4 1    0.40
tiny-imagenet   10  40  500 10  - 50    -   100 10 1e-4 1    1.00
tiny-imagenet   50  20 1000 40  - 70    -   100 10 1e-4 1    1.00
"""
"""The published code's configs: data, images per class, inner steps, batch, first start epoch, bound at the start (-:
the final one), final bound, iterations to it, rates of images, labels and step size, threshold; EFLOP of 10,000
iterations by the adjoint, counted elsewhere."""
DATM_PRINTED = {
    ("cifar10", 500): (80, 1000),
    ("cifar10", 1000): (80, 1000),
    ("tiny-imagenet", 1): (60, 200),
    ("tiny-imagenet", 10): (60, 250),
    ("tiny-imagenet", 50): (80, 250),
}
"""Inner steps and batch where the paper prints others than the code has."""
MTT = """
cifar10          1 50 2  2   -   100 1e-7 0.01  zca
cifar10         10 30 2 20   -   100 1e-5 0.001 zca
cifar10         50 30 2 40   -  1000 1e-5 0.001 standardise
cifar100         1 20 3 20   -  1000 1e-5 0.01  zca
cifar100        10 20 2 20   -  1000 1e-5 0.01  standardise
cifar100        50 80 2 40 125  1000 1e-5 0.01  zca
tiny-imagenet    1 10 2 10   - 10000 1e-4 0.01  standardise
tiny-imagenet   10 20 2 40 200 10000 1e-4 0.01  standardise
tiny-imagenet   50 20 2 40 300 10000 1e-4 0.01  standardise
"""
"""Data, images per class, inner steps, expert epochs, bound, batch (-: the whole set), rates of images and step size,
step size at the start, preprocessing."""
FTD = """
cifar10          1 50 2  2    -   100 1e-7 0.01  zca         0.9999 0.3
cifar10         10 30 2 20    -   100 1e-5 0.001 zca         0.9995 0.3
cifar10         50 30 2 40    -  1000 1e-5 0.01  standardise 0.999  1
cifar100         1 40 3 20    -  1000 1e-5 0.01  zca         0.9995 1
cifar100        10 20 2 40    -  1000 1e-5 0.01  zca         0.9995 1
cifar100        50 80 2 40 1000  1000 1e-5 0.01  zca         0.999  1
tiny-imagenet    1 30 2 10    - 10000 1e-4 0.01  standardise 0.999  1
tiny-imagenet   10 20 2 40  500 10000 1e-4 0.01  standardise 0.999  1
"""
"""As MTT; then the decay of the average, and alpha of the experts' GSAM."""


def rows(table: str) -> dict[tuple[str, int], list[str]]:
    split = (line.split() for line in table.strip().splitlines())
    return {(data, int(images)): values for data, images, *values in split}


def number(text: str) -> float | None:
    return None if text == "-" else float(text)


def common(config: RunConfig, data: str) -> dict[str, Any]:
    """What all full-scale presets share, but for the experts' length and GSAM."""
    training, recipe = config.experts.training, config.evaluate.recipe
    assert (config.data.source, config.data.statistics) == (
        data,
        "computed" if config.data.preprocess == "zca" else "literature",
    )
    assert (config.network.label, config.network.depth) == (
        f"convnet-d{config.network.depth}-w128-instance",
        4 if data == "tiny-imagenet" else 3,
    )
    assert (training.lr, training.momentum, training.weight_decay, training.batch_size) == (0.01, 0, 0, 256)
    assert (training.schedule, training.augmentation) == ("constant", "dsa")
    assert (config.experts.count, config.experts.keep) == (100, "needed")
    assert (recipe.epochs, recipe.lr, recipe.momentum, recipe.weight_decay) == (1001, None, 0.9, 5e-4)
    assert (recipe.schedule, recipe.augmentation, config.evaluate.num_students) == ("step", "dsa", 5)
    assert (config.method.gradient, config.method.matched_fraction) == ("exact", 1)
    assert (config.method.synthetic_lr_space, config.method.augmentation) == ("linear", "dsa")
    assert config.method.momentum == 0.5
    return {"epochs": training.epochs, "gsam_rho": training.gsam_rho, "students": recipe.batch_size}


def test_every_full_scale_preset_has_its_row() -> None:
    tables = {"datm": rows(DATM), "mtt": rows(MTT), "ftd": rows(FTD)}
    expected = {f"{data}/published/{name}_ipc{images}.yaml" for name, table in tables.items() for data, images in table}
    expected |= {f"{data}/published/datm_ipc{images}_paper.yaml" for data, images in DATM_PRINTED}
    assert set(MATCHING) == expected


@pytest.mark.parametrize(
    ("which", "suffix"),
    [*((which, "") for which in rows(DATM)), *((which, "_paper") for which in DATM_PRINTED)],
    ids=str,
)
def test_datm_is_as_published(which: tuple[str, int], suffix: str) -> None:
    data, images = which
    steps, batch, low, start, high, expansion, image_lr, label_lr, lr_lr, threshold, _ = rows(DATM)[which]
    config = preset(f"{data}/published/datm_ipc{images}{suffix}.yaml")
    method = config.method
    assert common(config, data) == {"epochs": 100, "gsam_rho": 0.01, "students": 128}
    assert (config.experts.training.gsam_alpha, config.experts.training.gsam_adaptive) == (0.3, True)
    assert config.data.preprocess == "zca"
    expected = (int(steps), int(batch)) if not suffix else DATM_PRINTED[which]
    assert (method.synthetic_steps, method.synthetic_batch_size) == expected
    assert (method.name, method.images_per_class, method.iterations) == ("datm", images, 10_000)
    assert method.expert_epochs == (3 if which == ("cifar100", 1) else 2)
    assert (method.min_start_epoch, method.max_start_epoch) == (int(low), int(high))
    assert method.initial_max_start_epoch == (number(start) or method.max_start_epoch)
    assert expansion == "-" or method.expansion_iterations == int(expansion)
    assert (method.image_lr, method.label_lr, method.synthetic_lr_lr) == tuple(map(float, (image_lr, label_lr, lr_lr)))
    assert (method.synthetic_lr_init, method.label_momentum, method.threshold) == (0.01, 0.9, float(threshold))
    start = ("random", "single_expert") if which == ("cifar100", 50) else ("correctly_predicted", "mean_correct")
    assert (method.image_init, method.label_init, method.labels, method.label_epoch) == (*start, "learned", None)


def test_the_gpu_check_is_the_preset_cut_short() -> None:
    check, whole = preset("cifar10/gpu_check.yaml"), preset("cifar10/published/datm_ipc10.yaml")
    assert check.experts == replace(whole.experts, count=check.experts.count)
    assert check.method == replace(whole.method, iterations=check.method.iterations)
    assert (check.data, check.network) == (whole.data, whole.network)
    assert check.evaluate.recipe == whole.evaluate.recipe and check.evaluate.num_students == 5


@pytest.mark.parametrize("which", rows(DATM), ids=str)
def test_the_plan_agrees_with_flops_counted_elsewhere(which: tuple[str, int]) -> None:
    steps = {step.work: step for step in planned(preset(f"{which[0]}/published/datm_ipc{which[1]}.yaml")).steps}
    assert steps["distill"].flops / 1e18 == pytest.approx(float(rows(DATM)[which][-1]), abs=0.006)
    assert steps["experts"].flops / 1e18 == pytest.approx(2.5 if which[0] == "tiny-imagenet" else 0.3, rel=0.03)


@pytest.mark.parametrize("which", [*rows(MTT)], ids=str)
def test_mtt_is_as_published(which: tuple[str, int]) -> None:
    config = preset(f"{which[0]}/published/mtt_ipc{which[1]}.yaml")
    assert common(config, which[0]) == {"epochs": 50, "gsam_rho": 0, "students": 256}
    check_matching(config, "mtt", which, rows(MTT)[which])


@pytest.mark.parametrize("which", [*rows(FTD)], ids=str)
def test_ftd_is_as_published(which: tuple[str, int]) -> None:
    *values, decay, alpha = rows(FTD)[which]
    config = preset(f"{which[0]}/published/ftd_ipc{which[1]}.yaml")
    assert common(config, which[0]) == {"epochs": 50, "gsam_rho": 0.01, "students": 256}
    assert (config.experts.training.gsam_alpha, config.experts.training.gsam_adaptive) == (float(alpha), True)
    assert config.method.ema_decay == float(decay)
    check_matching(config, "ftd", which, values)


def check_matching(config: RunConfig, name: str, which: tuple[str, int], values: list[str]) -> None:
    steps, expert_epochs, bound, batch, image_lr, lr_lr, lr, preprocess = values
    method = config.method
    assert (method.name, method.images_per_class, method.iterations) == (name, which[1], 5_000)
    assert (method.synthetic_steps, method.expert_epochs) == (int(steps), int(expert_epochs))
    assert (method.min_start_epoch, method.max_start_epoch) == (0, int(bound))
    assert method.synthetic_batch_size == number(batch)
    assert (method.image_lr, method.synthetic_lr_lr, method.synthetic_lr_init) == tuple(
        map(float, (image_lr, lr_lr, lr))
    )
    assert (method.threshold, config.data.preprocess) == (None, preprocess)


@pytest.mark.parametrize("name", PRESETS)
def test_there_is_a_plan_and_a_name_of_its_own(name: str) -> None:
    config = preset(name)
    plan = planned(config)
    first = [kind for kind in config.method.made_first if kind != "ranking"]
    ranks = ["rank"] * ("ranking" in config.method.made_first)
    between = ["transition"] * (config.stages.count > 1 and config.stages.conditioning == "synthetic")
    assert [step.work for step in plan.steps] == ["data", *first, *ranks, *between, "distill", "evaluate"]
    assert all(step.flops > 0 and step.peak_memory_bytes > 0 for step in plan.steps[1:])
    assert config.out == f"runs/{config.name}"
    words = iter(re.split("[/_-]", name.removesuffix(".yaml")))
    assert all(word in words for word in config.name.split("-")), "the name has words that the path has not"


@pytest.mark.parametrize("name", MATCHING)
def test_the_header_says_what_the_plan_says(name: str) -> None:
    config, header = preset(name), header_of(name)
    found = re.search(r"Plan: ([\d.]+) GB of tensors at the peak of distilling instead of ([\d.]+) GB of graph", header)
    work = re.search(r"([\d.]+) EFLOP for the experts, ([\d.]+) to distil, ([\d.]+) for the students", header)
    assert found and work and "Published: " in header and "Settings: " in header and "not measured" in header
    steps = {step.work: step for step in planned(config).steps}
    batch = min(config.method.synthetic_batch_size or 10**9, config.method.images_per_class * facts(config).num_classes)
    graph = config.method.synthetic_steps * batch * GRAPH_BYTES[config.network.depth]
    assert float(found[1]) * 1e9 == pytest.approx(steps["distill"].peak_tensor_bytes, rel=0.06)
    assert float(found[2]) * 1e9 == pytest.approx(graph, rel=0.01)
    for said, work_name in zip(work.groups(), ("experts", "distill", "evaluate"), strict=True):
        assert float(said) * 1e18 == pytest.approx(steps[work_name].flops, rel=0.06)


FEW = ("--method.images-per-class", 1, "--method.repeat-images", True)  # as there are few real ones


def write_data(root: Path) -> None:
    """A few images of every class of every dataset, in layouts that people have."""
    for split in ("train", "test"):
        images = [encoded(noise(seed, 32, 32)) for seed in range(100)]
        write_parquet(root / "cifar10" / f"{split}.parquet", [row % 10 for row in range(20)], images=images[:20])
        names = [f"class {label:02}" for label in range(100)]
        file = root / "cifar100" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, list(range(100)), names, images, ("img", "fine_label"))
    write_tiny(root)


@pytest.mark.parametrize(
    "name", ["cifar10/published/mtt_ipc50", "cifar100/published/mtt_ipc10", "tiny-imagenet/published/ftd_ipc1"]
)  # without ZCA
def test_show_prints_config_and_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    monkeypatch.setenv("RAYDD_DATA", str(tmp_path))
    for option in (["--config"], ["--rate", "1G"]):
        assert raydd("show", FOLDER / f"{name}.yaml", "--out", tmp_path / "run", *FEW, *option) == 0
    printed = capsys.readouterr().out
    assert f"name: {name.replace('/published/', '-').replace('_', '-')}" in printed
    assert "outer iterations" in printed and "total" in printed
    assert not (tmp_path / "run").exists()
