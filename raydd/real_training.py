"""One network trained on all real images, for what is read off it: it goes on from the last finished epoch.

Letters: N real images, C H W.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from raydd import networks, random
from raydd.checkpoints import Checkpoints, Row
from raydd.networks import Network, NetworkConfig
from raydd.prepared import PreparedData
from raydd.progress import Progress
from raydd.random import Key
from raydd.training import Recipe, Training


class Watcher(Protocol):
    """Who looks at the network after every epoch; a broken training leaves it as it was then."""

    def look(self, network: Network, images_NCHW: Tensor) -> str:
        """Look at the network and the images that it learns, and say in a few words what there is to see."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What was seen so far, under names that no network has."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what is, among other things, in a state."""


def real_training_identity(
    kind: str, recipe: Recipe, network: NetworkConfig, data: PreparedData, seed: int
) -> dict[str, Any]:
    """What determines the training and what of this `kind` is read off it, for content keys."""
    return {
        "kind": kind,
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "preprocessing": data.preprocessing.describe(),
        "network": network.identity(),
        "recipe": recipe.identity(),
        "seed": seed,
    }


def train_on_real(
    work: str,
    recipe: Recipe,
    network: NetworkConfig,
    data: PreparedData,
    key: Key,
    device: torch.device,
    checkpoints: Checkpoints,
    progress: Progress,
    compiled: bool = False,
    watcher: Watcher | None = None,
) -> Network:
    """Train a network on the training split.

    Args:
        work: what progress calls it.
        recipe: how it is trained.
        network: what is trained.
        data: the real data.
        key: of initialisation and batches.
        device: where to train.
        checkpoints: where the state after each epoch is kept; whoever stores what was read off deletes it.
        progress: is told after every epoch.
        compiled: whether steps are compiled.
        watcher: looks at it after every epoch.

    Raises:
        RunError: the loss is not finite any more.
    """
    with random.seeded(key.child("init")):
        module = networks.build(network, data.shape, data.num_classes).to(device)
    keys = [key.child("training")]
    training = Training([module], data.train.images, data.train.labels, recipe, keys, compiled=compiled)
    rows: list[Row] = []
    if (saved := checkpoints.load()) is not None:
        state, rows = saved
        seen = () if watcher is None else watcher.state_dict()
        training.load_state_dicts([{name: value for name, value in state.items() if name not in seen}])
        if watcher is not None:
            watcher.load_state_dict(state)
    for epoch in range(len(rows), recipe.epochs):
        (result,) = training.run_epoch(epoch)
        said = f"accuracy {result.accuracy:.3f}" if watcher is None else watcher.look(module, training.images)
        rows.append({"train_loss": result.loss, "train_accuracy": result.accuracy})
        (state,) = training.state_dicts()
        checkpoints.save({**state, **({} if watcher is None else watcher.state_dict())}, rows)
        progress.update(work, epoch + 1, recipe.epochs, said)
    return module
