"""The losses that networks are trained by: cross entropy and squared errors, against classes and against soft labels.

Distillation differentiates them twice.

Letters: B batch, K classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["cross_entropy", "squared"]
LabelKind = Literal["logits", "regression"]
"""What the numbers [K] of a soft label are: logits, whose softmax is learned, or what a network's outputs should be."""


def soft_cross_entropy(logits_BK: Tensor, label_logits_BK: Tensor) -> Tensor:
    """Cross entropy against `softmax(label_logits)`, both at temperature 1, summed over the batch (DATM)."""
    return -(label_logits_BK.softmax(1) * logits_BK.log_softmax(1)).sum()


def hard_cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross entropy against class indices, summed over the batch (MTT)."""
    return F.cross_entropy(logits_BK, labels_B, reduction="sum")


def squared_error(outputs_BK: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to regression targets [B, K], or to centred classes int64 [B], summed (FRePo)."""
    if not targets.is_floating_point():
        targets = centred(targets, outputs_BK.shape[1], outputs_BK.dtype)
    return (outputs_BK - targets).square().sum() / 2


def centred(labels_B: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Classes as regression targets [B, K]: one-hot vectors less 1/K (KIP, FRePo)."""
    classes_K = torch.arange(num_classes, device=labels_B.device)
    return (labels_B.unsqueeze(1) == classes_K).to(dtype) - 1 / num_classes
