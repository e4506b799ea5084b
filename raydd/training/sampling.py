"""The order in which an epoch goes through its images, and rows that are used more than once.

Letters: N images, K classes that have some.
"""

from typing import Literal

import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.keyed_random import Key

Sampling = Literal["uniform", "class_balanced"]


def epoch_order(key: Key, targets: Tensor, sampling: Sampling, device: torch.device | str | None = None) -> Tensor:
    """The rows of an epoch, int64 [N], the same on every device.

    Args:
        key: of the epoch.
        targets: int64 [N] classes, or [N, K'] logits, whose largest then stands for the class.
        sampling: `uniform` takes every image once. `class_balanced` gives every class N / K places, rounded down or
            up. Its images come in a random order; only when all of them have come do they come again, in another.
        device: where the rows are made.
    """
    if sampling == "uniform":
        return keyed_random.permutation(key, len(targets), device)
    return _balanced(key, (targets if targets.ndim == 1 else targets.argmax(1)).to(device))


def repeated(rows: Tensor, count: int) -> Tensor:
    """The first `count` of some rows, [count]; where there are fewer, from the first on again."""
    return rows[torch.arange(count, device=rows.device) % len(rows)]


def _balanced(key: Key, labels_N: Tensor) -> Tensor:
    num_images, device = len(labels_N), labels_N.device
    labels_K, sizes_K = labels_N.unique(return_counts=True)
    num_classes = len(labels_K)
    places_K = num_images // num_classes + (
        keyed_random.permutation(key.child("larger"), num_classes, device) < num_images % num_classes
    )
    drawn = []
    members = labels_N.argsort(stable=True).split(sizes_K.tolist())
    for label, rows, places in zip(labels_K.tolist(), members, places_K.tolist(), strict=True):
        turns = range(-(-places // len(rows)))
        orders = [keyed_random.permutation(key.child("images", label, turn), len(rows), device) for turn in turns]
        drawn.append(rows[torch.cat(orders)[:places]])
    mixed = keyed_random.permutation(key.child("places"), num_images, device)
    class_at = labels_K.repeat_interleave(places_K)[mixed]
    order = torch.empty_like(class_at)
    order[class_at.argsort(stable=True)] = torch.cat(drawn)
    return order
