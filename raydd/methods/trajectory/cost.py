"""What trajectory matching costs: T inner steps and their adjoint, and the experts' logits where labels are learned.

Letters: M synthetic images, F of earlier stages, B batch, P parameters, T inner steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from raydd import networks
from raydd.adjoint.convnet import ConvNetSteps
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerLoop, InnerStep, adjoint, unroll
from raydd.data import DataFacts
from raydd.methods.cost import METRICS_ROW_BYTES, CostSetting, DistillCost, Portion
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.sets.size import held_bytes, stored_bytes
from raydd.training.cost import (
    SAVE_FACTOR,
    TENSOR_HEADER_BYTES,
    Cost,
    Exchange,
    Meter,
    WorkSample,
    cached_by_shape,
    gradient_step,
    network_size,
    predicting,
    walked,
)
from raydd.training.stand_in import network_on, random_images, some_labels


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What an outer iteration of trajectory matching does, in numbers."""

    makes: str
    iterations: int
    num_images: int
    """M, those of earlier stages that are learned on among them."""
    batch_size: int
    """B"""
    batches: Sequence[int]
    """Images of each of the T inner steps, B or fewer."""
    differentiated: int
    """The last so many of them have an adjoint."""
    curvature: bool
    """Whether that has the curvature of each step."""
    soft: bool
    """Whether labels are logits."""
    average: bool
    """Whether there is a second set, of averages."""
    tried: int = 0
    """Times that the inner steps are taken, at most, to find their step size."""


def matching_cost(work: Matching, setting: CostSetting) -> DistillCost:
    """The outer iterations and, where labels are learned, the experts' logits that those start from."""
    facts, network = setting.facts, setting.network
    learned = held_bytes(facts, work.num_images, work.soft)
    rows = math.ceil(work.batch_size / setting.workers)
    if setting.rows_at_once is not None:
        rows = min(rows, setting.rows_at_once)
    step = matching_step(network, facts, rows, work.soft, work.curvature)
    start, vector = predicting(network, facts), 4 * network_size(network, facts)[0]
    resident = _resident_bytes(work, setting, rows, learned)
    checkpoint = checkpoint_bytes(learned, work.soft, work.average, work.iterations)
    images, passed = sum(work.batches), sum(work.batches[len(work.batches) - work.differentiated :])
    iteration = step.flops_of(passed) + gradient_step(network, facts, rows).flops_of(images - passed)
    tried = Portion(flops=work.tried * gradient_step(network, facts, rows).flops_of(images), divided="alone")
    memory = max(resident + step.memory_bytes, work.soft * (vector + start.memory_bytes), SAVE_FACTOR * checkpoint)
    exchanges = (
        Exchange(len(work.batches), ((1, vector),)),
        Exchange(work.differentiated, ((1, vector * work.curvature),)),
        Exchange(1, ((1, learned),)),
    )
    labels = Portion(flops=work.soft * start.flops_of(setting.num_experts * work.num_images), divided="alone")
    matched = Portion(flops=work.iterations * iteration, divided="shared", count=work.batch_size, exchanges=exchanges)
    return DistillCost(
        makes=work.makes,
        units=work.iterations,
        portions=(labels, *[tried] * bool(work.tried), matched),
        disk_bytes=_stored_bytes(work, setting) + work.iterations * METRICS_ROW_BYTES,
        checkpoint_bytes=checkpoint,
        tensor_bytes=max(resident + step.tensor_bytes, work.soft * (vector + start.tensor_bytes), 8 * learned),
        memory_bytes=setting.data_bytes + memory,
        sample=_sample(work, setting),
    )


def checkpoint_bytes(learned: int, soft: bool, average: bool, iterations: int) -> int:
    """The last checkpoint of distilling: what is learned, its momenta and average, now and when last good; metrics.

    Args:
        learned: bytes of images and labels in memory.
        soft: whether labels are logits.
        average: whether the images are averaged.
        iterations: in all.
    """
    tensors = 4 * (2 + soft) + 2 * average
    state = 4 * (learned + 4) + 2 * average * learned
    return state + tensors * TENSOR_HEADER_BYTES + iterations * METRICS_ROW_BYTES


@cached_by_shape
def matching_step(network: NetworkConfig, facts: DataFacts, rows: int, soft: bool, curvature: bool = True) -> Cost:
    """One inner step and its adjoint, as trajectory matching takes them, for so many images."""
    module, images = walked(network, facts, rows)
    flat = FlatNetwork(module)
    with images.device:
        index = torch.zeros(rows, dtype=torch.int64)
        labels = torch.zeros(rows, facts.num_classes) if soft else index
        theta, lr = torch.zeros(flat.size), torch.zeros(())
    steps = DifferentiatedSteps(flat, soft_cross_entropy if soft else hard_cross_entropy)
    loop = InnerLoop(steps, [InnerStep(index, rows, lambda images_BCHW: images_BCHW)], curvature=curvature)
    with (meter := Meter()):
        adjoint(loop, unroll(loop, theta, lr, images, labels), lr, images, labels, theta)
    return meter.cost(rows)


@cached_by_shape
def kept_bytes(network: NetworkConfig, facts: DataFacts, rows: int) -> int:
    """What a compiled inner step on so many images keeps for the way back."""
    with torch.device("meta"):
        flat = FlatNetwork(networks.build(network, facts.shape, facts.num_classes))
    equations = ConvNetSteps.of(flat, network, facts.shape)
    return 4 * rows * equations.kept_values if equations else 0


def _resident_bytes(work: Matching, setting: CostSetting, rows: int, learned: int) -> int:
    """Sets, parameters after each step, and what compiled steps keep."""
    facts, network = setting.facts, setting.network
    steps = min(setting.kept_steps, work.differentiated)
    kept = steps * kept_bytes(network, facts, rows) if steps else 0
    constants = setting.frozen * learned // work.num_images
    vectors = (len(work.batches) + 1) * 4 * network_size(network, facts)[0]
    return kept + constants + (5 + 2 * work.average) * learned + vectors


def _stored_bytes(work: Matching, setting: CostSetting) -> int:
    """The starting state, real images; the stage's result, with its average."""
    exact, result = (
        stored_bytes(setting.facts, work.num_images, soft=work.soft, exact=exact, whitening=setting.whitening_bytes)
        for exact in (True, False)
    )
    return exact + (1 + work.average) * result


def _sample(work: Matching, setting: CostSetting) -> WorkSample:
    """One inner step and its adjoint."""
    facts, network, soft = setting.facts, setting.network, work.soft

    def make(rows: int, device: torch.device) -> Callable[[], object]:
        flat = FlatNetwork(network_on(network, facts, device))
        steps = DifferentiatedSteps(flat, soft_cross_entropy if soft else hard_cross_entropy)
        images, labels = random_images(facts, rows, device), some_labels(facts, rows, device)
        labels = F.one_hot(labels, facts.num_classes).float() if soft else labels
        index = torch.arange(rows, device=device)
        loop = InnerLoop(steps, [InnerStep(index, rows, lambda images_BCHW: images_BCHW)], curvature=work.curvature)
        theta, lr = flat.flat(), torch.tensor(0.01, device=device)
        return lambda: adjoint(loop, unroll(loop, theta, lr, images, labels), lr, images, labels, theta)

    return WorkSample(
        make=make,
        most=work.batch_size,
        flops=lambda rows: matching_step(network, facts, rows, soft, work.curvature).flops,
    )
