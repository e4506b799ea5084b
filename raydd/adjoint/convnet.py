"""The ConvNet's gradient, and the derivative of that gradient along a direction, written out.

Automatic differentiation passes over memory once for every operation, and again for each of their derivatives; on a CPU
that is most of the time of a small network. Written out, all that lies between two convolutions is two passes, which
`torch.compile` makes one loop each. A block of the network is, for a map h,

    z = w * h,  n = r (z - mean z),  r = (mean (z - mean z)^2 + eps)^-1/2,  q = gamma n + beta,  h' = pool(q [q > 0])

with means over the pixels of one image and channel; the bias of a convolution falls out of n, so that its gradient is
0. With G = [q > 0] unpool(dL/dh') that gives

    dL/dgamma = sum G n,   dL/dbeta = sum G,   dL/dz = gamma r (G - mean G - n pixel_mean(G n)).

A name in `_dot` is the derivative of the name before it along the direction in which the parameters move.

Letters: B batch, C H W, K classes, P flat parameters. Maps are [B, H, W, C] here, so that loops run along channels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.adjoint.maps import (
    Means,
    Statistics,
    channels_first,
    channels_last,
    convolve,
    gradient_by_map,
    gradient_by_weight,
    is_positive,
    norm_statistics,
    normalised,
    normalised_dot,
    pixel_mean,
    pool,
    unpool,
)
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.traits import Shape


class ConvNetParameters(NamedTuple):
    """The flat vector's parts, for maps with channels last."""

    convolutions: list[Tensor]
    gammas: list[Tensor]
    betas: list[Tensor]
    head: Tensor
    head_bias: Tensor


class Kept(NamedTuple):
    """Of one way through the network and back, what takes convolutions to compute again."""

    before: list[Tensor]
    """z of every block."""
    by_maps: list[Tensor]
    """dL/dh above every block but the last."""


class Pass(NamedTuple):
    """One way through the network and back: by block, and what lies above the last."""

    maps: list[Tensor]
    """h of every block, and of the head."""
    before: list[Tensor]
    """z"""
    statistics: list[Statistics]
    logits: Tensor
    by_logits: Tensor
    by_maps: list[Tensor]
    """dL/dh, but for the images: of the block above each z."""
    by_before: list[Tensor]
    """dL/dz"""
    means: list[Means]
    """mean G and pixel_mean(G n)"""


class Derivative(NamedTuple):
    """Of `s = <gradient, direction>`, which the direction leaves alone."""

    value: Tensor
    """s, a scalar."""
    by_params: Tensor
    """[P]; of length 0 where it was not asked for."""
    by_images: Tensor
    """[B, C, H, W]"""
    by_targets: Tensor
    """[B, K]"""


