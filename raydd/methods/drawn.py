"""Networks that iterations draw: freshly initialised, or from the pool of a stage."""

import torch

from raydd import networks
from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.networks import Network


def drawn_network(task: Task, key: Key, iteration: int, start: Start | None = None) -> Network:
    """The network of an iteration, a copy of its own: freshly initialised, or one of the pool where a stage has one."""
    start = start or Start()
    with keyed_random.seeded(key.child("network", iteration)):
        network = networks.build(task.network, task.data.shape, task.data.num_classes)
    if start.pool and not _is_fresh(start.fresh_fraction, key, iteration):
        network.load_state_dict(start.pool[keyed_random.integer(key.child("member", iteration), 0, len(start.pool))])
    return network.to(task.device, task.dtype).train()


def _is_fresh(fraction: float, key: Key, iteration: int) -> bool:
    return float(keyed_random.uniform(key.child("fresh", iteration), torch.zeros(1, dtype=torch.int64))) < fraction
