"""Which real images a later stage is distilled from: those that the earlier stages' images have not taught yet.

PDD (Chen, Yang, Wang and Mirzasoleiman, ICLR 2024, https://arxiv.org/abs/2310.06982) leaves out what is easy by now.
Three ways to tell, all rules on the whole training split, so that no stage depends on what the one before left out:
bands of forgetting counts and networks of the pool, both as in code that its authors withdrew, and a least count.

Letters: N real images, E networks, P stages, counted from 0.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raydd import networks
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, uniform
from raydd.data.images import SelectedImages
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.ingredients.forgetting import Scores
from raydd.ingredients.setting import Setting
from raydd.storage import content_key
from raydd.training.loop import predict
from raydd.training.recipe import Recipe

Policy = Literal["forgetting_window", "forgetting_min", "ensemble_correct"]


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which real images a stage sees, its trajectories and starting images included."""

    policy: Policy
    """forgetting_window [filter-easy-to-hard]: bands of forgetting counts, from easy to hard, one a stage.
    forgetting_min: all images that were forgotten often enough for the stage. ensemble_correct
    [filter-correct-samples]: not what all networks of the stage's pool classify correctly."""
    window: int = 10
    """[difficulty-interval] w of forgetting_window: stage i sees the counts from i w to (i + 1) w - 1, the last stage
    all from (P - 1) w on, and with them what was never learned."""
    least: tuple[int, ...] = ()
    """Of forgetting_min: the lowest forgetting count in each stage, such as [0, 1, 2]."""
    keep: float = 0.2
    """Of ensemble_correct: the part of the images that all networks know that is kept all the same, at random."""
    drops_unknown: bool = False
    """[filter-correct-samples -both] Of ensemble_correct: leave out what no network knows, too."""
    scoring: Recipe = field(
        default_factory=lambda: Recipe(epochs=200, lr=0.01, momentum=0.9, weight_decay=5e-4, batch_size=256)
    )
    """The training of the run's network whose forgetting is counted; counts go with its epochs, as `window` and `least`
    must."""

    def __post_init__(self) -> None:
        """Refuse what filters nothing or cannot be trained."""
        if self.window < 1:
            raise ConfigError("stages.filter.window", f"must be at least 1, is {self.window}")
        if min(self.least, default=0) < 0:
            raise ConfigError("stages.filter.least", f"counts are 0 or larger, not {min(self.least)}")
        if not 0 <= self.keep <= 1:
            raise ConfigError("stages.filter.keep", f"must be from 0 to 1, is {self.keep}")
        if self.scoring.lr is None:
            raise ConfigError("stages.filter.scoring.lr", "must be given")
        if self.scoring.views is not None:
            raise ConfigError(
                "stages.filter.scoring.views", "the network learns from classes: give it an augmentation instead"
            )

    @property
    def needs_scores(self) -> bool:
        """Whether forgetting is counted first."""
        return self.policy != "ensemble_correct"

    @property
    def needs_pool(self) -> bool:
        """Whether later stages ask the networks of their pool."""
        return self.policy == "ensemble_correct"

    def check(self, num_stages: int) -> None:
        """Compare with the number of stages.

        Raises:
            ConfigError: forgetting_min has not one count for each.
        """
        if self.policy == "forgetting_min" and len(self.least) != num_stages:
            raise ConfigError(
                "stages.filter.least",
                f"forgetting_min takes one count for each stage: {num_stages} (stages.count), not {len(self.least)}",
            )


