"""GSAM: the step with which FTD and DATM train their experts, towards flat minima.

Sources: FTD (Du et al. 2023, section 4), GSAM (Zhuang et al. 2022, algorithm 1), ASAM's scaling by the size of each
parameter (Kwon et al. 2021). Letters: E networks side by side, each with P parameters and norms of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-12


def perturbation(params_EP: Tensor, gradient_EP: Tensor, rho: float, adaptive: bool) -> Tensor:
    """Where the loss is looked at again [E, P], relative to the parameters.

    rho g w^2 / (| |w| g | + epsilon) where it adapts to the parameters w, else rho g / (|g| + epsilon).
    """
    if not adaptive:
        return rho * gradient_EP / (_norm(gradient_EP) + EPSILON)
    scaled = params_EP.abs() * gradient_EP
    return rho * params_EP.abs() * scaled / (_norm(scaled) + EPSILON)


def descent(gradient_EP: Tensor, perturbed_EP: Tensor, alpha: float) -> Tensor:
    """The gradient to descend by [E, P]: that of the perturbed loss, less alpha of what is orthogonal to it in g.

    Args:
        gradient_EP: g, at the parameters.
        perturbed_EP: the gradient of the same batch at the perturbed parameters.
        alpha: the share of the orthogonal part that is ascended, which lowers the gap between the two losses.
    """
    length, direction = _norm(gradient_EP), perturbed_EP / (_norm(perturbed_EP) + EPSILON)
    cosine = (gradient_EP * perturbed_EP).sum(1, keepdim=True) / (length * _norm(perturbed_EP) + EPSILON)
    return perturbed_EP - alpha * (gradient_EP - cosine * length * direction)


@torch.no_grad()
def sharpen(
    network: nn.Module, members: int, backward: Callable[[], object], rho: float, alpha: float, adaptive: bool
) -> None:
    """Turn the network's gradients into GSAM's by a second look at the same batch, which leaves no other trace.

    Args:
        network: one network, or E of them whose parameters have a first dimension E.
        members: E.
        backward: sets the gradients at the network's present parameters.
        rho: how far to look aside.
        alpha: see `descent`.
        adaptive: see `perturbation`.
    """
    parameters = list(network.parameters())
    buffers = [buffer.clone() for buffer in network.buffers()]
    before, gradient = _flat(parameters, members), _flat(_gradients(parameters), members)
    _unflatten(before + perturbation(before, gradient, rho, adaptive), parameters)
    with torch.enable_grad():
        backward()
    gradients = _gradients(parameters)
    _unflatten(descent(gradient, _flat(gradients, members), alpha), gradients)
    _unflatten(before, parameters)
    for buffer, kept in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(kept)


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _flat(tensors: Sequence[Tensor], members: int) -> Tensor:
    """Of every network one vector [E, P], a copy."""
    return torch.cat([tensor.detach().reshape(members, -1) for tensor in tensors], 1)


def _unflatten(vectors_EP: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the vectors [E, P] back into the tensors."""
    pieces = vectors_EP.split([tensor.numel() // len(vectors_EP) for tensor in tensors], 1)
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.reshape(tensor.shape))


def _norm(vectors_EP: Tensor) -> Tensor:
    """Of each network its own, [E, 1]."""
    norms: Tensor = vectors_EP.norm(dim=1, keepdim=True)
    return norms
