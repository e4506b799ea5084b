"""The exact adjoint of an unrolled SGD inner loop.

Letters: M synthetic images, F frozen ones, B batch of one inner step, b of it, K classes, C H W, P flat parameters,
T inner steps.

One inner step is `theta_{t+1} = theta_t - lr * g_t` with `g_t = grad_theta loss_t(theta_t)`. The gradient of any loss
of `theta_T` with respect to images, labels and step size follows from the recursion

    lambda_T = dL/dtheta_T,   s_t = <g_t, lambda_{t+1}>,   lambda_t = lambda_{t+1} - lr * ds_t/dtheta,
    dL/dx += -lr * ds_t/dx,   dL/dy += -lr * ds_t/dy,      dL/dlr += -s_t,

which is exact and keeps the activations of one step only, beside the T + 1 parameter vectors. Two approximations are
there to compare with: without the curvature term ds_t/dtheta, lambda_t = lambda_T for all t (TESLA, Cui et al. 2023);
and the recursion may end after the last k steps (truncated back-propagation).

Where `torch.distributed` is initialised every worker holds its share of each batch, all losses are divided by the size
of the whole batch, and two all-reduces of P floats a step make the result that of one process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from raydd.core.distributed import all_reduce_sum
from raydd.networks.flat import FlatNetwork

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""`(logits [B, K], labels)` to the loss of the batch, summed over its samples."""


class Pulled(NamedTuple):
    """Derivatives of `s = <gradient of one step, cotangent>`."""

    by_params: Tensor
    """`[ds/dtheta; s]` [P + 1], or `[s]` alone where the curvature is left out."""
    by_images: Tensor
    """[b, C, H, W], of the learned rows alone."""
    by_labels: Tensor | None
    """[b, K], of those too; None where labels are hard."""


@dataclass(frozen=True)
class InnerBatch:
    """What one step trains on."""

    images: Tensor
    """[b, C, H, W], in network space, augmented."""
    labels: Tensor
    """Classes [b] or label logits [b, K]."""
    size: int
    """B, of all workers together, by which losses are divided."""
    num_frozen: int = 0
    """How many rows, the first ones, are constants, by which nothing is differentiated."""

    def behind(self, images_FCHW: Tensor, labels: Tensor) -> "InnerBatch":
        """The same rows, all of them learned, behind constants."""
        if not len(images_FCHW):
            return self
        images, labels = torch.cat([images_FCHW, self.images]), torch.cat([labels, self.labels])
        return InnerBatch(images, labels, self.size, len(images_FCHW))

    def pieces(self, rows: int) -> "list[InnerBatch]":
        """Parts of at most so many rows."""
        parts = zip(self.images.split(rows), self.labels.split(rows), strict=True)
        return [
            InnerBatch(images, labels, self.size, min(len(images), max(0, self.num_frozen - number * rows)))
            for number, (images, labels) in enumerate(parts)
        ]


class Steps(Protocol):
    """How the gradient of one step, and the derivatives of that gradient, are computed."""

    def gradient(self, params_P: Tensor, batch: InnerBatch) -> tuple[Tensor, Any]:
        """The gradient g [P] of the mean loss at theta = `params`, and what `pull_back` can use again, if anything."""

    def pull_back(
        self, params_P: Tensor, batch: InnerBatch, cotangent_P: Tensor, curvature: bool, kept: Any = None
    ) -> Pulled:
        """The derivatives of the product of g and a cotangent."""


