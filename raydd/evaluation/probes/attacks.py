"""Attacks that tell the images a network was trained on from others, and how well scores tell two groups apart.

Sources: the loss threshold and the advantage of Yeom et al. (CSF 2018, https://arxiv.org/abs/1709.01604), the
likelihood ratio (LiRA) and the true-positive rate at few false positives of Carlini et al. (S&P 2022,
https://arxiv.org/abs/2112.03570). The higher a score, the more likely an image was trained on.

Letters: N images, K classes, S shadow networks, A members, B non-members.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import RunError


def confidence(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """log(p / (1 - p)) of the probability p of each image's class, float64 [N]: LiRA's phi.

    From the logits alone, so that a p of nearly 1 loses no digits; needs two classes.
    """
    logits_NK = logits_NK.double()
    own_N = logits_NK.gather(1, labels_N[:, None])
    others_NK = logits_NK.scatter(1, labels_N[:, None], -torch.inf)
    return own_N.squeeze(1) - others_NK.logsumexp(1)


def loss_threshold(confidence_N: Tensor) -> Tensor:
    """The cross entropy, negated: float64 [N]. It is -log p = log(1 + exp(-phi))."""
    return F.logsigmoid(confidence_N)


@dataclass(frozen=True)
class Ratio:
    """Scores of the likelihood-ratio attack."""

    scores_N: Tensor
    """float64 [N]."""
    online: bool
    """Whether what networks say that were trained on an image was known, for every image."""


def likelihood_ratio(observed_N: Tensor, shadows_SN: Tensor, inside_SN: Tensor) -> Ratio:
    """LiRA: how much likelier an observed confidence is of a network that was trained on the image than of another.

    Confidences of shadow networks are taken as normal, with means of each image and one variance of all images, which
    Carlini et al. prefer to one of each image where shadows are few. Online, the score is the logarithm of the ratio of
    the two densities. Where some image is in no shadow's training set, the attack is offline: its 1 - Pr[Z > phi] of
    the networks without the image alone is ordered as the standardised phi is, which does not round to 1.

    Args:
        observed_N: float64, of the attacked network.
        shadows_SN: float64, of each shadow network.
        inside_SN: bool, whether the shadow was trained on the image.

    Raises:
        RunError: some image is in all training sets, or there are too few shadows to tell a variance.
    """
    inside, outside = _fitted(shadows_SN, inside_SN), _fitted(shadows_SN, ~inside_SN)
    if outside is None:
        raise RunError("too few shadow networks that were not trained on an image: raise evaluate.membership.shadows")
    z_N = (observed_N - outside.mean_N) / outside.deviation
    if inside is None:
        return Ratio(z_N, online=False)
    own_N = (observed_N - inside.mean_N) / inside.deviation
    likelier = math.log(outside.deviation / inside.deviation)
    return Ratio((z_N.square() - own_N.square()) / 2 + likelier, online=True)


@dataclass(frozen=True)
class Separation:
    """How well scores tell members from others; all are fractions."""

    auc: float
    """Probability that a member's score is above a non-member's, where a tie counts half."""
    tpr_at_1_percent: float
    """The most members that are found while at most 1 % of the non-members are taken for members."""
    tpr_at_0_1_percent: float
    """The same at 0.1 %; of fewer than 1,000 non-members, none may be."""
    advantage: float
    """Yeom's: the share of members that are found less that of non-members, at the best of all thresholds."""


def separation(members_A: Tensor, others_B: Tensor) -> Separation:
    """Judge an attack by its scores of members and of non-members."""
    sorted_B = others_B.sort().values
    below = torch.searchsorted(sorted_B, members_A).double()
    up_to = torch.searchsorted(sorted_B, members_A, right=True).double()
    thresholds = torch.cat([members_A, others_B]).unique()
    found, wrong = (_share_from(thresholds, scores) for scores in (members_A, others_B))
    return Separation(
        auc=float((below + up_to).mean()) / (2 * len(others_B)),
        tpr_at_1_percent=true_positives(members_A, others_B, 0.01),
        tpr_at_0_1_percent=true_positives(members_A, others_B, 0.001),
        advantage=max(0.0, float((found - wrong).max())),
    )


def true_positives(members_A: Tensor, others_B: Tensor, false_positives: float) -> float:
    """The share of members above the lowest threshold that no more than this share of the non-members exceeds."""
    allowed = math.floor(false_positives * len(others_B) + 1e-9)
    if allowed >= len(others_B):
        return 1.0
    threshold = others_B.sort(descending=True).values[allowed]
    return float((members_A > threshold).double().mean())


@dataclass(frozen=True)
class _Normal:
    mean_N: Tensor
    deviation: float


def _fitted(shadows_SN: Tensor, chosen_SN: Tensor) -> _Normal | None:
    """The normals of the chosen confidences; None where an image has none, or no image has two."""
    counts_N = chosen_SN.sum(0)
    freedom = int(counts_N.sum()) - len(counts_N)
    if not counts_N.all() or freedom < 1:
        return None
    mean_N = shadows_SN.where(chosen_SN, 0).sum(0) / counts_N
    squares = (shadows_SN - mean_N).square().where(chosen_SN, 0).sum()
    return _Normal(mean_N, max(math.sqrt(float(squares) / freedom), torch.finfo(torch.float64).eps))


def _share_from(thresholds: Tensor, scores: Tensor) -> Tensor:
    """The share of scores at or above each threshold, float64."""
    return 1 - torch.searchsorted(scores.sort().values, thresholds).double() / len(scores)
