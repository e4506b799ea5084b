"""RDED: realism, diversity and efficiency (Sun, Shi, Yuan and Lin, CVPR 2024, https://arxiv.org/abs/2312.03526).

Nothing is optimised: of crops of random real images the teacher chooses those that it knows best, and they are put
together to mosaics; in a stage that has students of the earlier ones, crops that these know least beside the teacher.
A class group is a class.

Letters: N real images, J crops of each, B crops in all, M mosaics, C H W.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.ingredients.network_pool import NetworkStates
from raydd.methods.base import MethodState, Start, Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.decoupled.cost import Grouped, choosing, grouped_cost
from raydd.methods.decoupled.disagreement import student_probabilities, true_class
from raydd.methods.decoupled.family import (
    DecoupledConfig,
    GroupMethod,
    accounts,
    exact_set,
    pixel_range,
    require_constants,
)
from raydd.methods.decoupled.selection import cell_size, grid, mosaic_rows, random_rows, resized
from raydd.sets.synthetic import SyntheticSet
from raydd.training.cost import predicting
from raydd.training.sampling import repeated

_AT_ONCE = 64
"""Real images whose crops are scored together."""


@dataclass(frozen=True, kw_only=True)
class RDEDConfig(DecoupledConfig):
    """RDED; the defaults are the published ones."""

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "rded"}
    name: Literal["rded"] = "rded"
    factor: int | None = None
    """[factor] side of the mosaics, in crops. null: 2 where images have 128 pixels or more, else 1."""
    candidates: int = 300
    """[mipc] random real images of a class that crops are taken from; all, where it has fewer."""
    crops: int = 5
    """[num-crop] crops of each, of which the best is kept."""
    min_crop_scale: float = 0.08
    """The least part of an image's area that a crop takes."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self._require_at_least(1, "candidates", "crops")
        if self.factor is not None:
            self._require_at_least(1, "factor")
        self._require_fraction("min_crop_scale")

    @property
    def iterations(self) -> int:
        """None: the images are there at once."""
        return 0

    @property
    def stage_conditions(self) -> tuple[str, ...]:
        """It compares no statistics."""
        return ("teacher_epoch", "disagreement")

    @property
    def uses_ranking(self) -> bool:
        """No: candidates are drawn at random."""
        return False

    def num_groups(self, num_classes: int) -> int:
        """One a class."""
        return num_classes

    def image_iterations(self, num_classes: int) -> int:
        """None."""
        return 0

    def uniform_iterations(self, num_classes: int) -> int:
        """None."""
        return 0

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes: crops that the teacher, and the networks that are asked, are shown."""
        classes = setting.facts.num_classes
        groups = Grouped(
            makes=f"class groups of {self.name}",
            iterations=0,
            num_images=classes * self.images_per_class,
            groups=self.num_groups(classes),
            group_images=self.images_per_class,
            group_classes=1,
        )
        crops = choosing(setting, self.candidates, self.crops)
        asked = setting.num_asked * predicting(setting.network, setting.facts).flops_of(crops.images)
        return grouped_cost(groups, replace(setting, earlier=0), crops, asked)

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """The finished images of the task's classes.

        Raises:
            ConfigError: a class has too few images, or mosaics do not fit them; or the stage wants moments or new
                versions of earlier images.
        """
        require_constants(start)
        pixel_range(task)
        if start.frozen is not None:
            raise ConfigError("stages.teacher_conditions", "rded compares no moments of images: leave statistics out")
        pool, classes = tuple(start.pool), task.groups or range(task.data.num_classes)
        return ChosenCrops(self, task, start, {label: chosen_images(self, task, label, key, pool) for label in classes})


class ChosenCrops:
    """A distiller that is finished from the beginning."""

    iteration = 0

    def __init__(self, config: RDEDConfig, task: Task, start: Start, images: dict[int, Tensor]) -> None:
        """Hold the images [IPC, C, H, W] of some classes, in network space."""
        self.units = config.num_groups(task.data.num_classes)
        self._config, self._task, self._start = config, task, start
        self._images = images

    def step(self) -> dict[str, float]:
        """There is nothing to do.

        Raises:
            RunError: always.
        """
        raise RunError("rded: nothing is optimised")

    def result(self) -> SyntheticSet:
        """The images, class by class."""
        return self._set(sorted(self._images))

    def results(self) -> list[SyntheticSet]:
        """The images of each class."""
        return [self._set([label]) for label in self._images]

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def revised(self) -> SyntheticSet | None:
        """None."""
        return None

    def state_dict(self) -> MethodState:
        """The images."""
        return {f"images.{label}": images.clone() for label, images in self._images.items()}

    def load_state_dict(self, state: MethodState) -> None:
        """Hold those images."""
        self._images = {label: state[f"images.{label}"].clone() for label in self._images}

    def _set(self, classes: list[int]) -> SyntheticSet:
        labels = torch.tensor(classes).repeat_interleave(self._config.images_per_class)
        images = torch.cat([self._images[label] for label in classes])
        return exact_set(self._task, self._start, images, labels, accounts(0, 0))


def chosen_images(config: RDEDConfig, task: Task, label: int, key: Key, pool: NetworkStates = ()) -> Tensor:
    """The mosaics of one class, float32 [IPC, C, H, W] in network space; the best crops come first in each.

    Crops are scored by the teacher, or by its disagreement with a pool of students.

    Raises:
        ConfigError: the class has too few images, or mosaics do not fit them.
    """
    data = task.data
    factor = config.factor or (2 if min(data.shape[1:]) >= 128 else 1)
    size, needed = cell_size(data, factor, "method.factor"), config.images_per_class * factor**2
    members = int((data.train.labels == label).sum())
    candidates = min(config.candidates, members)
    if candidates < needed and not (config.repeat_images and candidates == members):
        problem = (
            f"{needed} are needed for method.images_per_class of {factor} x {factor} crops, there are {candidates} "
            f"of class {data.class_names[label]!r}"
        )
        remedy = "; set method.repeat_images to true to take crops more than once" if candidates == members else ""
        raise ConfigError("method.candidates", problem + remedy)
    rows = random_rows(data, label, candidates, key.child("candidates"), "method.candidates")
    scored = [_best_crops(config, task, label, part, size, key.child("crops"), pool) for part in rows.split(_AT_ONCE)]
    crops, losses = (torch.cat(parts) for parts in zip(*scored, strict=True))
    best = repeated(losses.argsort(stable=True), needed)
    return grid(crops[mosaic_rows(best, factor)])


def square_boxes(key: Key, ids: Tensor, height: int, width: int, min_scale: float) -> Tensor:
    """Random square boxes: int64 [B, 3] of top, left and side.

    Area uniform in [min_scale, 1] of the image's, place uniform: torchvision's RandomResizedCrop at the ratio 1 of
    square images; of others at most the largest square.

    Args:
        key: of the draws.
        ids: int64 [B].
        height: H of the images.
        width: W of the images.
        min_scale: see `RDEDConfig`.
    """
    area, top, left = keyed_random.uniform(key, ids, 3).double().T
    side = (height * width * (min_scale + (1 - min_scale) * area)).sqrt().round().clamp(max=min(height, width))
    corners = [(place * (length - side + 1)).floor() for place, length in ((top, height), (left, width))]
    return torch.stack([*corners, side], 1).long()


def padded(crops_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Crops in the middle of images [B, C, height, width] that are 0 (the mean colour) around them."""
    above, left = (height - crops_BCHW.shape[2]) // 2, (width - crops_BCHW.shape[3]) // 2
    below, right = height - crops_BCHW.shape[2] - above, width - crops_BCHW.shape[3] - left
    return F.pad(crops_BCHW, (left, right, above, below))


