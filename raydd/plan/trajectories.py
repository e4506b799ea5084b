"""The work of methods that match expert trajectories.

Letters: M synthetic images, F of earlier stages, B batch, P parameters, T inner steps.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from raydd.config import RunConfig
from raydd.core.keyed_random import Key
from raydd.data import DataFacts
from raydd.methods.trajectory.matching import MatchingConfig, draw_batches, inner_gradient
from raydd.plan.cost import gradient_step, kept_bytes, matching_step, network_size, predicting, training
from raydd.plan.sizes import (
    METRICS_ROW_BYTES,
    SAVE_FACTOR,
    TENSOR_HEADER_BYTES,
    data_bytes,
    num_synthetic,
    set_bytes,
    synthetic_bytes,
    trajectory_bytes,
)
from raydd.plan.step import Step


def checkpoint_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The last checkpoint of distilling: what is learned, its momenta and average, now and when last good; metrics."""
    average = config.method.has_average
    tensors = 4 * (2 + config.method.has_soft_labels) + 2 * average
    state = 4 * (set_bytes(config, facts) + 4) + 2 * average * set_bytes(config, facts)
    return state + tensors * TENSOR_HEADER_BYTES + config.method.iterations * METRICS_ROW_BYTES


def pack_size(config: RunConfig, count: int) -> int:
    """How many networks are trained side by side."""
    return 1 if config.cluster.pack == "auto" else min(config.cluster.pack, count)


def experts(config: RunConfig, facts: DataFacts, num_epochs: int) -> Step:
    """The training, and a test every `test_every` epochs and after the last.

    Args:
        config: the run.
        facts: the dataset's size.
        num_epochs: how many of a trajectory are stored.
    """
    recipe, count = config.experts.training, config.experts.count
    pack = pack_size(config, count)
    tests = math.ceil(recipe.epochs / (config.experts.test_every or recipe.epochs))
    one = training(config.network, recipe, facts, facts.num_train, tests * facts.num_test)
    size, tensors = network_size(config.network, facts)
    snapshot = (2 if recipe.momentum else 1) * (4 * size + tensors * TENSOR_HEADER_BYTES)
    return Step(
        work="experts",
        makes=f"trajectories of {recipe.epochs} epochs ({config.network.label})",
        units=count,
        optimizer_steps=count * recipe.steps(facts.num_train),
        flops=count * one.flops,
        disk_bytes=count * trajectory_bytes(size, num_epochs),
        working_disk_bytes=pack * (recipe.epochs + 1) * snapshot,
        peak_tensor_bytes=pack * one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts) + pack * max(one.memory_bytes, SAVE_FACTOR * snapshot),
    )


def distill(config: RunConfig, facts: DataFacts, frozen: int) -> Step:
    """The outer iterations and, where labels are learned, the experts' logits that those start from.

    Args:
        config: the run.
        facts: the dataset's size.
        frozen: F, which are drawn into batches with the others.
    """
    method, soft = config.method, config.method.has_soft_labels
    assert isinstance(method, MatchingConfig)
    num_images, learned = num_synthetic(config, facts), set_bytes(config, facts)
    constants = frozen * learned // num_images
    batch_size = min(method.synthetic_batch_size or num_images, frozen + num_images)
    batches = draw_batches(Key.root(config.seed), frozen + num_images, batch_size, method.synthetic_steps)
    workers = config.cluster.min_workers or (1 if config.cluster.num_workers == "auto" else config.cluster.num_workers)
    curvature, last_steps = inner_gradient(method.gradient)
    rows = math.ceil(batch_size / workers)
    if config.cluster.rows_at_once != "auto":
        rows = min(rows, config.cluster.rows_at_once)
    step = matching_step(config.network, facts, rows, soft, curvature)
    differentiated = min(last_steps or method.synthetic_steps, method.synthetic_steps)
    vector = 4 * network_size(config.network, facts)[0]
    kept = 0
    if config.cluster.compile != "off":
        kept = min(config.cluster.kept_steps, differentiated) * kept_bytes(config.network, facts, rows)
    resident = kept + constants + (5 + 2 * method.has_average) * learned + (method.synthetic_steps + 1) * vector
    passed, images = _images(batches, differentiated), _images(batches, len(batches))
    flops = step.flops_of(passed)
    flops += gradient_step(config.network, facts, rows).flops_of(images - passed)
    start, checkpoint = predicting(config.network, facts), checkpoint_bytes(config, facts)
    work = max(
        resident + step.memory_bytes,
        soft * (vector + start.memory_bytes),
        SAVE_FACTOR * checkpoint,
    )
    return Step(
        work="distill",
        makes=f"outer iterations of {method.name} ({num_images} images)",
        units=method.iterations,
        flops=method.iterations * flops + soft * start.flops_of(config.experts.count * num_images),
        disk_bytes=_sets_bytes(config, facts) + method.iterations * METRICS_ROW_BYTES,
        working_disk_bytes=2 * checkpoint,
        peak_tensor_bytes=max(resident + step.tensor_bytes, soft * (vector + start.tensor_bytes), 8 * learned),
        peak_memory_bytes=data_bytes(config, facts) + work,
    )


def _sets_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The starting state, real images; the stage's result and the run's, each with its average."""
    results = 2 + 2 * config.method.has_average
    return synthetic_bytes(config, facts, exact=True) + results * synthetic_bytes(config, facts)


def _images(batches: Sequence[Tensor], last: int) -> int:
    """How many images the last so many inner steps take."""
    return sum(map(len, batches[len(batches) - last :]))
