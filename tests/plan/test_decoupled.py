"""The plan of methods that distil a teacher against what is really used, and against published figures."""

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd import config as configs
from raydd.config import RunConfig, from_mapping
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data import size_of
from raydd.data.fit_preprocessing import fit_standardise
from raydd.ingredients.teacher import Teacher
from raydd.ingredients.teacher_card import TeacherCard
from raydd.methods import Start, Task
from raydd.methods.decoupled.cost import recover_step
from raydd.methods.decoupled.recover import Recover
from raydd.networks import build
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from raydd.plan import DataFacts, make_plan
from raydd.plan.students import pixel_bytes
from raydd.sets.synthetic import SyntheticSet, by_class
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.cost import predicting
from raydd.training.views import ImageViews, ViewsConfig
from tests.support import ROOT
from tests.support.image_files import noise, write_folders
from tests.support.planned import K, Work, counted, facts_of, fresh_processes, measured_peak, random_data, sizes, step

IMAGENET = ROOT / "configs" / "imagenet" / "published" / "delt_ipc50.yaml"
FACTS = DataFacts(40 * K, 8 * K, (3, 32, 32), K)
CONFIG: dict[str, Any] = {
    "network": {"width": 8, "depth": 2, "norm": "batch"},
    "teacher": {"training": {"epochs": 3, "lr": 0.05, "momentum": 0.9, "batch_size": 16, "augmentation": "none"}},
    "method": {"name": "delt", "images_per_class": 6, "iterations": 9, "round_iterations": 3, "batch_size": 12},
    "evaluate": {
        "num_students": 2,
        "random_draws": 1,
        "labels": ["online", "replayed", "hard"],
        "label_epochs": 2,
        "recipe": {
            "epochs": 3,
            "lr": 0.01,
            "optimizer": "adamw",
            "batch_size": 16,
            "augmentation": "none",
            "views": {},
        },
        "full_epochs": 1,
    },
    "cluster": {"groups_at_once": 2},
}
"""Three class groups, the last of one class."""
METHODS = {
    "delt": CONFIG["method"],
    "sre2l": {"name": "sre2l", "images_per_class": 6, "iterations": 4, "batch_size": 3},
    "rded": {"name": "rded", "images_per_class": 3, "candidates": 30, "crops": 2},
}
NETWORK_OPERATIONS = ("aten.convolution", "aten.convolution_backward", "aten.mm", "aten.addmm")


def config_of(**parts: Any) -> RunConfig:
    """A small run; parts replace those of `CONFIG`, or lay values over them."""
    values = {name: {**CONFIG.get(name, {}), **parts.get(name, {})} for name in {**CONFIG, **parts}}
    if "method" in parts:
        values["method"] = parts["method"]
    return from_mapping(values)


def at_imagenet(**changes: Any) -> RunConfig:
    config = configs.load(str(IMAGENET))
    return replace(config, evaluate=replace(config.evaluate, **changes))


def published() -> DataFacts:
    facts = size_of(replace(at_imagenet().data, root="/nowhere"))
    assert facts is not None
    return facts


def test_imagenet_1k_is_planned_as_it_was_reckoned() -> None:
    """Section 8.4 of the decoupled family's figures, for 50 images a class, at the rate of the published 29 hours."""
    config, facts = at_imagenet(labels=("online", "replayed"), baselines=(), num_students=1), published()
    steps = {step.work: step for step in make_plan(config, facts).at(13.9e12).steps}
    images = config.method.image_iterations(1000)
    assert list(steps) == ["data", "teacher", "rank", "distill", "relabel", "evaluate"]
    assert (images, steps["distill"].units) == (115_500_000, 500)
    assert steps["distill"].flops / images == pytest.approx(7.26e9, rel=0.03)
    assert steps["distill"].flops == pytest.approx(8.4e17, rel=0.03)
    assert steps["distill"].seconds / 3600 == pytest.approx(16.8, rel=0.03)
    assert steps["rank"].flops == pytest.approx(4.7e15, rel=0.03)
    assert steps["rank"].disk_bytes < 200e6
    assert steps["relabel"].flops == pytest.approx(5.4e16, rel=0.03)
    assert steps["relabel"].disk_bytes == pytest.approx(30e9, rel=0.01)
    online, replayed = 1.5e7 * (10.9e9 + 3.6e9), 1.5e7 * 10.9e9
    assert steps["evaluate"].flops == pytest.approx(online + replayed, rel=0.03)
    assert "1.155e+08 image-iterations" in steps["distill"].makes


