"""What feature regression costs: features of the support and of real images, a solve, and a step of one network.

Letters: M synthetic images, n support rows, B real images, F features, K classes.
"""

from dataclasses import dataclass

from raydd.methods.cost import METRICS_ROW_BYTES, CostSetting, DistillCost, Portion
from raydd.sets.size import held_bytes, stored_bytes
from raydd.training.cost import (
    SAVE_FACTOR,
    TENSOR_HEADER_BYTES,
    Exchange,
    gradient_messages,
    gradient_step,
    network_size,
    num_features,
    predicting,
)


@dataclass(frozen=True, kw_only=True)
class Regressing:
    """What an outer iteration does, in numbers."""

    makes: str
    iterations: int
    num_images: int
    """M"""
    copies: int
    """Times that each image is in the support: 2 with its mirror image."""
    real_batch_size: int
    """B"""
    online_batch_size: int
    """Images of a step of a network; all where there are fewer."""
    pool_size: int
    """Networks that are trained, with two moments each."""
    soft: bool
    """Whether labels are learned."""
    real_start: bool
    """Whether images start at real ones."""


def regressing_cost(work: Regressing, setting: CostSetting) -> DistillCost:
    """The outer iterations: all but the solve is shared by rows, which every worker takes."""
    facts, network = setting.facts, setting.network
    learned = held_bytes(facts, work.num_images, work.soft)
    own, rows = work.copies * work.num_images, work.copies * work.num_images + setting.frozen
    online = min(work.online_batch_size, work.num_images + setting.frozen)
    features, vector = num_features(network, facts), 4 * network_size(network, facts)[0]
    seen, step = predicting(network, facts), gradient_step(network, facts, max(own, online))
    shared = seen.flops_of(work.real_batch_size + setting.frozen) + step.flops_of(own + online)
    solve = 2 * rows * rows * features + 2 * rows**3 // 3 + 12 * rows * features * facts.num_classes
    exchanges = (
        Exchange(1, ((1, 8 * rows * features), (1, 8 * features * facts.num_classes), (1, learned))),
        Exchange(1, gradient_messages(network, facts)),
    )
    solved = 8 * (4 * rows * features + 3 * rows * rows)
    networks = 3 * work.pool_size * vector
    metrics = work.iterations * METRICS_ROW_BYTES
    checkpoint = 3 * learned + networks + metrics + 16 * TENSOR_HEADER_BYTES
    resident = 4 * learned + networks + solved + step.tensor_bytes
    earlier = setting.frozen * learned // work.num_images
    return DistillCost(
        makes=work.makes,
        units=work.iterations,
        portions=(
            Portion(
                flops=work.iterations * shared,
                divided="shared",
                count=min(work.num_images, work.real_batch_size),
                exchanges=exchanges,
            ),
            Portion(flops=work.iterations * solve, divided="shared"),
        ),
        disk_bytes=_stored_bytes(work, setting) + metrics,
        checkpoint_bytes=checkpoint,
        tensor_bytes=resident + earlier,
        memory_bytes=2 * setting.data_bytes + SAVE_FACTOR * checkpoint + resident + 2 * earlier + step.memory_bytes,
    )


def _stored_bytes(work: Regressing, setting: CostSetting) -> int:
    """The starting state, and the stage's result."""
    start, result = (
        stored_bytes(setting.facts, work.num_images, soft=work.soft, exact=exact, whitening=setting.whitening_bytes)
        for exact in (work.real_start, False)
    )
    return start + result