@dataclass(frozen=True)
class ConvNetSteps:
    """A ConvNet with instance norm, ReLU and average pooling on images of one shape, under a weighted cross entropy."""

    network: FlatNetwork
    depth: int
    padding: int
    """Of the first convolution."""
    last_map: tuple[int, int]
    """Height and width of what the head sees."""

    @classmethod
    def of(cls, network: FlatNetwork, config: NetworkConfig, shape: Shape) -> "ConvNetSteps | None":
        """The steps of a network; None where its equations are not the ones here, or a pooling leaves a row over."""
        if not config.is_usual:
            return None
        first: torch.nn.Conv2d = next(m for m in network.module.modules() if isinstance(m, torch.nn.Conv2d))
        padding = int(first.padding[0])
        height, width = (side + 2 * padding - 2 for side in shape[1:])
        shrunk = 2**config.num_blocks
        if height % shrunk or width % shrunk:
            return None
        return cls(network, config.num_blocks, padding, (height // shrunk, width // shrunk))

    @property
    def classes(self) -> int:
        """K."""
        return int(self.network.shapes["head.bias"][0])

    @property
    def kept_values(self) -> int:
        """How many numbers `Kept` holds for each image."""
        features = self.network.shapes["head.weight"][1]
        before = [features * 4**k for k in range(1, self.depth + 1)]
        return int(sum(before) + sum(before[:-1]))

    def gradient(
        self, params_P: Tensor, images_BCHW: Tensor, targets_BK: Tensor, weights_B: Tensor
    ) -> tuple[Tensor, Kept]:
        """The gradient [P] of `-sum_b weight_b sum_k target_bk log softmax(logits)_bk` by the parameters.

        Args:
            params_P: theta.
            images_BCHW: as the network sees them.
            targets_BK: probabilities.
            weights_B: of every image: 1 / batch size, or 0 for a row that only fills the batch.
        """
        params = self._parameters(params_P)
        way = self._pass(params, images_BCHW, targets_BK, weights_B)
        convolutions = [
            gradient_by_weight(way.maps[k], way.by_before[k], params.convolutions[k], self._pad(k))
            for k in range(self.depth)
        ]
        by_head = way.by_logits.T @ way.maps[-1].flatten(1)
        gradient = self._flat(convolutions, way.means, by_head, way.by_logits.sum(0))
        return gradient, Kept(way.before, way.by_maps[:-1])

    def derivative(
        self,
        params_P: Tensor,
        images_BCHW: Tensor,
        targets_BK: Tensor,
        weights_B: Tensor,
        direction_P: Tensor,
        curvature: bool = True,
        kept: Kept | None = None,
    ) -> Derivative:
        """The derivative of that gradient along a direction, and of their product by images and targets.

        Args:
            params_P: theta.
            images_BCHW: as the network sees them.
            targets_BK: probabilities.
            weights_B: of every image.
            direction_P: in which the parameters move.
            curvature: whether the derivative by the parameters is wanted.
            kept: what `gradient` returned for the same arguments, which saves computing it again.
        """
        params, moves = self._parameters(params_P), self._parameters(direction_P)
        way = self._pass(params, images_BCHW, targets_BK, weights_B, kept)
        maps_dot, before_dot, means_dot = self._forward_dot(params, moves, way)
        features, features_dot = way.maps[-1].flatten(1), maps_dot[-1].flatten(1)
        logits_dot = F.linear(features, moves.head, moves.head_bias) + F.linear(features_dot, params.head)
        probabilities, weights = way.logits.softmax(1), weights_B[:, None]
        logits_dot = logits_dot - (probabilities * logits_dot).sum(1, keepdim=True)
        by_logits_dot = weights * probabilities * logits_dot
        by_map_dot = (by_logits_dot @ params.head + way.by_logits @ moves.head).view_as(way.maps[-1])
        convolutions: list[Tensor] = []
        means: list[Means] = []
        for k in reversed(range(self.depth)):
            h, weight, pad = way.maps[k], params.convolutions[k], self._pad(k)
            by_before_dot, mean = _back_dot(way, params, moves, k, before_dot[k], means_dot[k], by_map_dot)
            by_weight = gradient_by_weight(h, by_before_dot, weight, pad)
            if k:
                by_weight = by_weight + gradient_by_weight(maps_dot[k], way.by_before[k], weight, pad)
            convolutions.insert(0, by_weight)
            means.insert(0, mean)
            by_map_dot = gradient_by_map([(by_before_dot, weight), (way.by_before[k], moves.convolutions[k])], h, pad)
        by_params = direction_P.new_zeros(0)
        if curvature:
            by_head = by_logits_dot.T @ features + way.by_logits.T @ features_dot
            by_params = self._flat(convolutions, means, by_head, by_logits_dot.sum(0))
        return Derivative(
            (way.by_logits * logits_dot).sum(), by_params, channels_first(by_map_dot), -weights * logits_dot
        )

    def _pass(
        self,
        params: ConvNetParameters,
        images_BCHW: Tensor,
        targets_BK: Tensor,
        weights_B: Tensor,
        kept: Kept | None = None,
    ) -> Pass:
        maps, before, statistics = [channels_last(images_BCHW).contiguous()], [], []
        for k in range(self.depth):
            z = kept.before[k] if kept else convolve(maps[k], params.convolutions[k], self._pad(k))
            statistics.append(norm_statistics(z))
            n = normalised(z, statistics[k])
            q = params.gammas[k] * n + params.betas[k]
            maps.append(pool(q * is_positive(q)))
            before.append(z)
        logits = F.linear(maps[-1].flatten(1), params.head, params.head_bias)
        by_logits = weights_B[:, None] * (logits.softmax(1) - targets_BK)
        by_map = (by_logits @ params.head).view_as(maps[-1])
        by_maps: list[Tensor] = []
        by_before: list[Tensor] = []
        means: list[Means] = []
        for k in reversed(range(self.depth)):
            n = normalised(before[k], statistics[k])
            g = unpool(by_map) * is_positive(params.gammas[k] * n + params.betas[k])
            mean = Means(pixel_mean(g), pixel_mean(g * n))
            by_z = params.gammas[k] * statistics[k].scale * (g - mean.plain - n * mean.product)
            by_maps.insert(0, by_map)
            by_before.insert(0, by_z)
            means.insert(0, mean)
            if kept and k:
                by_map = kept.by_maps[k - 1]
            elif k:
                by_map = gradient_by_map([(by_z, params.convolutions[k])], maps[k], self._pad(k))
        return Pass(maps, before, statistics, logits, by_logits, by_maps, by_before, means)

    def _forward_dot(
        self, params: ConvNetParameters, moves: ConvNetParameters, way: Pass
    ) -> tuple[list[Tensor], list[Tensor], list[Means]]:
        """Of h (the images stay), z, and mean z with pixel_mean(n z)."""
        maps, before, means = [torch.zeros_like(way.maps[0])], [], []
        for k in range(self.depth):
            z_dot = convolve(way.maps[k], moves.convolutions[k], self._pad(k))
            if k:
                z_dot = z_dot + convolve(maps[k], params.convolutions[k], self._pad(k))
            n = normalised(way.before[k], way.statistics[k])
            mean = Means(pixel_mean(z_dot), pixel_mean(n * z_dot))
            n_dot = normalised_dot(n, way.statistics[k].scale, z_dot, mean)
            q_dot = moves.gammas[k] * n + params.gammas[k] * n_dot + moves.betas[k]
            maps.append(pool(q_dot * is_positive(params.gammas[k] * n + params.betas[k])))
            before.append(z_dot)
            means.append(mean)
        return maps, before, means

    def _pad(self, block: int) -> int:
        return 1 if block else self.padding

    def _parameters(self, params_P: Tensor) -> ConvNetParameters:
        """Views of a flat vector, whose order is that of the network."""
        *blocks, head, head_bias = self.network.unflatten(params_P).values()
        weights = [w.contiguous(memory_format=torch.channels_last) for w in blocks[0::4]]
        rows = head.view(len(head), -1, *self.last_map).permute(0, 2, 3, 1)
        return ConvNetParameters(weights, blocks[2::4], blocks[3::4], rows.flatten(1), head_bias)

    def _flat(self, convolutions: list[Tensor], means: list[Means], head: Tensor, head_bias: Tensor) -> Tensor:
        """Derivatives by the parts of the flat vector, in its order."""
        pixels = math.prod(self.last_map)
        parts = []
        for k, (convolution, mean) in enumerate(zip(convolutions, means, strict=True)):
            of_block = pixels * 4 ** (self.depth - k)
            by_beta, by_gamma = (of_block * m.sum(0).flatten() for m in mean)
            parts += [convolution, torch.zeros_like(by_beta), by_gamma, by_beta]
        rows = head.view(len(head), *self.last_map, -1).permute(0, 3, 1, 2)
        return torch.cat([part.flatten() for part in [*parts, rows, head_bias]])


def _back_dot(
    way: Pass,
    params: ConvNetParameters,
    moves: ConvNetParameters,
    block: int,
    z_dot: Tensor,
    z_means: Means,
    by_map_dot: Tensor,
) -> tuple[Tensor, Means]:
    """Of dL/dz, and of mean G with pixel_mean(G n), in one block."""
    (_, r), gamma, gamma_dot = way.statistics[block], params.gammas[block], moves.gammas[block]
    n = normalised(way.before[block], way.statistics[block])
    n_dot = normalised_dot(n, r, z_dot, z_means)
    r_dot = -r * r * z_means.product
    open_ = is_positive(gamma * n + params.betas[block])
    g, g_dot = unpool(way.by_maps[block]) * open_, unpool(by_map_dot) * open_
    mean, mean_dot = way.means[block], Means(pixel_mean(g_dot), pixel_mean(g_dot * n + g * n_dot))
    inner = g - mean.plain - n * mean.product
    inner_dot = g_dot - mean_dot.plain - n_dot * mean.product - n * mean_dot.product
    return (gamma_dot * r + gamma * r_dot) * inner + gamma * r * inner_dot, mean_dot
