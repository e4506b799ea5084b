"""The work of methods that compare synthetic with real images in fresh networks.

Letters: N real images, M synthetic images, K classes.
"""

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydd import networks
from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.methods import DCConfig, DMConfig, DSAConfig, IDCConfig
from raydd.networks.config import NetworkConfig
from raydd.networks.losses import hard_cross_entropy
from raydd.plan.cost import gradient_step, network_size, predicting, training
from raydd.plan.sizes import METRICS_ROW_BYTES, SAVE_FACTOR, data_bytes, num_synthetic, set_bytes, synthetic_bytes
from raydd.plan.step import Step
from raydd.sets.formation import Formation
from raydd.training.recipe import Recipe

Compares = DCConfig | DSAConfig | DMConfig | IDCConfig


def distill(config: RunConfig, facts: DataFacts) -> Step:
    """The outer iterations; classes are compared one after the other, with equal numbers of real images."""
    method, learned = config.method, set_bytes(config, facts)
    assert isinstance(method, Compares)
    real = min(method.real_batch_size, facts.num_train // facts.num_classes)
    whole = synthetic_bytes(config, facts, exact=method.image_init == "random") + 2 * synthetic_bytes(config, facts)
    tensors = gradient_step(config.network, facts, max(real, num_compared(method))).tensor_bytes
    vectors = 8 * network_size(config.network, facts)[0]
    return Step(
        work="distill",
        makes=f"outer iterations of {method.name} ({num_synthetic(config, facts)} images)",
        units=method.iterations,
        flops=method.iterations * _iteration(config, facts, method, facts.num_classes * real),
        disk_bytes=whole + method.iterations * METRICS_ROW_BYTES,
        working_disk_bytes=2 * (2 * learned + method.iterations * METRICS_ROW_BYTES),
        peak_tensor_bytes=5 * learned + vectors + 2 * tensors,
        peak_memory_bytes=2 * data_bytes(config, facts) + SAVE_FACTOR * 2 * learned + vectors + 2 * tensors,
    )


def num_compared(method: Compares) -> int:
    """Synthetic images of a class that are compared together, as networks see them."""
    if not isinstance(method, IDCConfig):
        return method.images_per_class
    limit = method.decoded_per_class
    formation = Formation(factor=method.factor, mode=method.decode, limit=limit if method.decode == "bound" else None)
    return min(limit, formation.num_decoded(method.images_per_class))


def _iteration(config: RunConfig, facts: DataFacts, method: Compares, num_real: int) -> int:
    """FLOPs of one: all that is done with one network.

    Synthetic images take a gradient and its derivative by the images; the decoding of mosaics does not count.
    """
    rows = num_compared(method)
    num_images = rows * facts.num_classes
    if isinstance(method, DMConfig):
        features = predicting(config.network, facts)
        return features.flops_of(num_real) + 2 * features.flops_of(num_images)
    real = gradient_step(config.network, facts, method.real_batch_size).flops_of(num_real)
    compared = facts.num_classes * _differentiated(config.network, facts, rows)
    rounds, recipe, trained = between(method, facts, num_images)
    return rounds * (real + compared) + (rounds - 1) * training(config.network, recipe, facts, trained, 0).flops


@cache
def _differentiated(network: NetworkConfig, facts: DataFacts, rows: int) -> int:
    """FLOPs of the gradient by the parameters of so many images' loss, and of its derivative by the images."""
    with torch.device("meta"):
        module = networks.build(network, facts.shape, facts.num_classes)
        images, labels = torch.empty(rows, *facts.shape, requires_grad=True), torch.empty(rows, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        logits = module(images.clone())  # as the counter's hooks take no leaves
        loss, params = hard_cross_entropy(logits, labels), list(module.parameters())
        gradients = torch.autograd.grad(loss, params, create_graph=True)
        torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in gradients]).sum(), images)
    return int(counter.get_total_flops())


def between(method: DCConfig | DSAConfig | IDCConfig, facts: DataFacts, num_images: int) -> tuple[int, Recipe, int]:
    """How often images are compared in one network, how it is trained in between, and on how many images."""
    if isinstance(method, IDCConfig):
        return method.inner_loops, method.recipe, min(method.num_real, facts.num_train)
    rounds, epochs = method.loops
    return rounds, Recipe(epochs=epochs, batch_size=method.network_batch_size), num_images
