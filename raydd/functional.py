"""Flat parameter vectors, and the exact adjoint of an unrolled SGD inner loop.

Letters: M synthetic images, B batch of one inner step, K classes, C H W, P flat parameters, T inner steps.

One inner step is `theta_{t+1} = theta_t - lr * g_t` with `g_t = grad_theta loss_t(theta_t)`. The gradient of any loss
of `theta_T` with respect to images, labels and step size follows from the recursion

    lambda_T = dL/dtheta_T,   s_t = <g_t, lambda_{t+1}>,   lambda_t = lambda_{t+1} - lr * ds_t/dtheta,
    dL/dx += -lr * ds_t/dx,   dL/dy += -lr * ds_t/dy,      dL/dlr += -s_t,

which is exact and keeps the activations of one step only, beside the T + 1 parameter vectors.

Where `torch.distributed` is initialised every worker holds its share of each batch, all losses are divided by the size
of the whole batch, and two all-reduces of P floats a step make the result that of one process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""`(logits [B, K], labels)` to the loss of the batch, summed over its samples."""


class FlatNetwork:
    """A network as a function of one flat parameter vector.

    The order is that of `module.named_parameters()`; buffers keep the module's values.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wrap `module`, whose own parameters serve as names, shapes and first values."""
        self.module = module.requires_grad_(False)
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self._sizes = [p.numel() for p in module.parameters()]
        self.size = sum(self._sizes)

    def flat(self) -> Tensor:
        """The module's own parameters as a new vector [P]."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def unflatten(self, params_P: Tensor) -> dict[str, Tensor]:
        """Views of the vector [P] under the names and shapes of the module's parameters."""
        pieces = params_P.split(self._sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def __call__(self, params_P: Tensor, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K] of the images under the parameters [P]; differentiable in both, to any order."""
        logits: Tensor = functional_call(self.module, self.unflatten(params_P), (images_BCHW,))
        return logits


def soft_cross_entropy(logits_BK: Tensor, label_logits_BK: Tensor) -> Tensor:
    """Cross entropy against `softmax(label_logits)`, both at temperature 1, summed over the batch (DATM)."""
    return -(label_logits_BK.softmax(1) * logits_BK.log_softmax(1)).sum()


def hard_cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross entropy against class indices, summed over the batch (MTT)."""
    return F.cross_entropy(logits_BK, labels_B, reduction="sum")


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all workers, in place; the tensor itself where there is one process."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def shard(index: Tensor) -> Tensor:
    """This worker's contiguous share of a batch's rows; all of them where there is one process."""
    if not dist.is_initialized():
        return index
    return index.tensor_split(dist.get_world_size())[dist.get_rank()]


@dataclass(frozen=True)
class InnerStep:
    """One step of the inner loop."""

    index: Tensor
    """int64 [b]: the rows of the synthetic set that this worker takes in the step."""
    batch_size: int
    """B: the rows of all workers together."""
    augment: Callable[[Tensor], Tensor]
    """The step's augmentation with its draws fixed: affine in the images."""


@dataclass(frozen=True)
class InnerLoop:
    """What T steps of plain SGD on the synthetic images minimise."""

    network: FlatNetwork
    loss: SampleLoss
    steps: Sequence[InnerStep]
    kept_graphs: int = 0
    """How many of the last steps keep their graph from the way out for the way back, at the price of its activations;
    every other step is computed again. The numbers are the same but for rounding: torch differentiates a norm by other
    formulas where the result is to be differentiated once more."""

    def graph(self, step: InnerStep, params_P: Tensor, images_MCHW: Tensor, labels: Tensor) -> "StepGraph":
        """One step's gradient with everything that is needed to differentiate it again."""
        clean = images_MCHW[step.index].requires_grad_()
        with torch.enable_grad():
            augmented = step.augment(clean)
        theta, batch = params_P.detach().requires_grad_(), augmented.detach().requires_grad_()
        targets = labels[step.index]
        learned = [targets.requires_grad_()] if targets.is_floating_point() else []
        value = self.loss(self.network(theta, batch), targets) / step.batch_size
        (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
        return StepGraph(theta, clean, augmented, batch, learned, gradient)

    def gradient(self, step: InnerStep, params_P: Tensor, images_MCHW: Tensor, labels: Tensor) -> Tensor:
        """One step's gradient [P], and nothing that would have to be kept."""
        theta = params_P.detach().requires_grad_()
        logits = self.network(theta, step.augment(images_MCHW[step.index]))
        (gradient,) = torch.autograd.grad(self.loss(logits, labels[step.index]) / step.batch_size, theta)
        return gradient


@dataclass(frozen=True)
class StepGraph:
    """One inner step, differentiable once more."""

    theta: Tensor
    """[P], a leaf."""
    clean: Tensor
    """[b, C, H, W], a leaf: the step's rows of the synthetic images."""
    augmented: Tensor
    """[b, C, H, W], a function of `clean`."""
    batch: Tensor
    """The same values as a leaf, so that the augmentation is never differentiated twice."""
    learned: list[Tensor]
    """The step's label logits as a leaf; empty where labels are hard."""
    gradient: Tensor
    """g [P], a function of the leaves."""

    def pull_back(self, cotangent_P: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[ds/dtheta; s]` [P + 1] and `[ds/dx, ds/dy]` of the step's own rows, for `s = <g, cotangent>`."""
        s = torch.dot(self.gradient, cotangent_P)
        by_theta, by_batch, *by_learned = torch.autograd.grad(s, [self.theta, self.batch, *self.learned])
        (by_clean,) = torch.autograd.grad(self.augmented, self.clean, by_batch)
        return torch.cat([by_theta, s.detach().view(1)]), [by_clean, *by_learned]


@dataclass(frozen=True)
class Trajectory:
    """What `unroll` leaves for `adjoint`, which uses it up."""

    params: list[Tensor]
    """theta_0 ... theta_T, T + 1 vectors [P]."""
    graphs: dict[int, StepGraph] = field(default_factory=dict)
    """By step, where they were kept."""


def unroll(loop: InnerLoop, params_P: Tensor, lr: Tensor, images_MCHW: Tensor, labels: Tensor) -> Trajectory:
    """Train on the synthetic images with plain SGD and keep every parameter vector.

    Args:
        loop: network, loss and steps.
        params_P: the parameters to start from.
        lr: the step size, a scalar.
        images_MCHW: the synthetic images.
        labels: class indices [M] or label logits [M, K], as the loop's loss takes them.
    """
    trajectory = Trajectory([params_P])
    for t, step in enumerate(loop.steps):
        theta = trajectory.params[-1]
        if not len(step.index):
            gradient = torch.zeros_like(theta)
        elif t < len(loop.steps) - loop.kept_graphs:
            gradient = loop.gradient(step, theta, images_MCHW, labels)
        else:
            trajectory.graphs[t] = loop.graph(step, theta, images_MCHW, labels)
            gradient = trajectory.graphs[t].gradient.detach().clone()
        trajectory.params.append(theta - all_reduce_sum(gradient).mul_(lr))
    return trajectory


@dataclass(frozen=True)
class InnerGradients:
    """Gradients of the outer loss, complete on every worker."""

    images: Tensor
    """[M, C, H, W]"""
    labels: Tensor | None
    """[M, K]; None for class indices."""
    lr: Tensor
    """Scalar."""


def adjoint(
    loop: InnerLoop, trajectory: Trajectory, lr: Tensor, images_MCHW: Tensor, labels: Tensor, cotangent_P: Tensor
) -> InnerGradients:
    """Exact gradients of a loss of `theta_T` through the steps that `unroll` took.

    Args:
        loop: the loop that was unrolled.
        trajectory: what `unroll` returned; emptied on the way back, so that memory falls as the recursion proceeds.
        lr: the step size, a scalar.
        images_MCHW: the synthetic images.
        labels: class indices [M] or label logits [M, K].
        cotangent_P: the gradient of the outer loss with respect to `theta_T`.

    Returns:
        The gradients with respect to images, label logits and step size, summed over all workers.
    """
    image_gradient = torch.zeros_like(images_MCHW)
    label_gradient = torch.zeros_like(labels) if labels.is_floating_point() else None
    lr_gradient = torch.zeros_like(lr)
    cotangent = cotangent_P
    trajectory.params.pop()
    for t in reversed(range(len(loop.steps))):
        step, theta = loop.steps[t], trajectory.params.pop()
        if len(step.index):
            graph = trajectory.graphs.pop(t, None) or loop.graph(step, theta, images_MCHW, labels)
            curvature, pulled = graph.pull_back(cotangent)
            image_gradient.index_add_(0, step.index, pulled[0] * -lr)
            if label_gradient is not None:
                label_gradient.index_add_(0, step.index, pulled[1] * -lr)
        else:
            curvature = theta.new_zeros(len(theta) + 1)
        all_reduce_sum(curvature)
        lr_gradient = lr_gradient - curvature[-1]
        if t:
            cotangent = cotangent - lr * curvature[:-1]
    return InnerGradients(
        images=all_reduce_sum(image_gradient),
        labels=None if label_gradient is None else all_reduce_sum(label_gradient),
        lr=lr_gradient,
    )
