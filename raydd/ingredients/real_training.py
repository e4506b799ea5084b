"""One network trained on all real images, for what is read off it: it goes on from the last finished epoch.

Letters: N real images, C H W.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Kitchen
from raydd.ingredients.setting import Setting, setting
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage.checkpoints import Checkpoints
from raydd.training.fit import NOBODY, Told, Watcher, both_curves, fit
from raydd.training.loop import EpochResult
from raydd.training.recipe import Recipe


def _train_accuracy(result: EpochResult) -> str:
    return f"accuracy {result.accuracy:.3f}"


@dataclass(frozen=True, kw_only=True)
class RealTraining:
    """The training of one network on the training split."""

    recipe: Recipe
    setting: Setting
    key: Key
    """Of initialisation and batches."""
    checkpoints: Checkpoints
    """Where the state after each epoch is kept; whoever stores what was read off deletes it."""

    def run(
        self,
        task: Work,
        progress: Progress,
        watcher: Watcher = NOBODY,
        words: Callable[[EpochResult], str] = _train_accuracy,
    ) -> Network:
        """Train the network.

        Args:
            task: what progress calls it.
            progress: is told after every epoch.
            watcher: looks at the network after every epoch; a broken training goes on with what it had seen.
            words: what progress is told.

        Raises:
            RunError: the loss is not finite any more.
        """
        module = self.setting.fresh(self.key.child("init"))
        training = self.setting.training([module], self.recipe, [self.key.child("training")])
        told = Told(progress, [task], words, both_curves)
        fit(training, checkpoints=self.checkpoints, watcher=watcher, told=told)
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
        setting=setting(kitchen, kitchen.network, recipe),
        key=key,
        checkpoints=Checkpoints(kitchen.work / "checkpoints", name),
    )
