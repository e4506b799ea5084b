"""`raydd bench recover`: DELT's schedule against one in which all images take part all the time.

Both sides are the product's: the same images, teacher and iterations. So one minus the ratio of their times is what
EarlyLate saves on the clock, and `saving_formula` what it saves in image-iterations. With several class groups, too,
these side by side in one forward pass against one after the other.

Letters: C H W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import cast

import torch

from raydd.bench import timing
from raydd.bench.comparison import here
from raydd.core import keyed_random, process
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Standardise
from raydd.ingredients.setting import Setting
from raydd.ingredients.teacher import Teacher, TeacherConfig, train_teacher
from raydd.methods import DELTConfig, Start, Task
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.rows import Rows
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.recipe import Recipe

KEY = Key.root(0)
SHAPE, CLASSES_PER_GROUP = (3, 32, 32), 2
"""C H W, and classes of a class group."""


@dataclass(frozen=True, kw_only=True)
class RecoverBench:
    """What is measured: a ConvNet with batch norm on 32x32 colour images, DELT's crops and loss on both sides."""

    width: int = 32
    depth: int = 3
    images_per_class: int = 50
    """Of two classes a class group."""
    iterations: int = 80
    """MI."""
    round_iterations: int = 10
    """RI."""
    groups_at_once: int = 1
    """Class groups; more than one are also compared side by side and one after the other."""
    threads: int = 1
    pairs: int = 5
    """Timed pairs; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure; the plain side of `timing.paired` is the uniform schedule.

        `saving_measured` is the median's. With several groups `packed_seconds` and `unpacked_seconds` are of one
        image-iteration; `packed_gradient_error` is the largest relative difference of a group's gradients in the first
        iteration, `packed_image_error` of its images after the last.
        """
        process.set_up(self.threads)
        problem = RecoverProblem(self)
        problem.ours()  # convolutions are set up when a size of the batch is met for the first time
        measured = timing.paired(problem.ours, problem.plain, self.pairs)
        uniform = problem.uniform.uniform_iterations(problem.num_classes)
        done = problem.delt.image_iterations(problem.num_classes)
        return {
            **measured,
            "saving_measured": 1 - measured["time_ratio"],
            "saving_formula": 1 - done / uniform,
            "image_iterations_per_second": done / measured["seconds"],
            "plain_image_iterations_per_second": uniform / measured["plain_seconds"],
            **(_packing(problem, self.pairs) if self.groups_at_once > 1 else {}),
        }


class RecoverProblem:
    """Random images and a teacher of them."""

    def __init__(self, bench: RecoverBench) -> None:
        """Draw everything from fixed keys."""
        self.num_classes = CLASSES_PER_GROUP * bench.groups_at_once
        self.groups = tuple(range(bench.groups_at_once))
        self.delt = DELTConfig(
            images_per_class=bench.images_per_class,
            batch_size=CLASSES_PER_GROUP * bench.images_per_class,
            iterations=bench.iterations,
            round_iterations=bench.round_iterations,
            init="random",
        )
        self.uniform = replace(self.delt, round_iterations=bench.iterations)
        network = NetworkConfig(width=bench.width, depth=bench.depth, norm="batch")
        data = noise(self.num_classes, bench.images_per_class)
        self.task = Task(data=data, network=network, device=here(), teacher=_teacher(network, data))

    def ours(self) -> Recover:
        """All groups side by side by DELT's schedule."""
        return self.recovered(self.delt, self.groups)

    def plain(self) -> Recover:
        """All groups side by side, every image from the beginning."""
        return self.recovered(self.uniform, self.groups)

    def recovered(self, config: DELTConfig, groups: Sequence[int], iterations: int | None = None) -> Recover:
        """Some class groups after some iterations, or after all."""
        method = cast(Recover, config.build(replace(self.task, groups=tuple(groups)), Start(), KEY))
        for _ in range(config.iterations if iterations is None else iterations):
            method.step()
        return method


def _packing(problem: RecoverProblem, pairs: int) -> dict[str, float]:
    """All groups side by side against one after the other."""

    def packed() -> None:
        problem.recovered(problem.delt, problem.groups)

    def unpacked() -> None:
        for group in problem.groups:
            problem.recovered(problem.delt, [group])

    done, timed = problem.delt.image_iterations(problem.num_classes), timing.paired(packed, unpacked, pairs)
    return {
        "packed_seconds": timed["seconds"] / done,
        "unpacked_seconds": timed["plain_seconds"] / done,
        "packed_time_ratio": timed["time_ratio"],
        "packed_gradient_error": _error(problem, "first_moment", 1),
        "packed_image_error": _error(problem, "images", problem.delt.iterations),
    }


def _error(problem: RecoverProblem, name: str, iterations: int) -> float:
    """How far a tensor of the state of a group, where that is most, is from that of the group alone, relatively."""
    together = problem.recovered(problem.delt, problem.groups, iterations).state_dict()[name]
    rows = Rows.joined([problem.delt.rows(group, problem.num_classes) for group in problem.groups])
    alone = [problem.recovered(problem.delt, [group], iterations).state_dict()[name] for group in problem.groups]
    found = (together[rows.groups == group] for group in problem.groups)
    return max(float((one - wanted).norm() / wanted.norm()) for one, wanted in zip(found, alone, strict=True))


def noise(num_classes: int, images_per_class: int) -> PreparedData:
    """As many noise images as are recovered, of whole pixels."""
    labels = torch.arange(num_classes).repeat_interleave(images_per_class)
    with keyed_random.seeded(KEY.child("images")):
        pixels = torch.randint(256, (len(labels), *SHAPE), dtype=torch.uint8)
    preprocessing = Standardise(torch.full((3,), 0.5), torch.full((3,), 0.25))
    split = LabelledImages(preprocessing.forward(pixels), labels)
    return PreparedData("noise", tuple(map(str, range(num_classes))), "", preprocessing, split, split)


def _teacher(network: NetworkConfig, data: PreparedData) -> Teacher:
    """One that has seen the images a few times, and knows nothing."""
    config = TeacherConfig(training=Recipe(epochs=2, batch_size=25, augmentation="none"))
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Folder.at(folder), "teacher")
        return train_teacher(config, Setting(network, data, here()), KEY.child("teacher"), checkpoints, NoProgress())
