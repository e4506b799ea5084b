"""The stages of a run as ingredients: what each begins with, its set, and the set of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.data.prepared import PreparedData
from raydd.ingredients import experts
from raydd.ingredients.base import SIGNALS, Claim, Ingredient, Spread
from raydd.ingredients.network_pool import KIND as POOL
from raydd.ingredients.network_pool import NetworkPool
from raydd.ingredients.trajectories import KIND as EXPERTS
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.pipeline.runs.filtered_data import FilteredData
from raydd.pipeline.runs.run import Run
from raydd.pipeline.runs.stage import Stage
from raydd.pipeline.work import distill, transitions
from raydd.sets.synthetic import KIND as SYNTHETIC
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder, verify_below

SETS_DETERMINED_BY: Final = ("data", "network", "experts", "teacher", "method", "stages", "evaluate.recipe", "seed")
"""The parts of a config that may determine a distilled set."""
StageMade = TypeVar("StageMade")


@dataclass(frozen=True)
class OfStage(Ingredient[StageMade]):
    """Something that a stage makes, or begins with; the job that distils one stage after the other makes it."""

    run: Run
    number: int
    """Of the stage."""

    @property
    def stage(self) -> Stage:
        """The stage."""
        return self.run.stages[self.number]

    @property
    def spread(self) -> Spread:
        """One job for all stages."""
        return "train"

    @property
    def label(self) -> str:
        """The stage, where there are several."""
        return "" if self.run.config.stages.count == 1 else f"stage {self.number}"

    def claims(self) -> Sequence[Claim]:
        """Nothing: what a stage begins with is made anew where it is to be another."""
        return ()

    @property
    def _earlier_sets(self) -> "list[StageSet]":
        return [StageSet(self.run, self.run, number) for number in range(self.number)]

    @property
    def _filtered_data(self) -> "list[StageData]":
        return [] if self.stage.filtered is None else [StageData(self.run, self.run, self.number)]


@dataclass(frozen=True)
class StagePool(OfStage[NetworkPool]):
    """The networks in which a stage begins, dealt to workers in packs that train side by side."""

    kind = POOL
    title = "networks"

    @property
    def deals_pieces(self) -> bool:
        """Each worker trains packs of its own."""
        return True

    @property
    def folder(self) -> Folder:
        """Of the stage."""
        return self.stage.pool.folder

    def key(self) -> str:
        """Of the earlier stages, the recipe and the networks' draws."""
        return self.stage.pool_key

    def is_made(self) -> bool:
        """Whether all are there."""
        return self.stage.pool.is_finished

    def verify(self, is_read: bool) -> None:
        """See that they are as they were written; those of which files are missing are trained again."""
        if self.is_made():
            super().verify(is_read)

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The sets that they are trained on, as they began the stage before, and a teacher that labels."""
        earlier = [StagePool(self.run, self.run, self.number - 1)] if self.number > 1 else []
        taught = self.run.made_first.values() if self.stage.has_teacher else ()
        return (*taught, *self._earlier_sets, *earlier)

    def num_missing(self) -> int:
        """Networks, however they are packed."""
        return len(self.stage.pool.missing())

    def pieces(self) -> Sequence[list[int]]:
        """Packs of those that are missing."""
        return experts.packs(self.stage.pool.missing(), self.run.experts.pack())

    def make(self, piece: list[int], progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train a pack."""
        transitions.pass_on(self.run, self.stage, piece, progress)

    def finish(self) -> None:
        """Make an artefact of them."""
        if not self.is_made():
            self.stage.pool.publish()

    def open(self) -> NetworkPool:
        """The networks."""
        return self.stage.pool


@dataclass(frozen=True)
class StageData(OfStage[PreparedData]):
    """The real images that a filter leaves to a stage, decided once."""

    kind = "mask"
    title = "real data"

    @property
    def deals_pieces(self) -> bool:
        """One worker decides."""
        return True

    @property
    def folder(self) -> Folder:
        """Under `work/`: what is kept there is no artefact."""
        return self._filtered.folder

    def key(self) -> str:
        """Of the real data, the filter and what it goes by."""
        return self._filtered.named.fingerprint

    def is_made(self) -> bool:
        """Whether it is decided."""
        return self._filtered.is_chosen

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The scores, or the networks, that the filter goes by."""
        scores, asks = self.run.scores, self._filtered.pool is not None and self.stage.config.filters_by_pool
        pool = [StagePool(self.run, self.run, self.number)] if asks else []
        return (*([] if scores is None else [scores]), *pool)

    def num_missing(self) -> int:
        """All, or nothing."""
        return int(not self.is_made())

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Decide it."""
        self._filtered.choose()

    def open(self) -> PreparedData:
        """What is left."""
        return self._filtered.data()

    @property
    def _filtered(self) -> FilteredData:
        filtered = self.stage.filtered
        assert filtered is not None
        return filtered


