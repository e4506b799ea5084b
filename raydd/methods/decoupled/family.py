"""What the decoupled family has in common: configuration and schedules.

SRe2L (Yin, Xing and Shen, https://arxiv.org/abs/2306.13092), CDA (Yin and Shen, https://arxiv.org/abs/2311.18838), RDED
(Sun, Shi, Yuan and Lin, https://arxiv.org/abs/2312.03526) and DELT (Shen et al., https://arxiv.org/abs/2411.19946)
distil one teacher in independent class groups.

Letters: M synthetic images, C H W.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.methods.base import Method, Start, Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.decoupled.cost import DTYPES, Grouped, asking, grouped_cost, pack_images, recover_sample, recovering
from raydd.methods.decoupled.earlylate import saving
from raydd.methods.decoupled.rows import Rows
from raydd.methods.defaults import KeepsClasses
from raydd.sets.synthetic import SyntheticSet

Clock = Literal["global", "per_group"]
"""Of a schedule. global: over all iterations. per_group: it begins anew for every part of images that joins later."""


@runtime_checkable
class GroupMethod(Method, Protocol):
    """A distiller of independent class groups."""

    def results(self) -> list[SyntheticSet]:
        """The images of each of `Task.groups`, class by class, those of a class by rank.

        With all groups in their order, a stable sort by label makes the same of the whole.
        """


@dataclass(frozen=True, kw_only=True)
class DecoupledConfig(KeepsClasses):
    """What all methods that distil a teacher share; in brackets the names of the papers' flags."""

    name: str
    images_per_class: int = 10
    """[ipc] synthetic images of each class."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        self._require_at_least(1, "images_per_class")

    @property
    def made_first(self) -> tuple[str, ...]:
        """A teacher, and where images are chosen by their rank a ranking by it."""
        return ("teacher", "ranking") if self.uses_ranking else ("teacher",)

    @property
    def reads_pixels(self) -> bool:
        """It crops them."""
        return True

    @property
    def stage_conditions(self) -> tuple[str, ...]:
        """All that there are."""
        return ("statistics", "teacher_epoch", "disagreement")

    @property
    def deals_groups(self) -> bool:
        """They are: no gradient of one depends on another."""
        return True

    @property
    def uses_ranking(self) -> bool:
        """Whether real images are ranked by the teacher first."""
        return False

    def _require_at_least(self, least: float, *fields: str) -> None:
        for field in fields:
            if not getattr(self, field) >= least:
                raise ConfigError(f"method.{field}", f"must be at least {least}, is {getattr(self, field)}")

    def _require_fraction(self, *fields: str) -> None:
        for field in fields:
            if not 0 < getattr(self, field) <= 1:
                raise ConfigError(f"method.{field}", f"must be above 0 and at most 1, is {getattr(self, field)}")


@dataclass(frozen=True, kw_only=True)
class RecoverConfig(DecoupledConfig):
    """What the methods share that optimise pixels against the teacher."""

    iterations: int = 4_000
    """[iteration] MI, updates of the images that take part from the beginning."""
    image_lr: float = 0.25
    """[lr] of Adam at the start; a cosine takes it to 0."""
    bn_weight: float = 0.01
    """[r-bn] of the distance between the moments in the batch and those of the teacher's batch norms. Depends on the
    network: the metrics tell the share of the loss that it makes."""
    first_bn_weight: float = 10.0
    """[first-bn-multiplier] of the first batch norm among them."""
    batch_size: int = 100
    """[batch-size] B, images that share one crop and the moments: a class group has as many, or fewer."""
    crop: Literal["curriculum", "random", "none"] = "curriculum"
    """curriculum: random resized crops of parts of the image whose least size falls from 1 to min_crop_scale (CDA).
    random: the least size is min_crop_scale from the beginning (SRe2L). none: whole images, without flips."""
    min_crop_scale: float = 0.08
    """[min-crop-scale] the least part of an image's area that a crop takes."""
    crop_milestone: float = 1.0
    """[milestone] the part of the iterations after which the curriculum has come to min_crop_scale."""
    jitter: int | None = 0
    """[jitter] up to so many pixels images are shifted, circularly, to the bottom and to the right. null: 32, or 4
    for images of up to 64 pixels."""
    init: Literal["medium", "easy", "hard", "random", "noise"] = "medium"
    """Where images start. medium, easy, hard: at the real images of medium, highest and lowest probability of their
    class by the teacher. random: at any real images. noise: at standard normal values in network space. (In a stage
    with `disagreement` all but noise: at those that the students of earlier stages know least, beside the teacher.)"""
    mosaic: int = 1
    """Side m of a grid of m x m shrunk real images, where an image starts."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the teacher's forward and backward pass; images, moments and Adam are always float32."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self._require_at_least(1, "iterations", "batch_size", "mosaic")
        self._require_at_least(0, "image_lr", "bn_weight", "first_bn_weight")
        self._require_fraction("min_crop_scale", "crop_milestone")
        if self.jitter is not None:
            self._require_at_least(0, "jitter")
        if self.mosaic > 1 and self.init == "noise":
            raise ConfigError("method.mosaic", "is of real images; set method.init to another start than noise")

    @property
    def uses_ranking(self) -> bool:
        """Whether images start at real ones of a certain rank."""
        return self.init in ("medium", "easy", "hard")

    def num_groups(self, num_classes: int) -> int:
        """How many class groups there are."""
        raise NotImplementedError

    def rows(self, group: int, num_classes: int) -> Rows:
        """The images of a class group."""
        raise NotImplementedError

    def image_iterations(self, num_classes: int) -> int:
        """What all images take together, in image-iterations."""
        return self.uniform_iterations(num_classes)

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes; earlier images take part where their statistics do."""
        classes = setting.facts.num_classes
        if "statistics" not in setting.conditions:
            setting = replace(setting, earlier=0)
        first = self.rows(0, classes).labels
        groups = Grouped(
            makes=f"class groups of {self.name}",
            iterations=self.iterations,
            num_images=classes * self.images_per_class,
            groups=self.num_groups(classes),
            group_images=len(first),
            group_classes=len(first.unique()),
        )
        images, dtype = self.image_iterations(classes), DTYPES[self.precision]
        one = recovering(setting, pack_images(groups, setting), images, dtype)
        asked = asking(setting, groups.groups, self.uses_ranking)
        return grouped_cost(groups, setting, one, asked, recover_sample(setting, len(first)))

    def uniform_iterations(self, num_classes: int) -> int:
        """What they would take if all took part all the time: U = IPC MI a class."""
        return num_classes * self.images_per_class * self.iterations

    def crop_scale(self, step: int, length: int) -> float:
        """The least part of an image's area that a crop takes at a step of a schedule of some length."""
        if self.crop == "curriculum":
            return curriculum(self.min_crop_scale, step, self.crop_milestone * length)
        return self.min_crop_scale if self.crop == "random" else 1.0


