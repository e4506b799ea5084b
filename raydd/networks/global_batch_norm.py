"""Batch norm over the batch of all workers, on CPUs too, which `torch.nn.SyncBatchNorm` refuses.

Each worker holds b of the B images; two exchanges of a few vectors, one on the way forward and one back, make the layer
what `nn.BatchNorm2d` is on all of them. With n = B H W values a channel, x^ = (x - mean) / sqrt(var + eps) and g the
gradient of the loss of all workers by y = weight x^ + bias (Ioffe and Szegedy 2015, section 3):

    dL/dx = weight / sqrt(var + eps) (g - sum(g) / n - x^ sum(g x^) / n).

Letters: C channels, H W.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from raydd.core.distributed import all_reduce_sum


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, in training over the images of all workers; a worker's share may be empty."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this worker's share [b, C, H, W]; all workers have to come here together."""
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        mean, var, count = _moments(input)
        self._track(mean, var * (count / (count - 1).clamp(min=1)))
        normalised: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, var, count, self.eps)
        return normalised

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        """Move the running statistics, as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(unbiased_C, self.momentum)
        self.num_batches_tracked += 1


def convert(module: nn.Module) -> None:
    """Put a `GlobalBatchNorm2d` with the same parameters and buffers in the place of every batch norm of a module."""
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.BatchNorm2d:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _global(layer))


def _global(layer: nn.BatchNorm2d) -> GlobalBatchNorm2d:
    made = GlobalBatchNorm2d(layer.num_features, layer.eps, layer.momentum, device="meta").train(layer.training)
    for tensors in (layer._parameters, layer._buffers):
        for name, tensor in tensors.items():
            setattr(made, name, tensor)
    return made


@torch.no_grad()
def _moments(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C] of all workers' values, and their number a channel (a scalar).

    Each worker's own moments are summed in float64, where mean(x^2) - mean^2 does not cancel.
    """
    num_channels = input.shape[1]
    count = input.numel() // num_channels
    own = torch.zeros(3, num_channels, dtype=torch.float64, device=input.device)
    if count:
        mean, var = (part.double() for part in torch.batch_norm_update_stats(input, None, None, 0.0))
        own = torch.stack([torch.ones_like(mean), mean, var + mean.square()]) * count
    counts, sums, squares = all_reduce_sum(own)
    mean = sums / counts
    return mean.to(input.dtype), (squares / counts - mean.square()).to(input.dtype), counts[0].to(input.dtype)


class _Normalise(torch.autograd.Function):
    """y from x and the moments that x itself is a part of."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, eps=eps) if x.numel() else x.clone()

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        by_x, by_weight, by_bias = by_y.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
        if x.numel():
            by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
                by_y, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        sum_by_y, sum_by_y_x = all_reduce_sum(torch.stack([by_bias, by_weight]))
        inverse = (var + ctx.eps).rsqrt()
        slope = -weight * inverse.square() * sum_by_y_x / count
        shift = -weight * inverse * sum_by_y / count - slope * mean
        return by_x.addcmul_(x, slope[:, None, None]).add_(shift[:, None, None]), by_weight, by_bias, *[None] * 4
