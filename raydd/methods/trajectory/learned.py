"""What an outer loop learns by momentum, and the state that it falls back to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Learned:
    """Tensors by name, of which those with a rate take momentum steps, and a copy of all of them to fall back to."""

    def __init__(self) -> None:
        """Nothing yet; `mark` once everything is added."""
        self.values: dict[str, Tensor] = {}
        self._rates: dict[str, tuple[float, float]] = {}
        self._velocity: dict[str, Tensor] = {}
        self._good: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor, rate: float | None = None, momentum: float = 0.0) -> None:
        """Take over a tensor, to be changed in place; without a rate it is kept and not learned."""
        self.values[name] = value
        if rate is not None:
            self._rates[name], self._velocity[name] = (rate, momentum), torch.zeros_like(value)

    def step(self, gradients: Mapping[str, Tensor], scale: float) -> None:
        """One step of `v <- momentum v + g`, `x <- x - scale rate v` on everything that has a rate."""
        for name, velocity in self._velocity.items():
            rate, momentum = self._rates[name]
            velocity.mul_(momentum).add_(gradients[name])
            self.values[name].sub_(velocity, alpha=rate * scale)

    def mark(self) -> None:
        """From now on `fall_back` returns to what is here now."""
        self._good = self._copies()

    def fall_back(self) -> None:
        """Values and momenta as they were marked."""
        self._restore(self._good)

    @property
    def is_unmoved(self) -> bool:
        """Whether no momentum step has been taken yet, or all of them are fallen back behind."""
        return not any(bool(velocity.any()) for velocity in self._velocity.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of values and momenta (`velocity.<name>`), and of what is fallen back to (`good.<name>`)."""
        return {**self._copies(), **{f"good.{name}": tensor.clone() for name, tensor in self._good.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._restore({name: state[f"good.{name}"] for name in self._tensors()})
        self.mark()
        self._restore(state)

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.values, **{f"velocity.{name}": velocity for name, velocity in self._velocity.items()}}

    def _copies(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
