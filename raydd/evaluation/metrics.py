"""What is measured on a trained student.

Letters: N test images, K classes.
"""

from torch import Tensor


def accuracy_per_class(logits_NK: Tensor, labels_N: Tensor) -> list[float]:
    """For every class the fraction of its images whose largest logit is theirs; K numbers, nan for an absent class."""
    correct = (logits_NK.argmax(1) == labels_N).double()
    count = labels_N.bincount(minlength=logits_NK.shape[1]).double()
    hits = labels_N.bincount(weights=correct, minlength=logits_NK.shape[1])
    return [float(value) for value in hits / count]