@dataclass(frozen=True)
class StageTrajectories(OfStage[TrajectoryStore]):
    """Trajectories from the networks of a stage's pool on, dealt to workers in packs that train side by side.

    They go when the stage is finished, unless it keeps them.
    """

    kind = EXPERTS
    title = "trajectories"

    @property
    def deals_pieces(self) -> bool:
        """Each worker trains packs of its own."""
        return True

    @property
    def folder(self) -> Folder:
        """Of the stage."""
        return self.stage.trajectories.folder

    def key(self) -> str:
        """Of the pool, the real data, the recipe and the draws."""
        return self.stage.trajectories_key

    def is_made(self) -> bool:
        """Whether all are there."""
        return self.stage.has_trajectories

    def verify(self, is_read: bool) -> None:
        """See that they are as they were written, where they are read and no file is missing."""
        if is_read and self.is_made():
            super().verify(is_read)

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """The networks that they begin in, and the real data."""
        return (StagePool(self.run, self.run, self.number), *self._filtered_data)

    def num_missing(self) -> int:
        """Trajectories, however they are packed."""
        return len(self.stage.missing_trajectories())

    def pieces(self) -> Sequence[list[int]]:
        """Packs of those that are missing."""
        return experts.packs(self.stage.missing_trajectories(), self.run.experts.pack())

    def make(self, piece: list[int], progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Train a pack."""
        transitions.train_experts(self.stage, piece, progress)

    def finish(self) -> None:
        """Make an artefact of them."""
        if not self.is_made():
            self.stage.publish_trajectories()

    def open(self) -> TrajectoryStore:
        """The store."""
        return self.stage.trajectories


@dataclass(frozen=True)
class StageSet(OfStage[SyntheticSet]):
    """The set that a stage distils: in steps that all workers take together, or class group by class group."""

    kind = "stage"
    title = "distill"
    determined_by = SETS_DETERMINED_BY

    @property
    def deals_pieces(self) -> bool:
        """Each worker recovers class groups of its own, where there are such."""
        return self.stage.has_groups

    @property
    def folder(self) -> Folder:
        """Of the images as they are distilled."""
        return self.stage.folder / SYNTHETIC

    def key(self) -> str:
        """Of method, draws, what the stage sees and what it is conditioned on."""
        return self.stage.key

    def is_made(self) -> bool:
        """Whether all sets of the stage are there."""
        return self.stage.is_finished

    def claims(self) -> Sequence[Claim]:
        """Its folders of the stage."""
        keys = frozenset({self.key()})
        return [Claim(SYNTHETIC, self.stage.folder / name, keys) for name in self.run.sets]

    def verify(self, is_read: bool) -> None:
        """See that its sets are as they were written, and class groups until they are put together."""
        for folder in self.stage.set_folders():
            verify_below(folder)

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """What the method needs, and what the stage begins with."""
        run, stage = self.run, self.stage
        return (
            *run.made_first.values(),
            *(self._earlier_sets if stage.config.freezes(self.number) or stage.uses_pool else ()),
            *([StagePool(run, run, self.number)] if stage.uses_pool else ()),
            *self._filtered_data,
            *([StageTrajectories(run, run, self.number)] if stage.uses_trajectories else ()),
        )

    def num_missing(self) -> int:
        """Class groups, however they are packed; or one set."""
        stage = self.stage
        return sum(not stage.has_group(group) for group in range(stage.num_groups)) if stage.has_groups else 1

    def pieces(self) -> Sequence[tuple[int, ...]]:
        """Packs of class groups in which one is missing; or one piece."""
        return distill.missing_packs(self.stage) if self.stage.has_groups else [()]

    def make(self, piece: tuple[int, ...], progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Recover a pack of class groups, or distil the set.

        Raises:
            Interrupted: it was broken off; what was under way is saved.
        """
        if self.stage.has_groups:
            distill.recover(self.stage, piece, progress, interruption)
        else:
            distill.match(self.stage, progress, interruption)

    def finish(self) -> None:
        """Put class groups together, and delete what no later stage needs."""
        if self.stage.has_groups:
            distill.join(self.stage)
        if self.stage.uses_trajectories and not self.stage.config.keep_trajectories:
            self.stage.trajectories.folder.delete_all()

    def open(self) -> SyntheticSet:
        """The images of this stage alone."""
        return self.stage.part()