@dataclass(frozen=True)
class DifferentiatedSteps:
    """Steps of any network, by automatic differentiation."""

    network: FlatNetwork
    loss: SampleLoss

    def gradient(self, params_P: Tensor, batch: InnerBatch) -> tuple[Tensor, None]:
        """The gradient g [P] of the mean loss."""
        theta = params_P.detach().requires_grad_()
        loss = self.loss(self.network(theta, batch.images), batch.labels) / batch.size
        (gradient,) = torch.autograd.grad(loss, theta)
        return gradient, None

    def pull_back(
        self, params_P: Tensor, batch: InnerBatch, cotangent_P: Tensor, curvature: bool, kept: Any = None
    ) -> Pulled:
        """The derivatives of the product of g and a cotangent, by differentiating twice."""
        theta = params_P.detach().requires_grad_()
        n, images, labels = batch.num_frozen, batch.images.detach(), batch.labels.detach()
        learned = InnerBatch(images[n:], labels[n:], batch.size)
        leaves = [t.requires_grad_() for t in (learned.images, learned.labels) if t.is_floating_point()]
        whole = learned.behind(images[:n], labels[:n])
        loss = self.loss(self.network(theta, whole.images), whole.labels) / batch.size
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        s = torch.dot(gradient, cotangent_P)
        by_images, *rest = torch.autograd.grad(s, [*leaves, *([theta] if curvature else [])])
        by_theta = [rest.pop()] if curvature else []
        return Pulled(torch.cat([*by_theta, s.detach().view(1)]), by_images, rest[0] if rest else None)


@dataclass(frozen=True)
class PiecewiseSteps:
    """Steps that take a batch in pieces, for less memory: everything is a sum over samples."""

    steps: Steps
    rows: int
    """Of a piece, at most."""

    def gradient(self, params_P: Tensor, batch: InnerBatch) -> tuple[Tensor, None]:
        """The gradient g [P] of the mean loss."""
        gradient = torch.zeros_like(params_P)
        for piece in batch.pieces(self.rows):
            gradient += self.steps.gradient(params_P, piece)[0]
        return gradient, None

    def pull_back(
        self, params_P: Tensor, batch: InnerBatch, cotangent_P: Tensor, curvature: bool, kept: Any = None
    ) -> Pulled:
        """The derivatives of the product of g and a cotangent."""
        pulled = [self.steps.pull_back(params_P, piece, cotangent_P, curvature) for piece in batch.pieces(self.rows)]
        by_labels = [piece.by_labels for piece in pulled if piece.by_labels is not None]
        return Pulled(
            torch.stack([piece.by_params for piece in pulled]).sum(0),
            torch.cat([piece.by_images for piece in pulled]),
            torch.cat(by_labels) if by_labels else None,
        )


@dataclass(frozen=True)
class FrozenRows:
    """Images that take part in a step and are not learned."""

    images: Tensor
    """[F, C, H, W]: all that there are, shared by all steps; only those of a step are ever copied."""
    labels: Tensor
    """Classes [F] or label logits [F, K], as those of the learned images are."""
    index: Tensor
    """int64 [f]: which of them this worker takes in the step."""
    augment: Callable[[Tensor], Tensor]
    """The step's augmentation with its draws fixed."""


@dataclass(frozen=True)
class InnerStep:
    """One step of the inner loop."""

    index: Tensor
    """int64 [b]: the rows of the synthetic set that this worker takes in the step."""
    batch_size: int
    """B: the rows of all workers together."""
    augment: Callable[[Tensor], Tensor]
    """The step's augmentation with its draws fixed: affine in the images."""
    frozen: FrozenRows | None = None
    """What the step trains on beside them."""

    @property
    def is_empty(self) -> bool:
        """Whether this worker has nothing to do in it."""
        return not len(self.index) and not (self.frozen and len(self.frozen.index))

    def batch(self, augmented_bCHW: Tensor, labels: Tensor) -> InnerBatch:
        """The step's learned images, augmented, and the labels of the synthetic set, behind the frozen rows."""
        learned = InnerBatch(augmented_bCHW, labels[self.index], self.batch_size)
        if self.frozen is None:
            return learned
        frozen = self.frozen
        return learned.behind(frozen.augment(frozen.images[frozen.index]), frozen.labels[frozen.index])


