"""LAMB (You et al., ICLR 2020, https://arxiv.org/abs/1904.00962) without weight decay, each tensor one layer."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-6


class Lamb:
    """Tensors by name that are learned: every step moves each by exactly its step size times its own norm.

    x <- x - lr |x| / |u| u, where u is Adam's direction m / (sqrt(v) + eps), corrected for its bias; the ratio of the
    norms is 1 where one of them is 0.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        """Take over the tensors."""
        self.values = dict(values)
        self._first = {name: torch.zeros_like(value) for name, value in values.items()}
        self._second = {name: torch.zeros_like(value) for name, value in values.items()}

    def step(self, gradients: Mapping[str, Tensor], lr: float, number: int) -> None:
        """Move all tensors that have a gradient.

        Args:
            gradients: by name.
            lr: the step size.
            number: of the step, counted from 1.
        """
        for name, gradient in gradients.items():
            value, first, second = self.values[name], self._first[name], self._second[name]
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            direction = first / (1 - BETAS[0] ** number) / ((second / (1 - BETAS[1] ** number)).sqrt() + EPSILON)
            lengths = float(value.norm()), float(direction.norm())
            ratio = lengths[0] / lengths[1] if all(lengths) else 1.0
            self.values[name] = value - lr * ratio * direction

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the tensors and of their moments."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        first = {f"first.{name}": tensor for name, tensor in self._first.items()}
        return {**self.values, **first, **{f"second.{name}": tensor for name, tensor in self._second.items()}}
