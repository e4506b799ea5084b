"""How often a network forgets each real training image that it had learned.

Source: Toneva et al. (ICLR 2019, https://arxiv.org/abs/1812.05159): an image is forgotten where it was classified
correctly before and is not any more. An image that was never classified correctly counts as forgotten in every epoch,
as in the paper's published code: more often than any other can be, which needs two epochs each time.

The paper looks at every image as training comes across it, under augmentation and between two updates. Here all images
are looked at together after every epoch, as they are and in evaluation mode: the luck of a draw does not enter, and
published counts of the same training need not be the same.

Letters: N real images, E epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.ingredients.real_training import RealTraining, real_training, real_training_identity
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.storage.readable import legible
from raydd.training.fit import Watcher
from raydd.training.loop import EpochResult, Training, predict
from raydd.training.recipe import Recipe

KIND: Final = "forgetting"
_FILE: Final = "forgetting.parquet"
_SCHEMA: Final = pa.schema({"index": pa.int64(), "class": pa.int64(), "count": pa.int64(), "learned": pa.bool_()})
_PREFIX: Final = "forgetting."


@dataclass(frozen=True, eq=False)
class Counter:
    """The forgetting of N images up to some epoch; all that the next epoch needs to know."""

    correct: Tensor
    """bool [N]: whether each image was classified correctly the last time; at the start none was."""
    learned: Tensor
    """bool [N]: whether it ever was."""
    count: Tensor
    """int64 [N]: how often it was forgotten."""

    @classmethod
    def start(cls, num_images: int) -> "Counter":
        """Before the first epoch."""
        never = torch.zeros(num_images, dtype=torch.bool)
        return cls(never, never, torch.zeros(num_images, dtype=torch.int64))

    def after(self, correct_N: Tensor) -> "Counter":
        """The counter one epoch later, given which images are classified correctly then, bool [N]."""
        return Counter(correct_N, self.learned | correct_N, self.count + (self.correct & ~correct_N))

    def counts(self, epochs: int) -> Tensor:
        """The scores after all E = `epochs`, int64 [N]: at most E // 2, and E for an image that was never learned."""
        return self.count.where(self.learned, epochs)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, to go on from."""
        return {f"{_PREFIX}{name}": value for name, value in vars(self).items()}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> "Counter":
        """The counter that is, among other things, in a state."""
        return cls(**{name.removeprefix(_PREFIX): t for name, t in state.items() if name.startswith(_PREFIX)})


@dataclass(frozen=True, eq=False)
class Scores:
    """The forgetting count of every training image."""

    index: Tensor
    """int64 [N], ascending: the row of the training split."""
    class_: Tensor
    """int64 [N]"""
    count: Tensor
    """int64 [N]; the number of epochs where `learned` is false."""
    learned: Tensor
    """bool [N]: whether the image was ever classified correctly."""

    def save(self, folder: Folder, key: str) -> None:
        """Write them as one artefact: a Parquet file of columns index, class, count and learned."""
        columns = [tensor.numpy() for tensor in (self.index, self.class_, self.count, self.learned)]
        with new_artefact(folder, KIND, key) as writer, writer.writing(_FILE) as path:
            pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")

    @classmethod
    def load(cls, folder: Folder) -> "Scores":
        """Read what `save` wrote.

        Raises:
            ArtefactError: there is nothing, or it was altered.
        """
        with legible(folder.uri):
            table = pq.read_table(pa.BufferReader(Artefact.require(folder, KIND).read(_FILE)), schema=_SCHEMA)
            return cls(*(torch.tensor(table[name].to_numpy()) for name in _SCHEMA.names))


def scores_identity(recipe: Recipe, network: NetworkConfig, data: PreparedData, seed: int) -> dict[str, Any]:
    """What determines the scores, for content keys."""
    return real_training_identity(KIND, recipe, network, data, seed)


class _Watch(Watcher):
    """Counts what the network forgets from epoch to epoch."""

    def __init__(self, labels_N: Tensor) -> None:
        self.counter = Counter.start(len(labels_N))
        self._labels_N = labels_N

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        (network,) = training.modules
        self.counter = self.counter.after(predict(network, training.images).argmax(1) == self._labels_N)

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.counter.state_dict()

    def restore(self, state: Mapping[str, Any], done: int) -> Mapping[str, Any]:
        self.counter = Counter.restore(state)
        return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}

    def words(self, result: EpochResult) -> str:
        return f"{int(self.counter.count.sum())} times an image was forgotten"


def score(training: RealTraining, progress: Progress) -> Scores:
    """Train a network and count what it forgets of the images that it learns.

    Args:
        training: of the network; it goes on from the last finished epoch where there is one.
        progress: is told after every epoch.

    Raises:
        RunError: the loss is not finite any more.
    """
    labels, epochs = training.setting.data.train.labels, training.recipe.epochs
    watch = _Watch(labels)
    training.run(Work(KIND), progress, watch, watch.words)
    return Scores(torch.arange(len(labels)), labels, watch.counter.counts(epochs), watch.counter.learned)


@dataclass(frozen=True)
class ForgettingScores(Ingredient[Scores]):
    """How often the run's network forgets each training image."""

    recipe: Recipe
    seed: int

    kind = KIND
    title = KIND
    determined_by = ("data", "network", "stages", "seed")

    @cached_property
    def _key(self) -> str:
        return content_key(scores_identity(self.recipe, self.kitchen.network, self.kitchen.data, self.seed))

    def key(self) -> str:
        """Of network, data, recipe and seed."""
        return self._key

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train a network, and count."""
        training = real_training(
            self.kitchen, self.recipe, Key.root(self.seed).child("forgetting"), f"scores-{self.key()}"
        )
        score(training, progress).save(self.folder, self.key())
        training.checkpoints.delete()

    @cached_property
    def _opened(self) -> Scores:
        return Scores.load(self.folder)

    def open(self) -> Scores:
        """The scores."""
        return self._opened
