"""Real images chosen by what a network trained on all of them sees: k-center and herding, class by class.

Sources: the greedy k-center of Sener and Savarese (ICLR 2018, https://arxiv.org/abs/1708.00489) and herding (Welling,
ICML 2009) as iCaRL chooses exemplars by it (https://arxiv.org/abs/1611.07725, algorithm 4), but for the scaling of
features to unit length. Both stand in DC's paper (https://arxiv.org/abs/2006.05929, section 4.1) as what a distilled
set has to beat. Neither draws anything: the first images of a longer selection are the shorter selection.

Letters: N images, of one class where features are compared, F features, K classes, M = images_per_class * K.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress, Work
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.ingredients.observer import Observer
from raydd.ingredients.real_training import real_training_identity
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, content_key, new_artefact
from raydd.storage.readable import legible
from raydd.training.loop import features
from raydd.training.recipe import Recipe
from raydd.training.sampling import repeated

KIND: Final = "selection"
Coreset = Literal["k_center", "herding"]
_FILE: Final = "selection.parquet"
_SCHEMA: Final = pa.schema([(name, pa.int64()) for name in get_args(Coreset)])


def k_center(features_NF: Tensor, count: int) -> Tensor:
    """Rows int64 [count] of images that leave none far away: each is the farthest from those before it.

    The first is the nearest to the mean of all. Of images that are equally far the one of the lowest row counts.
    """
    features_NF = features_NF.double()
    norms_N = features_NF.square().sum(1)
    chosen = [int(_squared_distances(features_NF, norms_N, features_NF.mean(0)).argmin())]
    nearest_N = torch.full_like(norms_N, torch.inf)
    while len(chosen) < count:
        last = chosen[-1]
        nearest_N = nearest_N.minimum(_squared_distances(features_NF, norms_N, features_NF[last]))
        nearest_N[last] = -torch.inf
        chosen.append(int(nearest_N.argmax()))
    return torch.tensor(chosen)


def herding(features_NF: Tensor, count: int) -> Tensor:
    """Rows int64 [count] of images, each of which brings the mean of those so far nearest to the mean of all."""
    features_NF = features_NF.double()
    norms_N, mean_F = features_NF.square().sum(1), features_NF.mean(0)
    chosen, sum_F = list[int](), torch.zeros_like(mean_F)
    while len(chosen) < count:
        distances_N = _squared_distances(features_NF, norms_N, (len(chosen) + 1) * mean_F - sum_F)
        distances_N[chosen] = torch.inf
        chosen.append(int(distances_N.argmin()))
        sum_F = sum_F + features_NF[chosen[-1]]
    return torch.tensor(chosen)


_CHOOSE: Final[Mapping[Coreset, Callable[[Tensor, int], Tensor]]] = {"k_center": k_center, "herding": herding}


@dataclass(frozen=True, eq=False)
class Selection:
    """What each way of choosing takes of the training images."""

    rows: Mapping[Coreset, Tensor]
    """int64 [M] of the training split, class-major, in the order of choice."""

    @classmethod
    def of(
        cls, features: Callable[[Tensor], Tensor], labels_N: Tensor, num_classes: int, images_per_class: int
    ) -> "Selection":
        """Choose images of every class.

        Args:
            features: of the images of a class by their rows, int64 [N] to float [N, F] on the CPU.
            labels_N: int64, of all images.
            num_classes: K.
            images_per_class: how many to choose; a class with fewer has all of them chosen, then the same again.
        """
        chosen: dict[Coreset, list[Tensor]] = {name: [] for name in _CHOOSE}
        for label in range(num_classes):
            rows_N = (labels_N == label).nonzero().squeeze(1)
            features_NF = features(rows_N)
            for name, choose in _CHOOSE.items():
                places = choose(features_NF, min(images_per_class, len(rows_N)))
                chosen[name].append(repeated(rows_N[places], images_per_class))
        return cls({name: torch.cat(parts) for name, parts in chosen.items()})

    def save(self, folder: Folder, key: str) -> None:
        """Write it as one artefact: a Parquet file of columns k_center and herding."""
        columns = [self.rows[name].numpy() for name in _CHOOSE]
        with new_artefact(folder, KIND, key) as writer, writer.writing(_FILE) as path:
            pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")

    @classmethod
    def load(cls, folder: Folder) -> "Selection":
        """Read what `save` wrote.

        Raises:
            ArtefactError: there is nothing, or it was altered.
        """
        with legible(folder.uri):
            table = pq.read_table(pa.BufferReader(Artefact.require(folder, KIND).read(_FILE)), schema=_SCHEMA)
            return cls({name: torch.tensor(table[name].to_numpy()) for name in _CHOOSE})


def selection_identity(
    recipe: Recipe, network: NetworkConfig, data: PreparedData, seed: int, images_per_class: int
) -> dict[str, Any]:
    """What determines a selection, for content keys."""
    return {**real_training_identity(KIND, recipe, network, data, seed), "images_per_class": images_per_class}


def _squared_distances(features_NF: Tensor, norms_N: Tensor, point_F: Tensor) -> Tensor:
    """Of every image, whose features' squared norms are known, to a point: float64 [N], up to rounding."""
    return norms_N - 2 * (features_NF @ point_F) + point_F.square().sum()


@dataclass(frozen=True)
class ChosenImages(Ingredient[Selection]):
    """The real images that the distilled ones are compared with, chosen by what an observer sees in them."""

    observer: Observer
    images_per_class: int
    within: Folder | None = None
    """A folder other than the kitchen's."""

    kind = KIND
    title = KIND

    @cached_property
    def _key(self) -> str:
        kitchen, observer = self.kitchen, self.observer
        identity = selection_identity(
            observer.recipe, kitchen.network, kitchen.data, observer.seed, self.images_per_class
        )
        return content_key(identity)

    def key(self) -> str:
        """Of the observer and their number."""
        return self._key

    @property
    def folder(self) -> Folder:
        """One for each key: other numbers of images have others."""
        return (self.within or self.kitchen.folder) / KIND / self.key()

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The observer."""
        return (self.observer,)

    def verify(self, is_read: bool) -> None:
        """See that it is as it was written, where it is read."""
        if is_read:
            super().verify(is_read)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Choose them."""
        data, observer = self.kitchen.data, self.observer.open()
        made = Selection.of(
            lambda rows: features(observer, data.train.images[rows]),
            data.train.labels,
            data.num_classes,
            self.images_per_class,
        )
        made.save(self.folder, self.key())
        progress.update(Work(KIND), 1, 1)

    @cached_property
    def _opened(self) -> Selection:
        return Selection.load(self.folder)

    def open(self) -> Selection:
        """Which these are."""
        return self._opened
