"""Tiny coloured pictures and a teacher of them, made once and shared by the tests of the decoupled family.

Letters: N images, C H W.
"""

from copy import deepcopy
from functools import cache
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from raydd import networks
from raydd.core.keyed_random import Key, seeded
from raydd.core.progress import NoProgress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Standardise
from raydd.ingredients.ranking import Ranking, score
from raydd.ingredients.setting import Setting
from raydd.ingredients.teacher import Teacher, TeacherConfig, train_teacher
from raydd.methods import Task
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.loop import Training
from raydd.training.recipe import Recipe

NETWORK = NetworkConfig(width=4, depth=2, norm="batch")
STUDENT = NetworkConfig(width=5, depth=1)
CLASSES = ("ant", "bee", "cat", "dog", "eel")
SHAPE = (3, 8, 8)
PER_CLASS = 18


@cache
def data() -> PreparedData:
    """Five classes of 3x8x8 images of whole pixels: a pattern each, under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = 255 * torch.rand(len(CLASSES), *SHAPE, generator=generator)
    numbers = torch.tensor([[0.45, 0.5, 0.55], [0.2, 0.25, 0.3]], dtype=torch.float64)
    preprocessing = Standardise(*numbers)

    def split(per_class: int) -> LabelledImages:
        labels = torch.arange(len(CLASSES)).repeat(per_class)
        noise = 60 * torch.randn(len(labels), *SHAPE, generator=generator)
        pixels = (patterns[labels] + noise).clamp(0, 255).to(torch.uint8)
        return LabelledImages(preprocessing.forward(pixels), labels)

    return PreparedData("taught", CLASSES, "0" * 64, preprocessing, train=split(PER_CLASS), test=split(6))


@cache
def teacher(dtype: torch.dtype = torch.float32) -> Teacher:
    """A batch-norm network that has seen the pictures a few times."""
    if dtype != torch.float32:
        trained = teacher()
        return Teacher(deepcopy(trained.module).to(dtype), trained.card)
    recipe = Recipe(epochs=4, lr=0.05, momentum=0.9, batch_size=16, augmentation="none")
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Folder.at(folder), "teacher")
        setting = Setting(NETWORK, data(), torch.device("cpu"))
        return train_teacher(TeacherConfig(training=recipe), setting, Key.root(1), checkpoints, NoProgress())


@cache
def ranking() -> Ranking:
    """Of the training pictures, by the teacher."""
    train = data().train
    paths = [str(number) for number in range(len(train))]
    return Ranking(train.labels, torch.arange(len(train)), paths, score(teacher(), train.images, train.labels))


@cache
def students() -> tuple[Network, ...]:
    """Three networks that have seen the earlier images twice, and of the last class none."""
    images, found = earlier(), []
    recipe = Recipe(epochs=2, lr=0.1, momentum=0.9, batch_size=4, augmentation="none")
    for number in range(3):
        with seeded(Key.root(20 + number)):
            module = networks.build(STUDENT, SHAPE, len(CLASSES))
        training = Training([module], images.images, images.labels, recipe, [Key.root(number)])
        for epoch in range(recipe.epochs):
            training.run_epoch(epoch)
        found.append(module.eval().requires_grad_(False))
    return tuple(found)


def pool() -> list[dict[str, Tensor]]:
    """The states of the students."""
    return [module.state_dict() for module in students()]


@cache
def earlier() -> SyntheticSet:
    """What an earlier stage left: 2, 1, 3, 2 and no noisy pictures of the classes, in no order."""
    labels = torch.tensor([2, 0, 3, 2, 1, 0, 2, 3])
    rows = labels + len(CLASSES) * torch.arange(len(labels))
    noise = torch.randn(len(labels), *SHAPE, generator=torch.Generator().manual_seed(5))
    return SyntheticSet(
        images=data().train.images[rows] + noise,
        labels=labels,
        stage=torch.zeros(len(labels), dtype=torch.int32),
        learned_lr=(None,),
        class_names=CLASSES,
        preprocessing=data().preprocessing,
    )


def task(
    *groups: int, dtype: torch.dtype = torch.float32, ranked: bool = True, network: NetworkConfig = NETWORK
) -> Task:
    """The task of some class groups, of all where none is named."""
    return Task(
        data=data(),
        network=network,
        teacher=teacher(dtype),
        ranking=ranking() if ranked else None,
        groups=tuple(groups),
        dtype=dtype,
    )