def cosine_lr(first: float, step: int, length: int) -> float:
    """The step size lr(t) = lr_0 (1 + cos(pi t / MI)) / 2 of the whole family, without warm-up.

    Args:
        first: lr_0.
        step: t, from 0.
        length: MI.
    """
    return first * (1 + math.cos(math.pi * step / length)) / 2


def curriculum(smallest: float, step: int, milestone: float) -> float:
    """CDA's curriculum in its cosine form: s(t) = s_min + (1 - s_min) (1 + cos(pi t / T)) / 2, and s_min after T.

    Args:
        smallest: s_min, the least part of an image that a crop takes in the end; at first it takes all.
        step: t, from 0.
        milestone: T = m MI.
    """
    return smallest + (1 - smallest) * (1 + math.cos(math.pi * min(step / milestone, 1.0))) / 2


def jitter(pixels: int | None, shape: tuple[int, int, int]) -> int:
    """The largest circular shift: what the config says, or the papers' 32 pixels, 4 where no side exceeds 64."""
    return pixels if pixels is not None else 32 if max(shape[1:]) > 64 else 4


def require_constants(start: Start) -> None:
    """Raise a ConfigError where a stage is to learn on the images of earlier ones: here these never change."""
    if start.frozen_lr_scale > 0:
        raise ConfigError(
            "stages.frozen_lr_scale",
            f"is {start.frozen_lr_scale}, but what is distilled from a teacher leaves earlier stages' images as they "
            "are: set it to 0",
        )


def pixel_range(task: Task) -> tuple[Tensor, Tensor]:
    """Black and white in network space, two of float32 [C, 1, 1].

    Raises:
        ConfigError: pixels have no range of their own there.
    """
    preprocessing = task.data.preprocessing
    if preprocessing.name == "zca":
        raise ConfigError("data.preprocess", "whitened images have no pixels to crop; set it to standardise or none")
    black, white = preprocessing.forward(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, task.data.shape[0], 1, 1))
    return black, white


def accounts(done: int, uniform: int) -> dict[str, Any]:
    """What a set's card says of the work: image-iterations done, those of as many images from the beginning, saving."""
    return {
        "image_iterations": done,
        "uniform_iterations": uniform,
        "saving": saving(done, uniform),
    }


def exact_set(task: Task, start: Start, images_MCHW: Tensor, labels_M: Tensor, card: Mapping[str, Any]) -> SyntheticSet:
    """A set of one stage with hard labels whose images are whole pixels, so that files in a common format lose nothing.

    (The papers' code truncates and writes JPEG; here pixels are rounded.)
    """
    preprocessing = task.data.preprocessing
    pixels = preprocessing.inverse(images_MCHW.detach().float().cpu()).mul(255).round().clamp(0, 255).to(torch.uint8)
    return SyntheticSet(
        images=preprocessing.forward(pixels),
        labels=labels_M.cpu(),
        stage=torch.full((len(labels_M),), start.stage, dtype=torch.int32),
        learned_lr=(None,),
        class_names=task.data.class_names,
        preprocessing=preprocessing,
        card=card,
    )
