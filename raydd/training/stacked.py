"""Networks of one architecture trained as one: a GPU that one small network leaves idle has work for several.

Letters: E networks, B batch, K classes, C H W.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

SIZES: Final = (1, 2, 4, 8)
MEASURED_STEPS: Final = 4
"""How many steps of each size are enough for `fastest`."""


class Pack(nn.Module):
    """E networks, whose parameters and buffers lie stacked along a first dimension, in the order of each network's."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        """Stack copies of what the members hold; `push` gives it back to them."""
        super().__init__()
        self._members = tuple(members)
        self._skeleton = [copy.deepcopy(members[0]).to("meta")]  # in a list, so that it is not a part of this module
        params, buffers = stack_module_state(list(members))
        self._names = list(params), list(buffers)
        self.stacked = nn.ParameterList(nn.Parameter(tensor.detach().clone()) for tensor in params.values())
        for number, tensor in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{number}", tensor.detach().clone())

    def forward(self, images_EBCHW: Tensor) -> Tensor:
        """Logits [E, B, K], each network's of its own batch."""
        skeleton = self._skeleton[0].train(self.training)
        names, buffer_names = self._names
        params, buffers = (
            dict(zip(names, self.stacked, strict=True)),
            dict(zip(buffer_names, self.buffers(), strict=True)),
        )

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], images_BCHW: Tensor) -> Tensor:
            logits: Tensor = functional_call(skeleton, (params, buffers), (images_BCHW,))
            return logits

        logits: Tensor = torch.vmap(one)(params, buffers, images_EBCHW)
        return logits

    @torch.no_grad()
    def push(self) -> None:
        """Copy every network's parameters and buffers to the member that it came from."""
        for number, member in enumerate(self._members):
            for own, stack in self._pairs(member):
                own.copy_(stack[number])

    @torch.no_grad()
    def pull(self) -> None:
        """Copy the members' parameters and buffers here."""
        for number, member in enumerate(self._members):
            for own, stack in self._pairs(member):
                stack[number] = own

    def _pairs(self, member: nn.Module) -> list[tuple[Tensor, Tensor]]:
        own, stacks = [*member.parameters(), *member.buffers()], [*self.parameters(), *self.buffers()]
        return list(zip(own, stacks, strict=True))


class TrainsPack(Protocol):
    """What `fastest` measures."""

    def run_epoch(self, epoch: int) -> object:
        """Train for one epoch."""


def fastest(training: Callable[[int], TrainsPack]) -> int:
    """How many networks train fastest side by side: of 1, 2, 4 and 8, as far as memory goes, by measured epochs.

    Args:
        training: makes the training of so many networks, whose epochs are short.
    """
    seconds: dict[int, float] = {}
    for size in SIZES:
        try:
            measured = training(size)
            measured.run_epoch(0)
            began = time.perf_counter()
            measured.run_epoch(1)
            seconds[size] = (time.perf_counter() - began) / size
        except torch.OutOfMemoryError:
            break
    return min(seconds, key=seconds.__getitem__, default=1)
