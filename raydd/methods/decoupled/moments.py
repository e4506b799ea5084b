"""How far the inputs of a network's batch norms are from what it saw in training: the BN term of SRe2L and its kin.

Source: SRe2L (Yin, Xing and Shen, https://arxiv.org/abs/2306.13092, equation 8) after DeepInversion (Yin et al., CVPR
2020), in the form of the published code, norms not squared:

    R_l = |running_var_l - var_l| + |running_mean_l - mean_l|,

with the moments over images and pixels of the input of layer l, the variance divided by their number. Several groups
of images go through the network side by side, each with moments of its own. Those may be of its images together with
others that are constants: with n_f of these and n of those m = (n_f m_f + n m_n) / (n_f + n) for the mean and for the
mean square, and so the constants are computed once. Groups may be compared with targets of
their own in the place of the running statistics.

Letters: P groups, N images, M images that are constants, L layers, C channels, H W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydd.networks.layer_inputs import told_of_inputs

Target = tuple[Tensor, Tensor]
"""What mean and variance are to be, float64 [C], or [P, C] where every group has its own."""


def averages(groups_N: Tensor, num_groups: int) -> Tensor:
    """The matrix [P, N], float64, that takes values of N images to their means over each group.

    Args:
        groups_N: int64 [N], the group of each image; every group has some.
        num_groups: P.
    """
    members_PN = F.one_hot(groups_N, num_groups).T.double()
    return members_PN / members_PN.sum(1, keepdim=True)


@dataclass(frozen=True)
class FrozenMoments:
    """What images that are constants have to do with the moments of every group."""

    count_P: Tensor
    """float64 [P]: how many there are; 0 leaves a group's moments those of its own images."""
    sums: Sequence[Tensor]
    """Of each layer, float64 [2, P, C]: the sums over images of its input's mean over pixels, and mean square."""

    @classmethod
    def of(
        cls, module: nn.Module, norms: Sequence[nn.BatchNorm2d], batches: Iterable[Tensor], members_PM: Tensor
    ) -> "FrozenMoments":
        """Show images to a network in evaluation mode, without a graph.

        Args:
            module: the network.
            norms: those of its layers that are measured, in the order in which `measuring` has them.
            batches: of M images [.., C, H, W] in all.
            members_PM: float64 [P, M], 1 where an image is of a group, else 0.
        """
        found: list[list[Tensor]] = [[] for _ in norms]

        def look(layer: int, inputs_NCHW: Tensor) -> None:
            x = _wide(inputs_NCHW)
            found[layer].append(torch.stack([x.mean((2, 3)), x.square().mean((2, 3))]).double())

        with torch.no_grad(), told_of_inputs(dict(enumerate(norms)), look):
            for batch in batches:
                module(batch)
        return cls(members_PM.sum(1), [members_PM @ torch.cat(parts, 1) for parts in found])

    def beside(self, averages_PN: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Moments of these images and of N others together.

        Args:
            averages_PN: of the others; see `averages`.

        Returns:
            What takes values of the others to their part of the means over all, [P, N], and of each layer the part of
            these images in its mean and in its mean square, [2, P, C].
        """
        others_P = (averages_PN > 0).sum(1)
        all_P1 = (others_P + self.count_P)[:, None]
        return averages_PN * (others_P[:, None] / all_P1), [sums / all_P1 for sums in self.sums]


def measured_norm(
    x_NCHW: Tensor,
    norm: nn.BatchNorm2d,
    averages_PN: Tensor,
    constants: Tensor | None = None,
    targets: Target | None = None,
) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation mode makes of its input, and R_l of every group; differentiable once, in x.

    Means over pixels are taken in float32 at least, what is left in float64.

    Args:
        x_NCHW: the input, of any float type and memory format.
        norm: the layer, which is frozen.
        averages_PN: see `averages`; what is not of x counts as 0.
        constants: float64 [2, P, C], what other images add to mean and mean square; nothing by default.
        targets: what moments are compared with; the running statistics by default.

    Returns:
        The output [N, C, H, W], of the type of the input, and float64 [P].
    """
    assert norm.running_mean is not None and norm.running_var is not None
    mean_C, var_C = norm.running_mean.double(), norm.running_var.double()
    scale_C, shift_C = norm.weight.double() / (var_C + norm.eps).sqrt(), norm.bias.double()
    wanted = (mean_C, var_C) if targets is None else targets
    y_NCHW, distance_P = _MeasuredNorm.apply(
        x_NCHW, scale_C, shift_C - mean_C * scale_C, *wanted, averages_PN, constants
    )
    return y_NCHW, distance_P


@contextmanager
def measuring(
    norms: Sequence[nn.BatchNorm2d],
    averages_PN: Tensor,
    frozen: FrozenMoments | None = None,
    targets: Sequence[Target] | None = None,
) -> Iterator[Mapping[int, Tensor]]:
    """While this is open a forward pass through these layers leaves here R_l [P] under the number of each.

    With frozen images R_l is of the moments of these and of those that pass, together; with targets of each layer it is
    the distance from these.
    """
    found: dict[int, Tensor] = {}
    constants_L: Sequence[Tensor | None] = [None] * len(norms)
    targets_L: Sequence[Target | None] = [None] * len(norms) if targets is None else targets
    if frozen is not None:
        averages_PN, constants_L = frozen.beside(averages_PN)

    def forward(layer: int, x_NCHW: Tensor) -> Tensor:
        y_NCHW, found[layer] = measured_norm(x_NCHW, norms[layer], averages_PN, constants_L[layer], targets_L[layer])
        return y_NCHW

    for layer, norm in enumerate(norms):
        norm.forward = partial(forward, layer)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for norm in norms:
            del norm.forward


def bn_loss(distances: Mapping[int, Tensor], first_weight: float) -> Tensor:
    """R = first_weight R_0 + the sum of all other R_l, [P]."""
    distances_LP = torch.stack([distances[layer] for layer in range(len(distances))])
    return first_weight * distances_LP[0] + distances_LP[1:].sum(0)


class _MeasuredNorm(torch.autograd.Function):
    """The way back of layer and distance together is two products, for which torch takes four passes, one slow."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NCHW: Tensor,
        scale_C: Tensor,
        shift_C: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        averages_PN: Tensor,
        constants: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        x = _wide(x_NCHW)
        mean_PC = averages_PN @ x.mean((2, 3)).double()
        square_PC = averages_PN @ x.square().mean((2, 3)).double()
        if constants is not None:
            mean_PC, square_PC = mean_PC + constants[0], square_PC + constants[1]
        var_PC = square_PC - mean_PC.square()
        by_mean, by_var = mean_PC - mean_C, var_PC - var_C
        far_mean, far_var = by_mean.norm(dim=1, keepdim=True), by_var.norm(dim=1, keepdim=True)
        tiny = torch.finfo(torch.float64).tiny
        by_mean, by_var = by_mean / far_mean.clamp(tiny), by_var / far_var.clamp(tiny)
        ctx.save_for_backward(x_NCHW, scale_C, averages_PN, mean_PC, by_mean, by_var)
        return torch.addcmul(_as(x, shift_C), x, _as(x, scale_C)).to(x_NCHW.dtype), (far_mean + far_var).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_NCHW, scale_C, averages_PN, mean_PC, by_mean, by_var = ctx.saved_tensors
        by_y, by_distance = gradients
        share_NP = averages_PN.T * by_distance / x_NCHW.shape[2:].numel()
        factor_NC, offset_NC = share_NP @ (2 * by_var), share_NP @ (by_mean - 2 * by_var * mean_PC)
        x = _wide(x_NCHW)
        by_x = torch.addcmul(_as(x, offset_NC), x, _as(x, factor_NC)).addcmul_(_wide(by_y), _as(x, scale_C))
        return by_x.to(x_NCHW.dtype), None, None, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _as(x_NCHW: Tensor, values: Tensor) -> Tensor:
    """Values [C] or [N, C] in the type of images, ready to broadcast."""
    return values.to(x_NCHW.dtype)[..., None, None]
