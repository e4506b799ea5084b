"""What one step of training is on, and the loss of it.

Letters: B batch and b a worker's share of it, K classes, C H W, E networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydd.networks.losses import Loss, hard_cross_entropy, soft_cross_entropy, squared_error


@dataclass(frozen=True)
class Batch:
    """What one step is on; of a pack of networks everything has a first dimension E."""

    images: Tensor
    """[b, C, H, W], augmented."""
    targets: Tensor
    """int64 [b] classes, or [b, K] label logits or regression targets."""
    size: int
    """B, of all workers together where they share the step, and else b."""
    mixed: tuple[()] | tuple[Tensor, Tensor] = ()
    """Where batches are mixed: the targets of the images that boxes are from, and [] the part of the images kept."""

    @classmethod
    def stacked(cls, members: "Sequence[Batch]") -> "Batch":
        """Those of a pack of networks as one; one alone as it is."""
        if len(members) == 1:
            return members[0]
        images, targets, *mixed = (
            torch.stack(parts)
            for parts in zip(*((own.images, own.targets, *own.mixed) for own in members), strict=True)
        )
        return cls(images, targets, members[0].size, (mixed[0], mixed[1]) if mixed else ())


def measure(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    temperature: float,
    others: Tensor | None = None,
    kept: Tensor | float = 1.0,
    *,
    kind: Loss = "cross_entropy",
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, summed over its samples, and how many are classified correctly.

    Args:
        network: one network, or a `Pack` of E.
        images: [B, C, H, W]; for a pack [E, B, C, H, W].
        targets: int64 [B] classes or [B, K] label logits; for a pack [E, B] or [E, B, K].
        temperature: what logits and label logits are divided by; classes have none.
        others: second targets of mixed images, which count for the loss alone.
        kept: the weight of the first, scalar; for a pack [E].
        kind: of the loss; label logits are regression targets where it is squared.

    Returns:
        Two scalars; for a pack two [E].
    """
    logits: Tensor = network(images)
    correct = logits.detach().argmax(-1) == (targets.argmax(-1) if targets.is_floating_point() else targets)
    loss = _loss(logits, targets, temperature, kind)
    if others is not None:
        loss = kept * loss + (1 - kept) * _loss(logits, others, temperature, kind)
    return loss, correct.sum(-1)


def _loss(logits: Tensor, targets: Tensor, temperature: float, kind: Loss) -> Tensor:
    soft = targets.is_floating_point()
    loss: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy if soft else hard_cross_entropy
    if kind == "squared":
        loss = squared_error
    if soft and temperature != 1:
        logits, targets = logits / temperature, targets / temperature
    return (torch.vmap(loss) if logits.ndim == 3 else loss)(logits, targets)
