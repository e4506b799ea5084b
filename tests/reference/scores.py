"""Scores of students and of training sets written down naively, in float64: one image, one bin, one group at a time.

Sources: Guo et al. (ICML 2017) for the calibration error; DD-Ranking (2025) for the scores of sets. Nothing of the
product is imported.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance

import numpy as np
from numpy.typing import NDArray


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, by exponentials."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def calibration_error(logits: NDArray[np.float64], labels: Sequence[int], bins: int = 15) -> float:
    """The gap between accuracy and confidence in each bin, weighed by the images in it."""
    rows, total = probabilities(logits), 0.0
    for number in range(bins):
        inside = [n for n, row in enumerate(rows) if number / bins < row.max() <= (number + 1) / bins]
        if inside:
            accuracy = fmean(float(rows[n].argmax() == labels[n]) for n in inside)
            confidence = fmean(float(rows[n].max()) for n in inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


def score(advantage: float) -> float:
    """DD-Ranking's scale."""
    return (math.e**advantage - math.e**-1) / (math.e - math.e**-1)


def squared_error(observations: Sequence[float]) -> float:
    """Of their mean."""
    return variance(observations) / len(observations)
