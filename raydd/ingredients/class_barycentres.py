"""The barycentres of all classes as an ingredient: a class is a piece.

Letters: P classes, K images of a class, n real images of a class, F features.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.interruption import Interruption
from raydd.core.keyed_random import Key, normal, permutation
from raydd.core.progress import Progress
from raydd.ingredients.barycentre import Barycentre, Masses, barycentre
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.measured_statistics import MeasuredStatistics
from raydd.storage import Artefact, content_key, new_artefact, self_checked
from raydd.storage.readable import legible
from raydd.training.sampling import repeated

KIND: Final = "barycentres"
Beginning = Literal["real", "normal"]
"""Where atoms start: at real images of the class, drawn without replacement; or at standard normal values."""
_FILE = "class-{:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class BarycentresConfig:
    """Which barycentres."""

    atoms: int
    """Of each class, K."""
    masses: Masses
    init: Beginning
    repeat_images: bool = False
    """Whether classes of fewer than K real images start from some of them several times; refused if not."""


@dataclass(frozen=True, eq=False)
class Barycentres:
    """Those of all classes; each is read when it is asked for."""

    artefact: Artefact

    def of(self, labels_P: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms, float32 [P, K, F], and masses, float64 [P, K], of classes, int64 [P]."""
        with legible(self.artefact.folder.uri):
            read = [load_tensors(self.artefact.read(_FILE.format(label))) for label in labels_P.tolist()]
            return torch.stack([one["atoms"] for one in read]), torch.stack([one["masses"] for one in read])

    def left(self, label: int) -> float:
        """The squared distance that is left between a class's barycentre and its images."""
        with legible(self.artefact.folder.uri):
            return float(load_tensors(self.artefact.read(_FILE.format(label)))["objective"])


def made_of(features_NF: Tensor, config: BarycentresConfig, key: Key) -> Barycentre:
    """The barycentre of a class's features, by draws of its own; with optimised masses from the one of equal masses.

    Raises:
        ConfigError: there are fewer images than atoms, which are not to be repeated; or the library is not there.
    """
    count, size = features_NF.shape
    if config.init == "normal":
        start = normal(key.child("atoms"), torch.arange(config.atoms), size)
    elif count < (1 if config.repeat_images else config.atoms):
        raise ConfigError(
            "method.images_per_class",
            f"{config.atoms} atoms asked for, but a class has only {count} real images to start them from; set "
            "method.repeat_images to true to take some several times",
        )
    else:
        start = features_NF[repeated(permutation(key.child("rows"), count), config.atoms)]
    equal = barycentre(features_NF, start)
    return equal if config.masses == "uniform" else barycentre(features_NF, equal.atoms, config.masses)


@dataclass(frozen=True)
class ClassBarycentres(Ingredient[Barycentres]):
    """The barycentre of every class's features."""

    statistics: MeasuredStatistics
    config: BarycentresConfig

    kind = KIND
    title = KIND
    determined_by = ("data", "network", "teacher", "method", "seed")

    @property
    def spread(self) -> Spread:
        """A class is an actor's work."""
        return "actors"

    @cached_property
    def _key(self) -> str:
        return content_key(
            {"statistics": self.statistics.key(), "seed": self.kitchen.seed, "config": asdict(self.config)}
        )

    def key(self) -> str:
        """Of the features, the atoms, and the seed of the run."""
        return self._key

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The features."""
        return (self.statistics,)

    def pieces(self) -> Sequence[int]:
        """Classes without a barycentre."""
        there = set(self._work.files())
        return [label for label in range(self.counted) if _FILE.format(label) not in there or not self._is_whole(label)]

    @property
    def counted(self) -> int:
        """All classes."""
        return self.kitchen.data.num_classes

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """The barycentre of a class."""
        key = Key.root(self.kitchen.seed).child(KIND, piece)
        found = made_of(self.statistics.open().features(piece), self.config, key)
        tensors = {"atoms": found.atoms.float(), "masses": found.masses, "objective": torch.tensor(found.objective)}
        self_checked.write(self._work, _FILE.format(piece), tensors | {"rounds": torch.tensor(found.rounds)})

    def finish(self) -> None:
        """Put them together, and forget the pieces."""
        with new_artefact(self.folder, KIND, self.key()) as writer:
            for label in range(self.counted):
                tensors, _ = self_checked.read(self._work, _FILE.format(label))
                writer.write(_FILE.format(label), save_tensors(tensors))
        self._work.delete_all()

    @cached_property
    def _opened(self) -> Barycentres:
        return Barycentres(Artefact.require(self.folder, KIND))

    def open(self) -> Barycentres:
        """The barycentres."""
        return self._opened

    @property
    def _work(self) -> Any:
        return self.kitchen.work / KIND / self.key()

    def _is_whole(self, label: int) -> bool:
        try:
            self_checked.read(self._work, _FILE.format(label))
        except ArtefactError:
            return False
        return True
