"""The shipped configurations of methods that distil a teacher: the published settings, and headers that hold."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from raydd.data import DataConfig
from raydd.networks.config import NetworkConfig
from tests.support.presets import PRESETS, facts, header_of, planned, preset

TEACHER = """
delt  cifar10       resnet18  32 93.86 0.25 0.01 curriculum  0   1:2000:24.0±0.8 10:4000:43.0±0.9  50:4000:64.9±0.9
delt  imagenette    resnet18 224 90.00 0.25 0.01 curriculum  0   1:1000:24.1±1.8 10:4000:66.0±1.4  50:4000:88.2±1.2
delt  imagenette    conv5    128 89.60 0.25 0.01 curriculum  0   1:4000:29.8±1.4 10:4000:51.7±1.2  50:4000:84.5±0.4
delt  tiny-imagenet resnet18  64 61.98 0.25 0.01 curriculum  0   1:500:9.3±0.5   10:4000:43.0±0.1  50:4000:55.7±0.5
delt  tiny-imagenet conv4     64 49.73 0.25 0.01 curriculum  0   1:1000:12.4±0.8 10:4000:40.0±0.4  50:4000:48.6±0.2
delt  imagenet-100  resnet18 224 83.40 0.25 0.01 curriculum  0  10:4000:28.2±1.5 50:4000:67.9±0.6 100:4000:75.1±0.2
delt  imagenet-100  conv6    128 72.82 0.25 0.01 curriculum  0  10:4000:24.7±1.5 50:4000:51.9±1.1 100:4000:61.5±0.5
delt  imagenet      resnet18 224 -     0.25 0.01 curriculum  0  10:4000:46.1±0.4 50:4000:59.2±0.4 100:4000:62.4±0.2
delt  imagenet      conv4     64 43.6  0.25 0.01 curriculum  0   1:3000:8.8±0.5  10:4000:31.3±0.8  50:4000:41.7±0.1
sre2l cifar100      resnet18  32 78.72 0.25 0.01 none        4  10:1000:27.0±0.4 50:1000:50.2±0.4
sre2l tiny-imagenet resnet18  64 59.57 0.1  1.0  random      4  10:4000:16.1±0.2 50:4000:41.1±0.4
sre2l imagenet      resnet18 224 -     0.25 0.01 random     32  10:4000:21.3±0.6 50:4000:46.8±0.2
cda   tiny-imagenet resnet18  64 59.57 0.4  0.05 curriculum  4  50:4000:48.7
cda   imagenet      resnet18 224 -     0.25 0.01 curriculum 32  50:4000:53.5
rded  cifar10       resnet18  32 93.86 -    -    1           -  10:0:37.1±0.3 50:0:62.1±0.1
rded  tiny-imagenet resnet18  64 61.98 -    -    1           -  10:0:41.9±0.2 50:0:58.2±0.1
rded  imagenet      resnet18 224 -     -    -    2           -  10:0:42.0±0.1 50:0:56.5±0.1
"""
"""Method, data, network, side of the images, accuracy of the paper's teacher (-: torchvision's), step size, weight of
the batch norms, crops, jitter (of RDED the mosaics' side alone); images per class, iterations and accuracy of each."""
IMAGE_ITERATIONS = {10: 25_500, 50: 115_500, 100: 229_000}
"""Of a class by DELT: the first of eight parts 4,000 for each image, the next 3,500, and so on."""
NETWORKS = {
    ("resnet18", 224): NetworkConfig(name="resnet18", norm="batch", stem="imagenet"),
    **{("resnet18", side): NetworkConfig(name="resnet18", norm="batch", stem="small") for side in (32, 64)},
    **{(f"conv{n}", side): NetworkConfig(depth=n, norm="batch") for n, side in ((4, 64), (5, 128), (6, 128))},
}


class Taught(NamedTuple):
    """A row of the table above, of one number of images per class."""

    method: str
    data: str
    network: str
    side: int
    teacher: str
    values: tuple[str, ...]
    images: int
    iterations: int
    accuracy: str


def taught() -> dict[str, Taught]:
    """By preset."""
    found = {}
    for line in TEACHER.strip().splitlines():
        method, data, network, side, teacher, *values = line.split()
        conv = "_conv" * network.startswith("conv")
        for cell in values[4:]:
            images, iterations, accuracy = cell.split(":")
            row = Taught(
                method, data, network, int(side), teacher, tuple(values[:4]), int(images), int(iterations), accuracy
            )
            found[f"{data}/published/{method}{conv}_ipc{images}.yaml"] = row
    return found


TAUGHT = taught()


def test_every_preset_has_its_row() -> None:
    assert {name for name in PRESETS if re.search("/published/(?!datm|ftd|mtt|idc|pdd|seqmatch)", name)} == set(TAUGHT)


@pytest.mark.parametrize("name", TAUGHT)
def test_methods_that_distil_a_teacher_are_as_published(name: str) -> None:
    row, config = TAUGHT[name], preset(name)
    method, evaluate = config.method, config.evaluate
    own = row.data in ("imagenette", "imagenet-100")
    assert (config.network, config.teacher.network) == (NETWORKS[row.network, row.side], None)
    assert config.data == DataConfig(
        source="imagefolder" if own else row.data,
        image_size=row.side if own or row.data == "imagenet" else None,
        statistics="literature",
    )
    assert (method.name, method.images_per_class, method.iterations) == (row.method, row.images, row.iterations)
    assert (evaluate.protocol, evaluate.num_students, evaluate.labels) == (row.method, 3, ("online",))
    if row.method == "rded":
        assert (method.factor, method.candidates, method.crops) == (int(row.values[2]), 300, 5)
        assert method.min_crop_scale == 0.08
        return
    lr, bn_weight, crop, jitter = row.values
    assert (method.image_lr, method.bn_weight, method.first_bn_weight) == (float(lr), float(bn_weight), 10)
    assert (method.crop, method.min_crop_scale, method.crop_milestone, method.jitter) == (crop, 0.08, 1, int(jitter))
    assert (method.batch_size, method.mosaic, method.precision) == (100, 1, "fp32")
    assert method.init == ("medium" if row.method == "delt" else "noise")
    if row.method == "delt":
        assert method.round_iterations == (500 if row.images > 1 else row.iterations)
        assert (method.lr_clock, method.crop_clock) == ("global", "global")


@pytest.mark.parametrize("name", TAUGHT)
def test_teachers_are_as_published(name: str) -> None:
    row, config, teacher = TAUGHT[name], preset(name), preset(name).teacher
    if row.teacher == "-":
        assert Path(teacher.weights or "").name == "resnet18-f37072fd.pth"
        return
    recipe = teacher.training
    published = (200, 0.1, 5e-4, 128, 0) if row.data == "cifar100" else (50, 0.2, 1e-4, 256, 5)
    assert (recipe.epochs, recipe.lr, recipe.weight_decay, recipe.batch_size, recipe.warmup_epochs) == published
    assert (recipe.optimizer, recipe.momentum, recipe.schedule) == ("sgd", 0.9, "cosine")
    assert (recipe.augmentation, teacher.weights, config.teacher_seed) == ("crop+flip", None, 0)
    header = header_of(name)
    assert "Teacher: trained first" in header and f" {row.teacher} % test accuracy" in header


@pytest.mark.parametrize("name", TAUGHT)
def test_the_header_says_what_was_published_for_a_teacher(name: str) -> None:
    row, config, header = TAUGHT[name], preset(name), header_of(name)
    network = "ResNet-18" if row.network == "resnet18" else "ConvNet"
    assert f"Published: {row.accuracy.replace('±', ' ± ')} ({network}" in header and "Settings: " in header
    classes = facts(config).num_classes
    recipe = config.evaluate.recipe_for(config.network, row.images, classes, config.data.source)
    assert re.search(rf"tudents (by|as) .* in batches of {recipe.batch_size}\b", header)


@pytest.mark.parametrize("name", sorted(TAUGHT.keys() - {"imagenet/published/delt_ipc50.yaml"}))
def test_the_header_says_what_the_plan_says_of_a_teacher(name: str) -> None:
    """The one left out has a plan of its own, in `test_plan_decoupled.py`."""
    row, config, header = TAUGHT[name], preset(name), header_of(name)
    work = re.search(
        r"Plan: ([\d.]+) PFLOP .*?([\d.]+) to (?:recover|choose crops).*?([\d.]+) for the students", header
    )
    assert work and "Hardware and time: not measured here" in header
    steps = {step.work: step for step in planned(config).steps}
    for said, step in zip(work.groups(), ("teacher", "distill", "evaluate"), strict=True):
        assert float(said) * 1e15 == pytest.approx(steps[step].flops, rel=0.06)
    classes, most = facts(config).num_classes, row.images * row.iterations
    each = IMAGE_ITERATIONS[row.images] if row.method == "delt" and row.images > 1 else most
    said = re.search(r"([\d.]+) million image-iterations(?:, ([\d.]+) % fewer than uniform)?", header)
    assert bool(said) == bool(each)
    if said:
        assert float(said[1]) * 1e6 == pytest.approx(each * classes, rel=1e-3)
        assert float(said[2] or 0) == pytest.approx(100 * (1 - each / most))
