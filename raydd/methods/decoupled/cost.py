"""What distilling a teacher costs: independent class groups, optimised or chosen, and their union.

Letters: M synthetic images, G class groups, B images of all groups in a pack, K classes, D values of an image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

from raydd.data import DataFacts
from raydd.methods.cost import METRICS_ROW_BYTES, CostSetting, DistillCost, Portion
from raydd.methods.decoupled.moments import bn_loss, measuring
from raydd.networks.config import NetworkConfig
from raydd.sets.size import header_bytes, held_bytes, stored_bytes
from raydd.training.cost import (
    SAVE_FACTOR,
    Cost,
    Meter,
    WorkSample,
    cached_by_shape,
    predicting,
    shown,
    state_size,
    walked,
)
from raydd.training.stand_in import network_on, random_images, some_labels

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
GATHER_FACTOR: Final = 8
"""Copies of the whole set, float32, that are held at once when its class groups are put together (measured 7.9)."""


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """The class groups of a method, in numbers."""

    makes: str
    iterations: int
    """Of each group; 0 where nothing is optimised."""
    num_images: int
    """M"""
    groups: int
    """G"""
    group_images: int
    """Images of the largest group."""
    group_classes: int
    """Classes there."""


def pack_images(work: Grouped, setting: CostSetting) -> int:
    """B: images of the groups that are side by side in one process."""
    return min(setting.groups_at_once, work.groups) * work.group_images


def grouped_cost(
    work: Grouped, setting: CostSetting, one: Cost, asked: int, sample: WorkSample | None = None
) -> DistillCost:
    """Class groups, so many side by side, and their union.

    Args:
        work: the groups.
        setting: what they are made in.
        one: of all groups, and the memory of one pack.
        asked: FLOPs of asking the networks of a pool what they know.
        sample: of the work, where it is not predicting.
    """
    facts, whitening = setting.facts, setting.whitening_bytes
    begun = 4 * pack_images(work, setting) * facts.values
    state = 3 * begun if work.iterations else 0
    checkpoint = state + work.iterations * METRICS_ROW_BYTES
    packs = math.ceil(work.groups / min(setting.groups_at_once, work.groups))
    result = stored_bytes(facts, work.num_images, soft=False, exact=True, whitening=whitening)
    seen = predicting(setting.teacher_network, facts).flops_of(setting.frozen)
    held = held_bytes(facts, work.num_images, soft=False)
    memory = max(begun + state + one.memory_bytes, SAVE_FACTOR * checkpoint, GATHER_FACTOR * held)
    return DistillCost(
        makes=work.makes,
        aside=f", {one.images:.4g} image-iterations" * (work.iterations > 0),
        units=work.groups,
        portions=(
            Portion(flops=one.flops + seen + asked, divided="dealt", count=work.groups, at_once=setting.groups_at_once),
        ),
        whole_pixels=True,
        disk_bytes=2 * _groups_bytes(work, setting) + 2 * result + packs * work.iterations * METRICS_ROW_BYTES,
        checkpoint_bytes=checkpoint,
        tensor_bytes=state + max(one.tensor_bytes, state),
        memory_bytes=setting.data_bytes + memory + setting.frozen * held // work.num_images,
        sample=sample,
    )


def recovering(setting: CostSetting, rows: int, images: int, dtype: torch.dtype) -> Cost:
    """All image-iterations, so many images at a time.

    Args:
        setting: what they are made in.
        rows: B.
        images: image-iterations in all.
        dtype: of the teacher's pass.
    """
    network, facts = setting.teacher_network, setting.facts
    one, resident = recover_step(network, facts, rows, setting.groups_at_once, dtype), state_size(network, facts)
    return Cost(images, one.flops_of(images), resident + one.tensor_bytes, resident + one.memory_bytes)


def choosing(setting: CostSetting, candidates: int, crops: int) -> Cost:
    """All crops that the teacher is shown to choose from; those of a class are held at once.

    Args:
        setting: what they are chosen in.
        candidates: real images of each class, where there are as many.
        crops: of each.
    """
    facts = setting.facts
    there = min(candidates, facts.num_train // facts.num_classes)
    one = shown(setting.teacher_network, facts, facts.num_classes * there * crops)
    return Cost(one.images, one.flops, one.tensor_bytes, 4 * there * facts.values + one.memory_bytes)


def asking(setting: CostSetting, groups: int, ranked: bool) -> int:
    """FLOPs of asking the networks of a pool, which are shown all training images once for each pack of class groups.

    So is the teacher where its ranking does not say what it knows.
    """
    if not setting.num_asked:
        return 0
    facts, student = setting.facts, predicting(setting.network, setting.facts)
    known = 0 if ranked else predicting(setting.teacher_network, facts).flops_of(facts.num_train)
    packs = math.ceil(groups / setting.groups_at_once)
    return packs * (setting.num_asked * student.flops_of(facts.num_train) + known)


@cached_by_shape
def recover_step(network: NetworkConfig, facts: DataFacts, rows: int, groups: int, dtype: torch.dtype) -> Cost:
    """Loss and gradient of so many images as `methods.recover` takes them, but for their crops.

    Args:
        network: the teacher's, whose parameters get no gradients.
        facts: the dataset's size.
        rows: B, images of all groups.
        groups: G.
        dtype: of the teacher's pass.
    """
    module, images = walked(network, facts, rows)
    module, images = module.to(dtype).eval().requires_grad_(False), images.to(dtype).requires_grad_()
    with images.device:
        labels, averages_GB = torch.zeros(rows, dtype=torch.int64), torch.zeros(groups, rows, dtype=torch.float64)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    with (meter := Meter()):
        with measuring(norms, averages_GB) as distances:
            logits = module(images)
        ce = averages_GB @ F.cross_entropy(logits.float(), labels, reduction="none").double()
        torch.autograd.grad((ce + bn_loss(distances, 1.0)).sum(), images)
    return meter.cost(rows)


def recover_sample(setting: CostSetting, most: int) -> WorkSample:
    """One update of up to so many images of a class group."""
    facts, network = setting.facts, setting.teacher_network

    def make(rows: int, device: torch.device) -> Callable[[], object]:
        module = network_on(network, facts, device).eval().requires_grad_(False)
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        images, labels = random_images(facts, rows, device).requires_grad_(), some_labels(facts, rows, device)
        averages = torch.full((1, rows), 1 / rows, dtype=torch.float64, device=device)

        def step() -> None:
            with measuring(norms, averages) as distances:
                loss = F.cross_entropy(module(images), labels).double()
            torch.autograd.grad(loss + bn_loss(distances, 1.0).sum(), images)

        return step

    return WorkSample(
        make=make, most=most, flops=lambda rows: recover_step(network, facts, rows, 1, torch.float32).flops
    )


def _groups_bytes(work: Grouped, setting: CostSetting) -> int:
    """The sets of all class groups, each with a preview of its own."""
    facts, classes = setting.facts, work.groups * work.group_classes
    together = stored_bytes(
        facts, work.num_images, soft=False, exact=True, whitening=setting.whitening_bytes, num_classes=classes
    )
    return together + (work.groups - 1) * header_bytes(facts)
