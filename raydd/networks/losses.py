"""The losses that distillation differentiates twice: cross entropy against soft labels and against classes.

Letters: B batch, K classes.
"""

from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(logits_BK: Tensor, label_logits_BK: Tensor) -> Tensor:
    """Cross entropy against `softmax(label_logits)`, both at temperature 1, summed over the batch (DATM)."""
    return -(label_logits_BK.softmax(1) * logits_BK.log_softmax(1)).sum()


def hard_cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross entropy against class indices, summed over the batch (MTT)."""
    return F.cross_entropy(logits_BK, labels_B, reduction="sum")
