"""Inner steps by a network's own equations, compiled where that pays, at one static shape.

Letters: B batch, K classes, C H W, P flat parameters.
"""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.adjoint.convnet import ConvNetSteps, Kept
from raydd.adjoint.inner_loop import InnerBatch, Pulled
from raydd.core import compilation
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.traits import Shape

ONE_LOOP: compilation.Options = {f"realize_{what}_threshold": 1000 for what in ("reads", "acc_reads", "opcount")}
"""Inductor puts what is used several times into memory; the equations are cheaper to compute again than to read."""

CUDA_GRAPHS: compilation.Options = {"triton.cudagraphs": True}
"""One launch a step in place of a hundred; what comes out is copied before the next replay writes over it."""
SAVED_FRACTION = 0.45
"""Of the time of an outer iteration by automatic differentiation, what the compiled equations save."""


class WrittenSteps:
    """`raydd.adjoint.inner_loop.Steps` for a network whose gradient is written out."""

    def __init__(self, equations: ConvNetSteps, rows: int, *, compiled: bool) -> None:
        """Take batches of up to `rows` images; shorter ones are filled up with images of no weight."""
        self.rows = rows
        self._classes = equations.classes
        self._gradient, self._derivative = equations.gradient, equations.derivative
        if compiled:
            options = CUDA_GRAPHS if equations.network.device.type == "cuda" else ONE_LOOP
            self._gradient = compilation.compiled(equations.gradient, options)
            self._derivative = compilation.compiled(equations.derivative, options)

    @classmethod
    def of(cls, network: FlatNetwork, config: NetworkConfig, shape: Shape, rows: int) -> Self | None:
        """The compiled steps of a network; None where its equations are not written out."""
        equations = ConvNetSteps.of(network, config, shape)
        return None if equations is None else cls(equations, rows, compiled=True)

    @torch.no_grad()
    def gradient(self, params_P: Tensor, batch: InnerBatch) -> tuple[Tensor, Kept]:
        """The gradient g [P] of the mean loss, and what `pull_back` can use again."""
        gradient, kept = self._gradient(params_P, *self._filled(batch))
        return gradient.clone(), kept

    @torch.no_grad()
    def pull_back(
        self, params_P: Tensor, batch: InnerBatch, cotangent_P: Tensor, curvature: bool, kept: Kept | None = None
    ) -> Pulled:
        """The derivatives of the product of g and a cotangent."""
        images, targets, weights = self._filled(batch)
        found = self._derivative(params_P, images, targets, weights, cotangent_P, curvature, kept)
        learned = slice(batch.num_frozen, len(batch.images))
        by_labels = None
        if batch.labels.is_floating_point():
            by_targets = found.by_targets - (targets * found.by_targets).sum(1, keepdim=True)
            by_labels = (targets * by_targets)[learned]
        by_images = found.by_images[learned].clone(memory_format=torch.contiguous_format)
        return Pulled(torch.cat([found.by_params, found.value.view(1)]), by_images, by_labels)

    def _filled(self, batch: InnerBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Images, probabilities and weights of the one shape."""
        images, labels = batch.images, batch.labels
        soft = labels.is_floating_point()
        targets = labels.softmax(1) if soft else F.one_hot(labels, self._classes).to(images.dtype)
        weights = targets.new_full((len(targets),), 1 / batch.size)
        missing = self.rows - len(targets)
        if missing == 0:
            return images, targets, weights
        return (
            F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)),
            F.pad(targets, (0, 0, 0, missing)),
            F.pad(weights, (0, missing)),
        )