def window_mask(count_N: Tensor, stage: int, num_stages: int, window: int) -> Tensor:
    """The stage's band of forgetting counts, bool [N]; every image is in the band of exactly one stage."""
    band_N = (count_N // window).clamp(max=num_stages - 1)
    return band_N == stage


def least_mask(count_N: Tensor, least: int) -> Tensor:
    """The images that were forgotten at least so often, bool [N]."""
    return count_N >= least


def ensemble_mask(correct_by_network: Tensor, keep: float, key: Key, drops_unknown: bool) -> Tensor:
    """The images that some network does not know, and a part of the others, bool [N].

    Args:
        correct_by_network: bool [E, N], of at least one network: whether it classifies an image correctly.
        keep: the chance of an image that all know to be kept.
        key: of that draw, one for each row.
        drops_unknown: whether an image that no network knows is left out.
    """
    assert len(correct_by_network) > 0
    known_to_all, known_to_any = correct_by_network.all(0), correct_by_network.any(0)
    spared = uniform(key, torch.arange(len(known_to_all)))[:, 0] < keep
    mask_N = ~known_to_all | spared
    return mask_N & known_to_any if drops_unknown else mask_N


def pool_correct(setting: Setting, pool: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Whether each of E networks classifies each training image correctly, bool [E, N] on the CPU.

    Images are as they are, in the space that the networks were trained in.

    Args:
        setting: what the pool's networks are, the real data, and where to compute.
        pool: E states.

    Raises:
        ArtefactError: a state is not that of such a network.
    """
    data, device = setting.data, setting.device
    with torch.device("meta"):
        module = networks.build(setting.network, data.shape, data.num_classes)
    module.to_empty(device=device)
    images, labels = data.train.images.to(device), data.train.labels
    found = torch.empty(len(pool), len(labels), dtype=torch.bool)
    for correct_N, state in zip(found, pool, strict=True):
        networks.load_state(module, state)
        correct_N.copy_(predict(module, images).argmax(1) == labels)
    return found


def stage_mask(
    config: FilterConfig,
    stage: int,
    num_stages: int,
    scores: Scores | None,
    pool: Sequence[Mapping[str, Tensor]] | None,
    setting: Setting,
    key: Key,
) -> Tensor:
    """The training images that a stage sees, bool [N].

    Args:
        config: the policy.
        stage: its number.
        num_stages: P.
        scores: of the training images, where the policy needs them.
        pool: the networks that the stage begins in, where the policy needs them; the first stage has none.
        setting: what the pool's networks are, the whole real data, and where they are asked.
        key: of the run's random choices.

    Raises:
        ConfigError: the policy asks the networks of a pool, and a later stage has none.
    """
    if config.needs_scores:
        assert scores is not None and len(scores.count) == len(setting.data.train)
        if config.policy == "forgetting_window":
            return window_mask(scores.count, stage, num_stages, config.window)
        return least_mask(scores.count, config.least[stage])
    if stage == 0:
        return torch.ones(len(setting.data.train), dtype=torch.bool)
    if not pool:
        raise ConfigError(
            "stages.filter.policy",
            "ensemble_correct asks the networks of the stage's pool, and there is none: take stages.conditioning "
            "synthetic, or forgetting_window or forgetting_min",
        )
    correct_EN = pool_correct(setting, pool)
    return ensemble_mask(correct_EN, config.keep, key.child("filter", stage), config.drops_unknown)


def restricted(data: PreparedData, mask_N: Tensor, least_per_class: int, stage: int) -> PreparedData:
    """The data with the training images of the mask alone; test and validation images stay.

    The fingerprint becomes another, so that nothing made from the one is taken for the other; where the mask leaves
    nothing out, the data are what they were.

    Args:
        data: the whole real data.
        mask_N: bool [N]
        least_per_class: real images that the stage needs of every class.
        stage: its number, for the message.

    Raises:
        ConfigError: a class keeps fewer.
    """
    if mask_N.all():
        return data
    kept_K = data.train.labels[mask_N].bincount(minlength=data.num_classes)
    least = int(kept_K.argmin())
    if kept_K[least] < least_per_class:
        raise ConfigError(
            "stages.filter",
            f"class {data.class_names[least]} keeps {kept_K[least]} real images in stage {stage}, fewer than the "
            f"{least_per_class} that are distilled from: take another window, a lower least or a larger keep, "
            "fewer stages, or a smaller images_per_class",
        )
    mask_digest = hashlib.sha256(np.packbits(mask_N.numpy()).tobytes()).hexdigest()
    return replace(
        data,
        fingerprint=content_key({"fingerprint": data.fingerprint, "mask": mask_digest}),
        train=LabelledImages(SelectedImages(data.train.images, mask_N.nonzero().squeeze(1)), data.train.labels[mask_N]),
    )
