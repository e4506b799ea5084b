"""Networks of all ages that are trained on the synthetic images while these are learned (FRePo, section 3.2).

One of them is drawn for every iteration, and after it trained on the new images by a step of Adam. One that has taken
all its steps gives way to a fresh one, or to a member of a stage's pool. At first their ages are spread evenly, so that
not all of them give way at once.

Letters: N networks, P flat parameters, B batch, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from raydd.core import keyed_random
from raydd.core.distributed import all_reduce_sum, shard
from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.methods.drawn import drawn_network
from raydd.networks import Network
from raydd.networks.losses import squared_error

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
_TENSORS: Final = ("params", "first", "second", "ages", "updates", "generations")


@dataclass(frozen=True, kw_only=True)
class OnlineTraining:
    """How long networks are trained, and by what steps."""

    size: int
    """N"""
    max_steps: int
    """The age at which a network takes its last step; with 0 every network is a fresh one."""
    lr: float
    """Adam's."""
    batch_size: int


class OnlineNetworks:
    """The networks, with the state of their training: the same on every worker."""

    def __init__(self, training: OnlineTraining, task: Task, start: Start, key: Key) -> None:
        """Begin with fresh networks, of ages that are spread evenly."""
        self._training, self._task, self._start, self._key = training, task, start, key
        size = training.size
        self._network = drawn_network(task, key, 0)
        fresh = [self._drawn(slot, 0) for slot in range(size)]
        self.params = torch.stack(fresh)
        """[N, P]"""
        self.first, self.second = torch.zeros_like(self.params), torch.zeros_like(self.params)
        """Adam's moments, [N, P]."""
        self.ages = torch.tensor([slot * training.max_steps // size for slot in range(size)])
        """int64 [N]: what decides when a network gives way."""
        self.updates, self.generations = torch.zeros_like(self.ages), torch.zeros_like(self.ages)
        """int64 [N]: steps that each network has taken, and how many were in its place before it."""

    def slot(self, iteration: int) -> int:
        """Which network an iteration is on."""
        return keyed_random.integer(self._key.child("drawn", iteration), 0, self._training.size)

    def network(self, slot: int) -> Network:
        """A network, to be looked at until another one is asked for; its parameters are constants."""
        network = self._network.requires_grad_(False).eval()
        torch.nn.utils.vector_to_parameters(self.params[slot], network.parameters())
        return network

    def train(self, slot: int, images_MCHW: Tensor, labels: Tensor, key: Key) -> None:
        """A step of a network on some of the images, or another network in its place.

        Args:
            slot: which.
            images_MCHW: as they are now.
            labels: regression targets [M, K], or classes int64 [M].
            key: of the draw of a batch.
        """
        most = self._training.max_steps
        if not most or int(self.ages[slot]) > most:
            self._replace(slot)
            return
        rows = keyed_random.permutation(key, len(images_MCHW))[: self._training.batch_size]
        own = shard(rows).to(images_MCHW.device)
        network = self.network(slot).requires_grad_(True)
        loss = squared_error(network(images_MCHW[own]), labels[own]) / len(rows)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        self._step(slot, all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of parameters, moments and ages."""
        return {f"online.{name}": getattr(self, name).clone() for name in _TENSORS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for name in _TENSORS:
            getattr(self, name).copy_(state[f"online.{name}"])

    def _step(self, slot: int, gradient_P: Tensor) -> None:
        """Adam (Kingma and Ba, ICLR 2015) with moments that are the network's own."""
        self.ages[slot] += 1
        self.updates[slot] += 1
        number, first, second = int(self.updates[slot]), self.first[slot], self.second[slot]
        first.lerp_(gradient_P, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient_P, gradient_P, value=1 - BETAS[1])
        spread = (second / (1 - BETAS[1] ** number)).sqrt() + EPSILON
        self.params[slot] -= self._training.lr * (first / (1 - BETAS[0] ** number)) / spread

    def _replace(self, slot: int) -> None:
        self.generations[slot] += 1
        self.params[slot] = self._drawn(slot, int(self.generations[slot]))
        for tensor in (self.first, self.second, self.ages, self.updates):
            tensor[slot] = 0

    def _drawn(self, slot: int, generation: int) -> Tensor:
        """The parameters [P] of a network that begins."""
        network = drawn_network(self._task, self._key.child("slot", slot), generation, self._start)
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