def _best_crops(
    config: RDEDConfig, task: Task, label: int, rows_N: Tensor, size: tuple[int, int], key: Key, pool: NetworkStates
) -> tuple[Tensor, Tensor]:
    """Of each real image the crop [N, C, *size] with the least loss, and that, [N]."""
    _, height, width = task.data.shape
    ids = rows_N.repeat_interleave(config.crops) * config.crops + torch.arange(config.crops).repeat(len(rows_N))
    boxes = square_boxes(key, ids, height, width, config.min_crop_scale)
    places = [(slice(top, top + side), slice(left, left + side)) for top, left, side in boxes.tolist()]
    images = task.data.train.images[rows_N].split(1)
    crops = torch.cat([resized(images[i // config.crops][:, :, y, x], size) for i, (y, x) in enumerate(places)])
    losses = _losses(task, pool, padded(crops, height, width), torch.full((len(ids),), label)).view(-1, config.crops)
    best = losses.argmin(1)
    each = torch.arange(len(rows_N))
    return crops.unflatten(0, losses.shape)[each, best], losses[each, best]


def _losses(task: Task, pool: NetworkStates, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """The teacher's cross entropy [B]; with students their probability of the class, less the teacher's."""
    logits = task.require_teacher().logits(images_BCHW)
    if not pool:
        return F.cross_entropy(logits, labels_B, reduction="none")
    return student_probabilities(task, pool, images_BCHW, labels_B) - true_class(logits, labels_B)
