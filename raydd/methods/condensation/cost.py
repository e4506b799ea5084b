"""What condensation costs: real and synthetic images are compared class by class, in networks that may learn between.

Letters: M synthetic images, K classes.
"""

from dataclasses import dataclass

import torch

from raydd.data import DataFacts
from raydd.methods.condensation.compared import CONSTANTS_AT_ONCE
from raydd.methods.cost import METRICS_ROW_BYTES, CostSetting, DistillCost, Portion
from raydd.networks.config import NetworkConfig
from raydd.networks.losses import hard_cross_entropy
from raydd.sets.size import held_bytes, stored_bytes
from raydd.training.cost import (
    SAVE_FACTOR,
    Exchange,
    Meter,
    cached_by_shape,
    gradient_messages,
    gradient_step,
    network_size,
    predicting,
    training,
    walked,
)
from raydd.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """What an iteration compares, in one network."""

    rows: int
    """Synthetic images of a class that are compared together, as networks see them."""
    constants: int
    """Times that images of earlier stages that are constants go through the network."""
    between: Recipe | None = None
    """The training of the network between two rounds, where gradients are compared; None where features are."""
    rounds: int = 1
    """Updates of the images with the same network."""
    num_trained: int = 0
    """Images on which it is trained in between."""
    joint: bool = False
    """Whether all classes are compared together, as every worker's work."""


@dataclass(frozen=True, kw_only=True)
class Condensing:
    """What the methods share, in numbers."""

    makes: str
    iterations: int
    num_images: int
    """M, those of earlier stages that are learned on among them."""
    real_batch_size: int
    """Real images of each class that are drawn for a comparison, where there are as many."""
    real_start: bool
    """Whether images start at real ones."""


def condensing_cost(work: Condensing, compared: Comparisons, setting: CostSetting) -> DistillCost:
    """The outer iterations; classes are compared one after the other, with equal numbers of real images."""
    facts, network = setting.facts, setting.network
    learned = held_bytes(facts, work.num_images, soft=False)
    real = min(work.real_batch_size, facts.num_train // facts.num_classes)
    tensors = gradient_step(network, facts, max(real, compared.rows)).tensor_bytes
    vectors = 8 * network_size(network, facts)[0]
    metrics = work.iterations * METRICS_ROW_BYTES
    constants = setting.frozen * learned // work.num_images
    resident = vectors + 2 * tensors
    return DistillCost(
        makes=work.makes,
        units=work.iterations,
        portions=_portions(work, compared, setting, facts.num_classes * real),
        disk_bytes=_stored_bytes(work, setting) + metrics,
        checkpoint_bytes=2 * learned + metrics,
        tensor_bytes=5 * learned + resident + constants,
        memory_bytes=2 * setting.data_bytes + SAVE_FACTOR * 2 * learned + resident + 2 * constants,
    )


def _portions(work: Condensing, compared: Comparisons, setting: CostSetting, num_real: int) -> tuple[Portion, ...]:
    """The training of networks between rounds, whose batches are shared; and the comparisons, whose classes are."""
    facts, network = setting.facts, setting.network
    images = Exchange(compared.rounds, ((1, held_bytes(facts, work.num_images, soft=False)),))
    classes = 1 if compared.joint else facts.num_classes
    flops = work.iterations * _compared_flops(work, compared, setting, num_real)
    recipe, seen, times = compared.between, compared.num_trained, compared.rounds - 1
    if recipe is None:
        return (Portion(flops=flops, divided="shared", count=classes, exchanges=(images,)),)
    trained = work.iterations * times * training(network, recipe, facts, seen, 0).flops
    steps = Exchange(times * recipe.steps(seen), gradient_messages(network, facts))
    return (
        Portion(flops=trained, divided="shared", count=min(recipe.batch_size, seen)),
        Portion(flops=flops, divided="shared", count=classes, exchanges=(images, steps)),
    )


def _compared_flops(work: Condensing, compared: Comparisons, setting: CostSetting, num_real: int) -> int:
    """FLOPs of an iteration's comparisons.

    Synthetic images take features, or a gradient, and its derivative by the images; the decoding of mosaics does not
    count. Images of earlier stages go through the network a few at a time, and have gradients by its parameters alone.
    """
    facts, network = setting.facts, setting.network
    if compared.between is None:
        features = predicting(network, facts)
        own = features.flops_of(num_real) + 2 * features.flops_of(compared.rows * facts.num_classes)
        return own + features.flops_of(compared.constants)
    real = gradient_step(network, facts, work.real_batch_size).flops_of(num_real)
    flops = compared.rounds * (real + facts.num_classes * _differentiated(network, facts, compared.rows))
    if not compared.constants:
        return flops
    at_once = min(setting.frozen // facts.num_classes, CONSTANTS_AT_ONCE)
    return flops + gradient_step(network, facts, at_once).flops_of(compared.constants)


@cached_by_shape
def _differentiated(network: NetworkConfig, facts: DataFacts, rows: int) -> int:
    """FLOPs of the gradient by the parameters of so many images' loss, and of its derivative by the images."""
    module, images = walked(network, facts, rows)
    images.requires_grad_()
    labels = torch.zeros(rows, dtype=torch.int64, device=images.device)
    with (meter := Meter()):
        loss, params = hard_cross_entropy(module(images), labels), list(module.parameters())
        gradients = torch.autograd.grad(loss, params, create_graph=True)
        torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in gradients]).sum(), images)
    return meter.cost(rows).flops


def _stored_bytes(work: Condensing, setting: CostSetting) -> int:
    """The starting state, and the stage's result."""
    whitening = setting.whitening_bytes
    start, result = (
        stored_bytes(setting.facts, work.num_images, soft=False, exact=exact, whitening=whitening)
        for exact in (work.real_start, False)
    )
    return start + result