def test_imagenet_1k_uniformly_and_in_memory() -> None:
    config, facts = at_imagenet(), published()
    delt = step(config, facts, "distill")
    uniform = replace(config, method=replace(config.method, round_iterations=4000))
    assert step(uniform, facts, "distill").flops == pytest.approx(1.45e18, rel=0.03)
    assert delt.flops / step(uniform, facts, "distill").flops == pytest.approx(1 - 0.4225, abs=1e-4)
    one = recover_step(config.network, facts, 100, 1, torch.float32)
    half = recover_step(config.network, facts, 100, 1, torch.bfloat16)
    assert one.tensor_bytes / 100 == pytest.approx(20.6e6, rel=0.1)  # outputs of convolutions and batch norms
    assert one.tensor_bytes / half.tensor_bytes == pytest.approx(2, rel=0.2)
    packs = [step(replace(config, cluster=replace(config.cluster, groups_at_once=n)), facts, "distill") for n in (1, 3)]
    assert packs[1].peak_tensor_bytes == pytest.approx(3 * packs[0].peak_tensor_bytes, rel=0.05)
    assert packs[1].flops == pytest.approx(packs[0].flops, rel=1e-3)
    assert pytest.approx(0.955 * delt.disk_bytes, rel=0.02) == 5 * 50_000 * 150_528  # the rest are previews


def test_the_header_of_the_preset_says_what_the_plan_says() -> None:
    header = " ".join(line.removeprefix("# ") for line in IMAGENET.read_text().splitlines() if line.startswith("#"))
    steps = {step.work: step for step in make_plan(at_imagenet(), published()).at(13.9e12).steps}
    said = (
        f"{steps['distill'].units} class groups, 1.155e8 image-iterations; "
        f"{steps['distill'].flops / 1e18:.2f} EFLOP to recover "
        f"({steps['distill'].seconds / 3600:.1f} h at 13.9 TFLOP/s), {steps['rank'].flops / 1e18:.4f} to rank, "
        f"{steps['evaluate'].flops / 1e18:.1f} for {steps['evaluate'].units} students"
    )
    assert said in header and "Published: 59.2 ± 0.4" in header and "not measured" in header


@pytest.fixture(scope="module", params=METHODS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, int]]:
    """A finished run on noise of 32 pixels, and the FLOPs of its steps."""
    folder = tmp_path_factory.mktemp(request.param)
    files = {
        f"{split}/class {label}/{number}.png": noise(100 * label + number + 50 * (split == "test"), 32, 32)
        for split, count in (("train", 40), ("test", 8))
        for label in range(K)
        for number in range(count)
    }
    write_folders(folder / "noise", files)
    config = config_of(method=METHODS[request.param], data={"source": "imagefolder", "root": str(folder / "noise")})
    config, flops = replace(config, out=str(folder / "run")), {}
    make_plan(config, FACTS)  # which the run itself looks into
    for last_step in ("teacher", *["rank"] * ("ranking" in config.method.made_first), "distill", "evaluate"):
        with counted() as counter:
            execution.execute(config, LocalExecutor(), NoProgress(), last_step)
        of = counter.get_flop_counts()["Global"]
        flops[last_step] = sum(found for operation, found in of.items() if str(operation) in NETWORK_OPERATIONS)
    return config, flops


def test_flops_of_every_step(done: tuple[RunConfig, dict[str, int]]) -> None:
    """Beside what is planned, whoever needs the teacher sees first whether it still knows the test images."""
    config, flops = done
    planned = {step.work: step.flops for step in make_plan(config, FACTS).steps}
    planned["evaluate"] += planned.pop("relabel")
    check = predicting(config.network, FACTS).flops_of(FACTS.num_test)
    for work, found in flops.items():
        assert planned[work] + check * (work != "teacher") == pytest.approx(found, rel=0.03), work
    assert planned.keys() == {"data", *flops} and all(flops.values())


def test_disk_of_every_step(done: tuple[RunConfig, dict[str, int]]) -> None:
    config, _ = done
    steps, out = {step.work: step for step in make_plan(config, FACTS).steps}, Path(config.out)
    folders = {
        "teacher": ["teacher"],
        "rank": ["ranking"],
        "distill": ["stages", "synthetic", "metrics"],
        "relabel": ["labels"],
        "evaluate": ["results"],
    }
    for work in steps.keys() - {"data"}:
        written = sum(sizes(out / name) for name in folders[work])
        assert steps[work].disk_bytes == pytest.approx(written, rel=0.1), work


