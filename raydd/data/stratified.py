"""Drawing the same share of every class.

Letters: N images, K classes.
"""

import torch
from torch import Tensor

from raydd.core.keyed_random import Key, permutation


def drawn(labels_N: Tensor, num_classes: int, fraction: float, key: Key, purpose: str) -> Tensor:
    """Which images are drawn, bool [N]: `drawn_of` each class's number, at random.

    Class k's draw is a permutation under `key.child(purpose, k)`.

    Args:
        labels_N: the labels; every class has at least 2 images.
        num_classes: K.
        fraction: the share, above 0 and below 1.
        key: what the draw's key is below.
        purpose: what they are drawn for.
    """
    is_drawn = torch.zeros(len(labels_N), dtype=torch.bool)
    counts = labels_N.bincount(minlength=num_classes).tolist()
    for label, rows in enumerate(labels_N.argsort(stable=True).split(counts)):
        is_drawn[rows[permutation(key.child(purpose, label), len(rows))[: drawn_of(len(rows), fraction)]]] = True
    return is_drawn


def drawn_of(count: int, fraction: float) -> int:
    """How many of a class's images: `fraction * count`, halves up, but at least 1 and at most all but one."""
    return min(max(int(fraction * count + 0.5), 1), count - 1)
