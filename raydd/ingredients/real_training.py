"""One network trained on all real images, for what is read off it: it goes on from the last finished epoch.

Letters: N real images, C H W.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from raydd import networks
from raydd.core import keyed_random
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.images import Images
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Kitchen
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage.checkpoints import Checkpoints, MetricsRow
from raydd.training.loop import Training
from raydd.training.recipe import Recipe


class Watcher(Protocol):
    """Who looks at the network after every epoch; a broken training leaves it as it was then."""

    def look(self, network: Network, images: Images) -> str:
        """Look at the network and the images that it learns, and say in a few words what there is to see."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What was seen so far, under names that no network has."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what is, among other things, in a state."""


@dataclass(frozen=True, kw_only=True)
class RealTraining:
    """The training of one network on the training split."""

    recipe: Recipe
    network: NetworkConfig
    data: PreparedData
    key: Key
    """Of initialisation and batches."""
    device: torch.device
    """Where to train."""
    checkpoints: Checkpoints
    """Where the state after each epoch is kept; whoever stores what was read off deletes it."""
    compiled: bool = False
    """Whether steps are compiled."""

    def run(self, work: str, progress: Progress, watcher: Watcher | None = None) -> Network:
        """Train the network.

        Args:
            work: what progress calls it.
            progress: is told after every epoch.
            watcher: looks at the network after every epoch.

        Raises:
            RunError: the loss is not finite any more.
        """
        data, key = self.data, self.key
        with keyed_random.seeded(key.child("init")):
            module = networks.build(self.network, data.shape, data.num_classes).to(self.device)
        keys = [key.child("training")]
        training = Training([module], data.train.images, data.train.labels, self.recipe, keys, compiled=self.compiled)
        rows: list[MetricsRow] = []
        if (saved := self.checkpoints.load()) is not None:
            state, rows = saved
            seen = () if watcher is None else watcher.state_dict()
            training.load_state_dicts([{name: value for name, value in state.items() if name not in seen}])
            if watcher is not None:
                watcher.load_state_dict(state)
        for epoch in range(len(rows), self.recipe.epochs):
            (result,) = training.run_epoch(epoch)
            said = f"accuracy {result.accuracy:.3f}" if watcher is None else watcher.look(module, training.images)
            numbers = {"train_loss": result.loss, "train_accuracy": result.accuracy}
            rows.append(numbers)
            (state,) = training.state_dicts()
            self.checkpoints.save({**state, **({} if watcher is None else watcher.state_dict())}, rows)
            progress.update(work, epoch + 1, self.recipe.epochs, said, numbers)
        return module


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


def real_training(kitchen: Kitchen, recipe: Recipe, key: Key, name: str) -> RealTraining:
    """That of a kitchen's network, whose checkpoints have a name."""
    return RealTraining(
        recipe=recipe,
        network=kitchen.network,
        data=kitchen.data,
        key=key,
        device=kitchen.device,
        checkpoints=Checkpoints(kitchen.work / "checkpoints", name),
        compiled=kitchen.compiles(kitchen.network, recipe, len(kitchen.data.train)),
    )