def recover_once(width: int, side: int, images_per_class: int, packed: int, root: str) -> tuple[RunConfig, DataFacts]:
    """One iteration of class groups of two classes, with all images."""
    count = images_per_class * K
    data = random_data(count, 2, side, fit_standardise(torch.randint(0, 256, (9, 3, side, side), dtype=torch.uint8)))
    config = config_of(
        network={"width": width, "depth": 3, "norm": "batch"},
        method={
            "name": "delt",
            "images_per_class": images_per_class,
            "batch_size": 2 * images_per_class,
            "iterations": 1,
            "round_iterations": 1,
            "init": "random",
        },
        cluster={"groups_at_once": packed},
    )
    module = build(config.network, data.shape, data.num_classes).eval().requires_grad_(False)
    card = TeacherCard(
        network={},
        dataset=data.name,
        fingerprint=data.fingerprint,
        class_names=data.class_names,
        shape=data.shape,
        preprocessing={},
        recipe={},
        seed=0,
        test_accuracy=0.0,
        train_accuracy=0.0,
        check_accuracy=0.0,
    )
    task = Task(data=data, network=config.network, teacher=Teacher(module, card), groups=tuple(range(packed)))
    method = config.method.build(task, Start(), Key.root(0))
    assert isinstance(method, Recover)
    starts = method.results()
    method.step()
    Checkpoints(Folder.at(root), "groups").save(method.state_dict(), [])
    assert len(starts) == len(method.results())
    return config, facts_of(data)


def gather_once(groups: int, per_group: int, side: int, root: str) -> tuple[RunConfig, DataFacts]:
    """Sets of all class groups put together."""
    pixels = torch.randint(0, 256, (per_group, 3, side, side), dtype=torch.uint8)
    fitted, labels = fit_standardise(pixels), torch.zeros(per_group, dtype=torch.int64)
    names = tuple(str(number) for number in range(groups))
    folders = [Folder.at(root) / name for name in names]
    for number, folder in enumerate(folders):
        SyntheticSet(
            images=fitted.forward(pixels),
            labels=labels + number,
            stage=labels.int(),
            learned_lr=(None,),
            class_names=names,
            preprocessing=fitted,
        ).save(folder, "key")
    by_class([SyntheticSet.load(folder) for folder in folders]).save(Folder.at(root) / "all", "key")
    method = {"name": "rded", "images_per_class": per_group, "candidates": 1}
    return config_of(method=method), DataFacts(groups, 1, (3, side, side), groups)


def views_once(images: int, side: int, operations: int, root: str) -> tuple[RunConfig, DataFacts]:
    """The views of a set, not drawn yet."""
    fitted = fit_standardise(torch.randint(0, 256, (9, 3, side, side), dtype=torch.uint8))
    views = ImageViews(torch.randn(images, 3, side, side), fitted, ViewsConfig(randaugment_ops=operations))
    return config_of(), DataFacts(len(views), 1, (3, side, side), K)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with fresh_processes() as pool:
        yield pool


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


@LINUX
@pytest.mark.parametrize(
    ("work", "tiny", "size"),
    [
        pytest.param(recover_once, (4, 8, 1, 1), (32, 32, 40, 1), id="one group"),
        pytest.param(recover_once, (4, 8, 1, 1), (16, 32, 30, 2), id="two groups"),
        pytest.param(gather_once, (2, 2, 8), (10, 200, 48), id="gather", marks=pytest.mark.slow),
    ],
)
def test_peak_memory(
    processes: ProcessPoolExecutor, tmp_path: Path, work: Work, tiny: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """Of two processes the higher peak counts: what imports have freed, a process may use again."""
    found = [processes.submit(measured_peak, work, tiny, size, str(tmp_path / name)).result() for name in "ab"]
    config, facts, _ = found[0]
    planned = step(config, facts, "distill")
    assert 0.5 < max(measured for _, _, measured in found) / planned.peak_memory_bytes < 1.5


@LINUX
@pytest.mark.parametrize("operations", [0, 2])
def test_peak_memory_of_views(processes: ProcessPoolExecutor, tmp_path: Path, operations: int) -> None:
    size = (6000, 48, operations)
    _, facts, measured = processes.submit(measured_peak, views_once, (10, 8, operations), size, str(tmp_path)).result()
    images = 4 * facts.num_train * facts.values
    kept, making = pixel_bytes(ViewsConfig(randaugment_ops=operations), images)
    assert 0.6 < measured / making < 1.5 and kept <= images
