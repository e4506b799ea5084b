"""Expert trajectories as an ingredient: dealt by number, in packs that train side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.ingredients import experts
from raydd.ingredients.base import SIGNALS, Claim, Ingredient, Spread
from raydd.ingredients.experts import ExpertsConfig
from raydd.ingredients.setting import Setting, setting
from raydd.ingredients.trajectories import KIND, TrajectoryStore
from raydd.ingredients.trajectory_card import read_card, require_card
from raydd.storage import Artefact, Folder, content_key

CURVES = "experts.jsonl"


@dataclass(frozen=True)
class ExpertTrajectories(Ingredient[TrajectoryStore]):
    """The run's experts, which other runs may share."""

    config: ExpertsConfig
    seed: int
    read: frozenset[int] = frozenset()
    """The epochs that are read of them."""

    kind = KIND
    title = "experts"
    determined_by = ("data", "network", "experts.training", "experts.seed", "seed")

    @property
    def spread(self) -> Spread:
        """A pool of actors."""
        return "actors"

    @cached_property
    def store(self) -> TrajectoryStore:
        """Where they are, or will be."""
        card = experts.trajectory_card(self.config, self.kitchen.network, self.kitchen.data, self.seed)
        if self.config.store is None:
            return TrajectoryStore(self.kitchen.folder / KIND, card)
        root = Folder.at(self.config.store)
        artefact = Artefact.find(root, KIND)
        if artefact is None:
            return TrajectoryStore(root / content_key(card.identity()), card)
        require_card(read_card(artefact), card, root.uri)
        return TrajectoryStore(root, card)

    @property
    def folder(self) -> Folder:
        """The run's own, or that of a shared store."""
        return self.store.folder

    def key(self) -> str:
        """Of network, data, recipe and seed; not of their number."""
        return content_key(self.store.card.identity())

    def is_published(self) -> bool:
        """Whether all that the config names are finished and listed in the manifest."""
        artefact = Artefact.find(self.folder, KIND)
        last = f"expert-{self.config.count - 1:05d}.json"
        return artefact is not None and artefact.manifest.key == self.key() and last in artefact.names()

    def is_made(self) -> bool:
        """Whether all are there, with the epochs that are read."""
        return not self.missing() and self.is_published()

    def claims(self) -> Sequence[Claim]:
        """Its place in the run's own folder; what lies in a shared store is compared when that is opened."""
        return super().claims() if self.config.store is None else ()

    def verify(self, is_read: bool) -> None:
        """See that they are as they were written, where they are read; each by itself while not all are there."""
        if is_read:
            super().verify(is_read)
            if not self.is_published():
                for number in filter(self.store.has, range(self.config.count)):
                    self.store.reader(number)

    def missing(self) -> list[int]:
        """Those that are not trained, or stored without an epoch that is read."""
        read, numbers = sorted(self.read), range(self.config.count)
        return [n for n in numbers if not self.store.has(n) or self.store.lacks(n, read)]

    def begin(self) -> None:
        """Experts that are to be completed do not count as published meanwhile."""
        if any(map(self.store.has, self.missing())):
            self.store.withdraw()

    def pieces(self) -> Sequence[list[int]]:
        """Packs of those that are missing."""
        missing = self.missing()
        return experts.packs(missing, self.pack()) if missing else []

    def num_missing(self) -> int:
        """Experts, however they are packed."""
        return len(self.missing())

    def pack(self) -> int:
        """How many train side by side."""
        return self.kitchen.pack(lambda: experts.fastest_pack(self.config, self._setting()))

    def make(self, piece: list[int], progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train a pack of experts side by side, or complete those that lack epochs."""
        experts.train_experts(
            piece,
            self.config,
            self._setting(),
            self.store,
            self.kitchen.work / "experts" / self.key(),
            progress,
            experts.epochs_stored(self.config, self.read),
        )

    def finish(self) -> None:
        """See that all are there, and write the manifest."""
        self.store.check(self.config.count, self.config.training.epochs)
        if not self.is_published():
            self.store.publish(self.key())

    def open(self) -> TrajectoryStore:
        """The store."""
        return self.store

    def _setting(self) -> Setting:
        return setting(self.kitchen, self.kitchen.network, self.config.training)


@dataclass(frozen=True)
class ExpertCurves(Ingredient[list[dict[str, Any]]]):
    """Loss and accuracies of all experts after every epoch, in the run's own folder."""

    experts: ExpertTrajectories

    kind = "curves"
    title = "curves of experts"

    @property
    def spread(self) -> Spread:
        """They are read off what is stored."""
        return "here"

    def key(self) -> str:
        """Of the experts."""
        return self.experts.key()

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The experts."""
        return (self.experts,)

    def is_made(self) -> bool:
        """Whether they are written, of the experts that are there."""
        return self.experts.is_made() and self.kitchen.metrics.has(CURVES)

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Write them."""
        rows = self.open()
        self.kitchen.metrics.write(CURVES, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def open(self) -> list[dict[str, Any]]:
        """A row for every epoch of every expert."""
        return [
            {"expert": number, **point}
            for number in range(self.experts.config.count)
            for point in self.experts.store.reader(number).curve()
            if point["epoch"]
        ]