@dataclass(frozen=True)
class InnerLoop:
    """T steps of plain SGD on the synthetic images."""

    steps: Steps
    """How one is computed."""
    batches: Sequence[InnerStep]
    kept_steps: int = 0
    """How many of the last steps keep what they can for the way back, at the price of that memory."""
    curvature: bool = True
    """False leaves ds/dtheta out of the recursion and does not compute it: TESLA."""
    last_steps: int | None = None
    """How many of the last steps pass gradients back; earlier ones contribute nothing. All by default."""

    @property
    def first_step(self) -> int:
        """The first step that passes gradients back."""
        return 0 if self.last_steps is None else max(0, len(self.batches) - self.last_steps)

    def gradient(self, step: InnerStep, params_P: Tensor, images_MCHW: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
        """One step's gradient [P], and what `pull_back` can use again."""
        return self.steps.gradient(params_P, step.batch(step.augment(images_MCHW[step.index]), labels))

    def pull_back(
        self, step: InnerStep, params_P: Tensor, images_MCHW: Tensor, labels: Tensor, cotangent_P: Tensor, kept: Any
    ) -> Pulled:
        """The derivatives of the product of one step's gradient and a cotangent, down to the step's synthetic images.

        The augmentation is affine, so that it is never differentiated twice.
        """
        clean = images_MCHW[step.index].requires_grad_()
        with torch.enable_grad():
            augmented = step.augment(clean)
        batch = step.batch(augmented.detach(), labels)
        pulled = self.steps.pull_back(params_P, batch, cotangent_P, self.curvature, kept)
        (by_clean,) = torch.autograd.grad(augmented, clean, pulled.by_images)
        return pulled._replace(by_images=by_clean)


class InnerTrajectory(NamedTuple):
    """What `unroll` leaves for `adjoint`, which uses it up."""

    params: list[Tensor]
    """theta_0 ... theta_T, T + 1 vectors [P]."""
    kept: dict[int, Any]
    """By step, what the last ones kept."""


def unroll(loop: InnerLoop, params_P: Tensor, lr: Tensor, images_MCHW: Tensor, labels: Tensor) -> InnerTrajectory:
    """Train on the synthetic images with plain SGD.

    Args:
        loop: network, loss and steps.
        params_P: the parameters to start from.
        lr: the step size, a scalar.
        images_MCHW: the synthetic images.
        labels: class indices [M] or label logits [M, K], as the loop's loss takes them.
    """
    trajectory = InnerTrajectory([params_P], {})
    first_kept = max(loop.first_step, len(loop.batches) - loop.kept_steps)
    for t, step in enumerate(loop.batches):
        theta = trajectory.params[-1]
        gradient, kept = torch.zeros_like(theta), None
        if not step.is_empty:
            gradient, kept = loop.gradient(step, theta, images_MCHW, labels)
        if t >= first_kept:
            trajectory.kept[t] = kept
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
    loop: InnerLoop, trajectory: InnerTrajectory, lr: Tensor, images_MCHW: Tensor, labels: Tensor, cotangent_P: Tensor
) -> InnerGradients:
    """Gradients of a loss of `theta_T` through the steps that `unroll` took: exact, unless the loop says otherwise.

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
    for t in reversed(range(loop.first_step, len(loop.batches))):
        step, theta = loop.batches[t], trajectory.params.pop()
        if not step.is_empty:
            kept = trajectory.kept.pop(t, None)
            reduced, by_images, by_labels = loop.pull_back(step, theta, images_MCHW, labels, cotangent, kept)
            image_gradient.index_add_(0, step.index, by_images * -lr)
            if label_gradient is not None and by_labels is not None:
                label_gradient.index_add_(0, step.index, by_labels * -lr)
        else:
            reduced = theta.new_zeros(loop.curvature * len(theta) + 1)
        all_reduce_sum(reduced)
        lr_gradient = lr_gradient - reduced[-1]
        if loop.curvature and t > loop.first_step:
            cotangent = cotangent - lr * reduced[:-1]
    return InnerGradients(
        images=all_reduce_sum(image_gradient),
        labels=None if label_gradient is None else all_reduce_sum(label_gradient),
        lr=lr_gradient,
    )
