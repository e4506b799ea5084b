"""What is measured on a trained student.

Letters: N test images, K classes, B bins.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
"""Of the expected calibration error, as in its paper."""


def accuracy_per_class(logits_NK: Tensor, labels_N: Tensor) -> list[float]:
    """For every class the fraction of its images whose largest logit is theirs; K numbers, nan for an absent class."""
    correct = (logits_NK.argmax(1) == labels_N).double()
    count = labels_N.bincount(minlength=logits_NK.shape[1]).double()
    hits = labels_N.bincount(weights=correct, minlength=logits_NK.shape[1])
    return [float(value) for value in hits / count]


def confusion_counts(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """How many images of each class were taken for each: int64 [K, K], a row for every true class."""
    classes = logits_NK.shape[1]
    pairs_N = labels_N * classes + logits_NK.argmax(1)
    return pairs_N.bincount(minlength=classes * classes).view(classes, classes)


def worst_class_accuracy(class_accuracy: Sequence[float]) -> float:
    """The lowest of K accuracies, those of absent classes (nan) left out; nan where all are absent."""
    return min((accuracy for accuracy in class_accuracy if not math.isnan(accuracy)), default=math.nan)


def class_size_accuracy(class_accuracy: Sequence[float], class_sizes: Sequence[int]) -> dict[str, float]:
    """`head_accuracy`, `medium_accuracy` and `tail_accuracy`, where the largest class has twice the smallest or more.

    Each is the mean of its classes' accuracies, those of absent classes (nan) left out; nan where all are absent. The
    K // 3 largest classes are the head, the K // 3 smallest the tail; of equally large ones the lower label is larger.
    Nothing for fewer than three classes.

    Args:
        class_accuracy: of K classes.
        class_sizes: how many training images each has, K numbers.
    """
    third = len(class_sizes) // 3
    if third == 0 or max(class_sizes) < 2 * min(class_sizes):
        return {}
    by_size = sorted(range(len(class_sizes)), key=lambda label: (-class_sizes[label], label))
    groups = {"head": by_size[:third], "medium": by_size[third:-third], "tail": by_size[-third:]}
    return {f"{name}_accuracy": _mean_present([class_accuracy[k] for k in labels]) for name, labels in groups.items()}


def top_accuracy(logits_NK: Tensor, labels_N: Tensor, k: int) -> float:
    """The fraction of images whose class has one of the k largest logits."""
    return float((logits_NK.topk(k).indices == labels_N[:, None]).any(1).double().mean())


def negative_log_likelihood(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Minus the mean log probability of the true class, in nats."""
    return float(F.cross_entropy(logits_NK.double(), labels_N))


def expected_calibration_error(logits_NK: Tensor, labels_N: Tensor, bins: int = BINS) -> float:
    """How far confidence is from accuracy: sum_b (n_b / N) |accuracy_b - confidence_b|, from 0 to 1.

    Bin b of B equally wide ones has the images whose largest probability is in (b / B, (b + 1) / B]
    (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3).
    """
    confidence_N, predicted_N = logits_NK.double().softmax(1).max(1)
    bin_N = (confidence_N * bins).ceil().long().sub(1).clamp(0, bins - 1)
    surplus_N = (predicted_N == labels_N).double() - confidence_N
    gap_B = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_N, surplus_N)
    return float(gap_B.abs().sum()) / len(labels_N)


def beside_accuracy(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """`ece`, `nll`, `worst_class_accuracy` and, of more than ten classes, `top5_accuracy`."""
    measured = {
        "ece": expected_calibration_error(logits_NK, labels_N),
        "nll": negative_log_likelihood(logits_NK, labels_N),
        "worst_class_accuracy": worst_class_accuracy(accuracy_per_class(logits_NK, labels_N)),
    }
    if logits_NK.shape[1] > 10:
        measured["top5_accuracy"] = top_accuracy(logits_NK, labels_N, 5)
    return measured


def _mean_present(accuracies: Sequence[float]) -> float:
    """The mean of those that are not nan; nan where all are."""
    present = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
    return fmean(present) if present else math.nan
