"""How diverse the images of a class are in the eyes of a network.

DELT (https://arxiv.org/abs/2411.19946) plots the cosine between an image's features and its class's centroid. For unit
features u_i of n images and their mean c, both of the numbers here follow from c alone:

    mean_i cos(u_i, c) = |c|,    mean_{i != j} cos(u_i, u_j) = (n |c|^2 - 1) / (n - 1).

The paper says neither which layer nor whether features are normalised before averaging: here they are the network's
penultimate ones, and they are.

The Vendi score (Friedman and Dieng 2023, https://arxiv.org/abs/2210.02410) is, of the same cosines, an effective number
of images: exp(-sum_i v_i log v_i) of the eigenvalues v of the n x n matrix of cosines, divided by n.

Letters: N images of one class, M images, F features.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def centroid_similarity(features_NF: Tensor) -> float:
    """The mean cosine between the features of an image and the centroid of all, in 0..1; needs one image."""
    return float(_centroid(features_NF).norm())


def pairwise_similarity(features_NF: Tensor) -> float:
    """The mean cosine between the features of two different images, in -1..1; nan for fewer than two."""
    size = len(features_NF)
    if size < 2:
        return math.nan
    return (size * float(_centroid(features_NF).square().sum()) - 1) / (size - 1)


def vendi_score(features_NF: Tensor) -> float:
    """How many images there are in effect: 1 where all are alike, N where the features of any two are orthogonal.

    The eigenvalues of U U^T / N of the unit features U are those of U^T U / N, and the smaller matrix is looked at.
    """
    units = _units(features_NF)
    size, dimension = units.shape
    gram = units @ units.T if size <= dimension else units.T @ units
    values = torch.linalg.eigvalsh(gram / size).clamp(min=0)
    return math.exp(-float(torch.xlogy(values, values).sum()))


def per_class(features_MF: Tensor, classes_M: Tensor) -> dict[int, dict[str, float]]:
    """`centroid_similarity`, `pairwise_similarity` and `vendi_score` of every class that has images, by its label."""
    measures = {
        "centroid_similarity": centroid_similarity,
        "pairwise_similarity": pairwise_similarity,
        "vendi_score": vendi_score,
    }
    parts = {label: features_MF[classes_M == label] for label in classes_M.unique().tolist()}
    return {label: {name: measure(own) for name, measure in measures.items()} for label, own in parts.items()}


def _units(features_NF: Tensor) -> Tensor:
    """Features of length 1, float64 [N, F]."""
    return F.normalize(features_NF.double(), dim=1)


def _centroid(features_NF: Tensor) -> Tensor:
    """The mean of the unit features, float64 [F]."""
    return _units(features_NF).mean(0)
