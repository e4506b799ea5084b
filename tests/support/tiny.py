"""A tiny dataset, tiny experts and a few gloo workers, made once and shared by the tests.

Letters: N images, C H W, P flat parameters.
"""

import atexit
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Standardise
from raydd.ingredients.experts import ExpertsConfig, train_experts, trajectory_card
from raydd.ingredients.real_training import RealTraining
from raydd.ingredients.setting import Setting
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.methods import Task
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.recipe import Recipe
from tests.reference import matching

NETWORK = NetworkConfig(width=4, depth=2)
CLASSES = ("ant", "bee", "cat")
EXPERTS = ExpertsConfig(count=3, training=Recipe(epochs=6, lr=0.03, batch_size=8, augmentation="none"))
CPU = torch.device("cpu")

network = partial(matching.convnet, width=NETWORK.width, depth=NETWORK.depth, num_classes=len(CLASSES))
"""The reference's form of the network."""

Results = dict[str, Tensor]


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Two states, bit by bit."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value, name


@cache
def data() -> PreparedData:
    """Three classes of 1x8x8 images: a pattern each, under as much noise."""
    patterns = randn(0, len(CLASSES), 1, 8, 8, dtype=torch.float32)

    def split(seed: int, per_class: int) -> LabelledImages:
        labels = torch.arange(len(CLASSES)).repeat(per_class)
        return LabelledImages(patterns[labels] + 1.5 * randn(seed, len(labels), 1, 8, 8, dtype=torch.float32), labels)

    preprocessing = Standardise(torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64))
    return PreparedData("tiny", CLASSES, "0" * 64, preprocessing, train=split(1, 12), test=split(2, 10))


def setting(network: NetworkConfig = NETWORK, real: PreparedData | None = None) -> Setting:
    """A network that learns these data, or other real ones."""
    return Setting(network, real or data(), CPU)


def real_training(
    folder: Path, recipe: Recipe, key: Key, real: PreparedData | None = None, network: NetworkConfig = NETWORK
) -> RealTraining:
    """A training on these data, or on other real ones, with its checkpoints in a folder."""
    checkpoints = Checkpoints(Folder.at(folder), "real")
    return RealTraining(recipe=recipe, setting=setting(network, real), key=key, checkpoints=checkpoints)


def store(folder: Folder) -> TrajectoryStore:
    return TrajectoryStore(folder, trajectory_card(EXPERTS, NETWORK, data(), seed=0))


@cache
def expert_folder() -> Folder:
    """Where the trained experts of `EXPERTS` lie until the process ends."""
    temporary = TemporaryDirectory()
    atexit.register(temporary.cleanup)
    folder = Folder.at(temporary.name)
    for number in range(EXPERTS.count):
        train(number, folder / "store", folder / "work")
    return folder / "store"


def train(number: int, folder: Folder, work: Folder) -> None:
    train_experts([number], EXPERTS, setting(), store(folder), work, NoProgress())


def task(folder: Folder, dtype: torch.dtype = torch.float64) -> Task:
    """The task over the experts in a folder."""
    return Task(
        data=data(),
        network=NETWORK,
        trajectories=store(folder),
        num_experts=EXPERTS.count,
        last_epoch=EXPERTS.training.epochs,
        dtype=dtype,
    )


def on_workers(world: int, function: Callable[..., Results], *arguments: object) -> list[Results]:
    """What `function` returns on every rank of a gloo group of `world` processes."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "rendezvous"
        futures = [_process(rank).submit(_as_rank, rank, world, place, function, arguments) for rank in range(world)]
        done = [future.result(timeout=120) for future in futures]
    return [{name: torch.from_numpy(array) for name, array in result.items()} for result in done]


@cache
def _process(rank: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def _as_rank(
    rank: int, world: int, place: Path, function: Callable[..., Results], arguments: tuple[object, ...]
) -> dict:
    dist.init_process_group(
        "gloo", init_method=f"file://{place}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        return {name: tensor.numpy() for name, tensor in function(*arguments).items()}
    finally:
        dist.destroy_process_group()
