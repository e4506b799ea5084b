"""Trajectory matching written down naively: own network, own losses, one graph through all inner steps.

Sources: MTT (Cazenavette et al. 2022, equation 2), TESLA (Cui et al. 2023), DATM (Guo et al. 2024). Nothing of the
product is imported.

Letters: M synthetic images, B batch, K classes, C H W, P flat parameters, W width.
"""

from collections.abc import Callable, Sequence
from math import floor

import torch
from torch import Tensor
from torch.nn import functional as F

Logits = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Tensor], Tensor]


def convnet(theta_P: Tensor, images_BCHW: Tensor, *, width: int, depth: int, num_classes: int) -> Tensor:
    """Logits [B, K] of the field's ConvNet, cut piece by piece out of a flat vector.

    In order: for each block weight and bias of the convolution, scale and shift of the norm; then the linear layer's.
    """
    at = 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        size = 1
        for side in shape:
            size *= side
        at += size
        return theta_P[at - size : at].reshape(shape)

    x = images_BCHW
    for _ in range(depth):
        weight, bias = take(width, x.shape[1], 3, 3), take(width)
        x = F.conv2d(x, weight, bias, padding=1)
        centred = x - x.mean((2, 3), keepdim=True)
        x = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        x = x * take(width).view(1, -1, 1, 1) + take(width).view(1, -1, 1, 1)
        x = x.clamp(min=0)
        b, w, height, side = x.shape
        x = x.view(b, w, height // 2, 2, side // 2, 2).mean((3, 5))
    features = x.flatten(1)
    logits = features @ take(num_classes, features.shape[1]).T + take(num_classes)
    assert at == len(theta_P)
    return logits


def mean_loss(logits_BK: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of a batch: against class indices [B], or the softmax of label logits [B, K]."""
    log_q = logits_BK - logits_BK.exp().sum(1, keepdim=True).log()
    if labels.is_floating_point():
        p = labels.exp() / labels.exp().sum(1, keepdim=True)
        per_sample = [-sum(p[i, c] * log_q[i, c] for c in range(p.shape[1])) for i in range(len(p))]
    else:
        per_sample = [-log_q[i, int(label)] for i, label in enumerate(labels)]
    return torch.stack(per_sample).sum() / len(per_sample)


def inner_gradient(
    network: Logits, theta_P: Tensor, images_MCHW: Tensor, labels: Tensor, index: Sequence[int], augment: Augment
) -> Tensor:
    """The gradient [P] of one inner step, still a function of everything."""
    rows = list(index)
    loss = mean_loss(network(theta_P, augment(images_MCHW[rows])), labels[rows])
    (gradient,) = torch.autograd.grad(loss, theta_P, create_graph=True)
    return gradient


def unrolled_loss(
    network: Logits,
    start_P: Tensor,
    target_P: Tensor,
    lr: Tensor,
    images_MCHW: Tensor,
    labels: Tensor,
    batches: Sequence[Sequence[int]],
    augments: Sequence[Augment],
    last: int | None = None,
    mask_P: Tensor | float = 1.0,
) -> Tensor:
    """MTT's loss |theta_T - theta*|^2 / |theta_0 - theta*|^2 with the graph of all T inner steps.

    Of the `last` steps alone where that is given: what the others leave is a constant. Of the parameters, those count
    that the mask of ones and zeros shows.
    """
    theta = start_P.clone().requires_grad_()
    for t, (index, augment) in enumerate(zip(batches, augments, strict=True)):
        theta = theta - lr * inner_gradient(network, theta, images_MCHW, labels, index, augment)
        if last is not None and t < len(batches) - last:
            theta = theta.detach().requires_grad_()
    return (mask_P * (theta - target_P) ** 2).sum() / (mask_P * (start_P - target_P) ** 2).sum()


def last_step_gradients(
    network: Logits,
    start_P: Tensor,
    target_P: Tensor,
    lr: Tensor,
    images_MCHW: Tensor,
    labels: Tensor,
    batches: Sequence[Sequence[int]],
    augments: Sequence[Augment],
) -> list[Tensor]:
    """The gradients by images, step size and label logits (if soft) through the last step only, step by step."""
    theta = start_P.clone()
    for index, augment in zip(batches[:-1], augments[:-1], strict=True):
        theta = theta - lr * inner_gradient(network, theta.requires_grad_(), images_MCHW, labels, index, augment)
        theta = theta.detach()
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (images_MCHW, lr, labels) if leaf.is_floating_point()]
    images, rate, *soft = leaves
    soft_or_hard = soft[0] if soft else labels
    step = inner_gradient(network, theta.requires_grad_(), images, soft_or_hard, batches[-1], augments[-1])
    final = theta.detach() - rate * step
    return list(torch.autograd.grad(((final - target_P) ** 2).sum() / ((start_P - target_P) ** 2).sum(), leaves))


def deep_mask(sizes: Sequence[int], fraction: float) -> Tensor:
    """PAD's mask [P]: ones on that fraction of all parameters, counted from the last tensor backwards."""
    left, pieces = round(fraction * sum(sizes)), []
    for size in reversed(sizes):
        shown = min(left, size)
        left -= shown
        pieces.insert(0, torch.tensor([0.0] * (size - shown) + [1.0] * shown, dtype=torch.float64))
    return torch.cat(pieces)


def weighted_average(images: Sequence[Tensor], decay: float) -> Tensor:
    """FTD's moving average after n updates, written out: d^n x_0 + (1 - d) sum_i d^(n - i) x_i."""
    n = len(images) - 1
    return decay**n * images[0] + (1 - decay) * sum(decay ** (n - i) * images[i] for i in range(1, n + 1))


def tesla(
    network: Logits,
    start_P: Tensor,
    target_P: Tensor,
    lr: Tensor,
    images_MCHW: Tensor,
    labels: Tensor,
    batches: Sequence[Sequence[int]],
    augments: Sequence[Augment],
) -> list[Tensor]:
    """TESLA's closed form of the gradients by images, step size and label logits (if soft).

    With G the sum of the inner gradients, D = |theta_0 - theta*|^2, and all theta_t held fixed in dG/dx and dG/dy,

        dL/dx = 2 / D [lr (theta* - theta_0) + lr^2 G]^T dG/dx,    dL/dlr = -2 / D (theta_0 - lr G - theta*)^T G.
    """
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (images_MCHW, labels) if leaf.is_floating_point()]
    images_MCHW, *soft = leaves
    labels = soft[0] if soft else labels
    theta, total = start_P.clone(), torch.zeros_like(start_P)
    direct = torch.zeros_like(start_P)
    for index, augment in zip(batches, augments, strict=True):
        gradient = inner_gradient(network, theta.detach().requires_grad_(), images_MCHW, labels, index, augment)
        direct = direct + gradient
        total = total + gradient.detach()
        theta = theta - lr * gradient.detach()
    distance = ((start_P - target_P) ** 2).sum()
    weight = lr * (target_P - start_P) + lr**2 * total
    by_images, *by_labels = torch.autograd.grad(2 / distance * (weight * direct).sum(), leaves)
    return [by_images, -2 / distance * ((start_P - lr * total - target_P) * total).sum(), *by_labels]


def label_gradient(
    network: Logits, theta_P: Tensor, direction_P: Tensor, batch_BCHW: Tensor, labels_BK: Tensor
) -> Tensor:
    """ds/dy [B, K] for s = <grad_theta loss, direction>, in closed form: -(p_c / B) (u_c - sum_k p_k u_k).

    Here u is the derivative of the log probabilities along the direction, taken from the Jacobian, row by row.
    """
    jacobian = torch.autograd.functional.jacobian(lambda theta: network(theta, batch_BCHW).log_softmax(1), theta_P)
    u = (jacobian * direction_P).sum(2)
    p = labels_BK.softmax(1)
    return -p / len(p) * (u - (p * u).sum(1, keepdim=True))


def window_bound(iteration: int, initial: int, final: int, expansion: int) -> int:
    """DATM's U(it) = min(T0 + floor((T+ - T0) it / E), T+)."""
    return min(initial + floor((final - initial) * iteration / expansion), final)


def select_correct(network: Logits, experts: Sequence[Tensor], images_NCHW: Tensor, order: Sequence[int], label: int,
                   count: int) -> list[int]:  # fmt: skip
    """DATM's starting images of one class: along `order` those that expert 0 knows, then those that expert 1 adds."""
    chosen: list[int] = []
    for theta in experts:
        for row in order:
            guess = int(network(theta, images_NCHW[row : row + 1]).argmax())
            if guess == label and row not in chosen:
                chosen.append(row)
            if len(chosen) == count:
                return chosen
    raise LookupError(f"{len(chosen)} images of class {label}")


def masked_mean(
    network: Logits, experts: Sequence[Tensor], images_MCHW: Tensor, labels_M: Sequence[int]
) -> list[Tensor]:
    """DATM's starting labels: image by image the mean logits of the experts that classify it correctly.

    The mean of all of them where there is none, where the published code divides by zero.
    """
    means = []
    for image, label in zip(images_MCHW, labels_M, strict=True):
        logits = [network(theta, image[None])[0] for theta in experts]
        correct = [row for row in logits if int(row.argmax()) == label]
        means.append(sum(correct or logits) / len(correct or logits))
    return means


def sgd(parameters: list[Tensor], gradients: list[Tensor], velocities: list[Tensor], lr: float, momentum: float,
        weight_decay: float) -> None:  # fmt: skip
    """One step of SGD with momentum and weight decay, in place."""
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity.copy_(momentum * velocity + gradient + weight_decay * parameter)
        parameter.copy_(parameter - lr * velocity)
