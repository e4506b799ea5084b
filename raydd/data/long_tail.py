"""Long tails: training sets whose classes become exponentially smaller, cut out of balanced ones.

The counts are those of Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555), and the draw is that of the code that
was published with the first distillation of long-tailed sets (https://arxiv.org/abs/2408.14506), so that from files in
the published order CIFAR-10-LT has the same images.

Letters: N images, K classes.
"""

import math

import numpy as np
import torch
from torch import Tensor

from raydd.core.errors import DataError

SEED = 42
"""Of the published draw, which is made anew for every class."""


def long_tail_counts(num_classes: int, largest: int, imbalance_factor: float) -> list[int]:
    """Images of each class in the order of the labels: n_c = floor(n_0 IF^(-c / (K - 1))), K numbers.

    What falls short of a whole number by rounding alone is that number: the last class has n_0 / IF.

    Args:
        num_classes: K.
        largest: n_0, of class 0.
        imbalance_factor: IF, at least 1.
    """
    last = max(num_classes - 1, 1)
    exact = (largest * imbalance_factor ** (-label / last) for label in range(num_classes))
    return [math.floor(count * (1 + 1e-12)) for count in exact]


def long_tail_rows(labels_N: Tensor, imbalance_factor: float) -> Tensor:
    """Rows of a long tail that begins with as many images as the largest class has: int64, ascending.

    Of a class's images, in their order, those that numpy's RandomState(42).choice takes without replacement.

    Raises:
        DataError: a class has fewer images than it is to keep, or would keep none.
    """
    members = [(labels_N == label).nonzero().flatten() for label in range(int(labels_N.max()) + 1)]
    sizes = [len(rows) for rows in members]
    counts = long_tail_counts(len(members), max(sizes), imbalance_factor)
    kept = []
    for label, (rows, count) in enumerate(zip(members, counts, strict=True)):
        if count > len(rows):
            raise DataError(
                f"data.imbalance_factor {imbalance_factor:g}: class {label} is to keep {count} images, but has only "
                f"{len(rows)}; classes are of equal size first with a data.train_limit_per_class of {min(sizes)}"
            )
        if count == 0:
            raise DataError(
                f"data.imbalance_factor {imbalance_factor:g}: class {label} would keep none of its {len(rows)} images; "
                f"take {max(sizes)} or less"
            )
        drawn = np.random.RandomState(SEED).choice(len(rows), count, replace=False)
        kept.append(rows[torch.from_numpy(drawn)])
    return torch.cat(kept).sort().values
