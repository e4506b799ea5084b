"""One stage of a run: its method, what it begins with, and the names, keys and opening of everything that it makes."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from raydd.config.stages import StagesConfig
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.ingredients.base import Ingredient
from raydd.ingredients.coreset import KIND as SELECTION
from raydd.ingredients.experts import ExpertsConfig, epochs_stored, trajectory_card
from raydd.ingredients.network_pool import NetworkPool
from raydd.ingredients.teacher import Teacher
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.ingredients.trajectories import KIND as EXPERTS
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.methods import MethodConfig, Start, Task, method_identity
from raydd.pipeline.runs.filtered_data import FilteredData
from raydd.pipeline.runs.inputs import RunInputs
from raydd.sets.synthetic import KIND as SYNTHETIC
from raydd.sets.synthetic import SyntheticSet, union
from raydd.storage import Artefact, Folder, content_key
from raydd.training.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """A stage of a run, counted from 0."""

    run: RunInputs
    before: tuple["Stage", ...] = ()
    """All earlier stages, in order."""

    @property
    def number(self) -> int:
        """Counted from 0."""
        return len(self.before)

    @property
    def method(self) -> MethodConfig:
        """The method as it is in this stage."""
        return self.run.config.methods[self.number]

    @property
    def config(self) -> StagesConfig:
        """What all stages share."""
        return self.run.config.stages

    @property
    def earlier(self) -> "Stage":
        """The stage before this one."""
        return self.before[-1]

    @property
    def draws(self) -> Key:
        """The root of the stage's draws."""
        return self.run.key().child("stage", self.number)

    @cached_property
    def key(self) -> str:
        """Content key of what the stage distils."""
        identity = {**self._source(), "method": method_identity(self.method), "seed": self.run.config.seed}
        return content_key({**identity, **self._conditions()})

    @cached_property
    def union_key(self) -> str:
        """Content key of the images of this and all earlier stages."""
        if not self.number:
            return self.key
        return content_key({"stages": [stage.key for stage in (*self.before, self)]})

    @property
    def folder(self) -> Folder:
        """What the stage makes and starts from."""
        if self.config.store is None:
            return self.run.folder / "stages" / f"{self.number:03d}"
        return Folder.at(self.config.store) / self.key

    @property
    def uses_pool(self) -> bool:
        """Whether networks that were trained on the earlier stages are needed."""
        return self.run.config.uses_pool(self.number)

    @property
    def uses_trajectories(self) -> bool:
        """Whether there are trajectories of the stage's own."""
        return self.run.config.uses_trajectories(self.number)

    @cached_property
    def pool(self) -> NetworkPool:
        """The networks in which the stage begins; there is one for each stage but the first."""
        return NetworkPool(
            self._shared("pool", self.pool_key),
            self.run.work / "pool" / self.pool_key,
            self.pool_key,
            self.config.pool_size,
        )

    @cached_property
    def pool_key(self) -> str:
        """Content key of the pool."""
        identity: dict[str, Any] = {
            "network": self.run.config.network.identity(),
            "size": self.config.pool_size,
            "seed": self.run.config.experts_seed,
            "recipe": self.transition.identity(),
            "carry_momentum": self.config.carry_momentum,
            "unions": [stage.union_key for stage in self.before],
        }
        return content_key(identity)

    @property
    def transition(self) -> Recipe:
        """How the networks of the pool are trained on the images of the stage before."""
        config, data = self.run.config, self.run.data
        recipe = config.evaluate.recipe_for(config.network, config.images_per_class, data.num_classes, data.name)
        return self.config.transition(recipe)

    @cached_property
    def trajectories(self) -> TrajectoryStore:
        """What a method that matches trajectories matches here."""
        if not self.uses_trajectories:
            return self.run.experts.store
        config = self.run.config
        card = trajectory_card(self.experts, config.network, self._named_data, config.experts_seed, self.pool_key)
        return TrajectoryStore(self._shared("experts", content_key(card.identity())), card)

    @property
    def experts(self) -> ExpertsConfig:
        """How those trajectories are trained."""
        config = self.run.config
        if not self.uses_trajectories:
            return config.experts
        training = replace(config.experts.training, epochs=config.trajectory_epochs(self.number))
        return replace(config.experts, count=self.config.pool_size, training=training)

    @property
    def epochs_stored(self) -> list[int]:
        """The epochs of a trajectory that are stored."""
        return epochs_stored(self.experts, self.method.epochs_read(self.experts.training.epochs))

    def missing_trajectories(self) -> list[int]:
        """The trajectories of the stage's own that are not trained, or not there any more."""
        return self.trajectories.missing(self.config.pool_size)

    def publish_trajectories(self) -> None:
        """Make an artefact of them."""
        self.trajectories.publish(self.trajectories_key)

    @property
    def trajectories_key(self) -> str:
        """Content key of what is matched."""
        return content_key(self.trajectories.card.identity())

    @property
    def has_trajectories(self) -> bool:
        """Whether all trajectories of the stage's own are finished."""
        artefact = Artefact.find(self.trajectories.folder, EXPERTS)
        return artefact is not None and not self.missing_trajectories()

    @cached_property
    def filtered(self) -> FilteredData | None:
        """What a filter leaves of the real data; None where there is no filter."""
        if self.config.filter is None:
            return None
        pool = self.pool if self.number and self.uses_pool else None
        least = 1 if self.method.repeat_images else self.method.images_per_class
        return FilteredData(self.run, self.config.filter, self.number, least, pool)

    @cached_property
    def data(self) -> PreparedData:
        """The real data that the stage sees."""
        return self.run.data if self.filtered is None else self.filtered.data()

    @property
    def teacher_epoch(self) -> int | None:
        """The epoch after which the stage takes the teacher; None for the finished one."""
        if "teacher_epoch" not in self.config.teacher_conditions:
            return None
        return teacher_epochs(self.run.config.teacher.training.epochs, self.config.count)[self.number]

    @property
    def teacher(self) -> Teacher:
        """The teacher that the stage distils."""
        return self.run.teacher.open() if self.teacher_epoch is None else self.run.teacher.at(self.teacher_epoch)

    def task(self) -> Task:
        """What the method works on."""
        run, own = self.run, self._own
        task = Task(
            data=self.data,
            network=run.config.network,
            device=run.device,
            kept_steps=run.config.cluster.kept_steps,
            given={ingredient.kind: ingredient.open() for ingredient in own},
        )
        for kind in self.method.made_first:
            if kind not in task.given:
                task = replace(task, **self._given(kind))
        return task

    def _given(self, kind: str) -> dict[str, Any]:
        """What a task has of an ingredient, as it is in this stage."""
        if kind == "experts":
            last_epoch = self.experts.training.epochs
            return {"trajectories": self.trajectories, "num_experts": self.experts.count, "last_epoch": last_epoch}
        return {kind: self.teacher if kind == "teacher" else self.run.ranking.open()}

    def start(self) -> Start:
        """What the stage begins with."""
        config, teaches = self.config, self.has_teacher
        if not self.number:
            return Start()
        frozen = config.freezes(self.number) and (not teaches or "statistics" in config.teacher_conditions)
        pooled = self.uses_pool and (not teaches or "disagreement" in config.teacher_conditions)
        return Start(
            stage=self.number,
            frozen=self.earlier.union() if frozen else None,
            frozen_lr_scale=config.frozen_lr_scale,
            pool=self.pool if pooled else (),
            fresh_fraction=config.fresh_fraction,
        )

    def has(self, name: str) -> bool:
        """Whether a set of the stage is finished."""
        return has_set(self.folder / name, self.key)

    @property
    def is_finished(self) -> bool:
        """Whether all sets of the stage are finished."""
        return all(map(self.has, self.sets))

    @property
    def sets(self) -> tuple[str, ...]:
        """The folders of the sets that the stage makes."""
        revises = self.number and self.config.freezes(self.number) and self.config.frozen_lr_scale
        return (*self.run.sets, "revised") if revises else self.run.sets

    def part(self, name: str = "synthetic") -> SyntheticSet:
        """The images of this stage alone: as distilled, averaged (`ema`), or as they began (`init`)."""
        return SyntheticSet.load(self.folder / name)

    def union(self, name: str = "synthetic") -> SyntheticSet:
        """The images of this and all earlier stages, those of the earlier ones as this stage left them."""
        if not self.number:
            return self.part(name)
        earlier = self.part("revised") if "revised" in self.sets and name == "synthetic" else self.earlier.union(name)
        return union([earlier, self.part(name)])

    def set_folders(self) -> list[Folder]:
        """Where its sets are, and class groups until these are put together."""
        folders = [self.folder / name for name in ("init", *self.sets)]
        if not self.is_finished:
            folders += [self.group(number) for number in range(self.num_groups)]
        return folders

    @property
    def has_teacher(self) -> bool:
        """Whether the stage distils a teacher, and so goes by the conditions for those."""
        return "teacher" in self.method.made_first

    @property
    def has_groups(self) -> bool:
        """Whether class groups are recovered independently."""
        return self.method.deals_groups

    @property
    def num_groups(self) -> int:
        """Class groups that are recovered independently."""
        return self.method.num_groups(self.run.data.num_classes)

    def group(self, number: int) -> Folder:
        """What a class group makes and starts from."""
        return self.folder / "groups" / f"{number:05d}"

    def has_group(self, number: int) -> bool:
        """Whether a class group is finished."""
        return all(has_set(self.group(number) / name, self.key) for name in ("init", "synthetic"))

    @property
    def has_all_groups(self) -> bool:
        """Whether all class groups are finished."""
        return all(map(self.has_group, range(self.num_groups)))

    def card(self) -> dict[str, Any]:
        """What the cards of the stage's sets say of it."""
        if not self.number:
            return {}
        parents = [{"stage": stage.number, "key": stage.key} for stage in self.before]
        return {"stage": self.number, "conditioning": self.config.conditioning, "parents": parents}

    @property
    def _own(self) -> tuple[Ingredient[Any], ...]:
        """What the method needs, beside experts, teacher and ranking."""
        chosen = (self.run.selection,) if SELECTION in self.method.made_first else ()
        return (*self.method.ingredients(self.run), *chosen)

    def _source(self) -> dict[str, Any]:
        """What determines the images beside the method, its draws, and the earlier stages."""
        kinds = self.method.made_first
        own = {ingredient.kind: ingredient.key() for ingredient in self._own}
        if "experts" in kinds:
            return own | {"experts": self.trajectories_key, "num_experts": self.experts.count}
        if "teacher" in kinds:
            epoch = self.teacher_epoch
            return own | {"teacher": self.run.teacher.key()} | ({} if epoch is None else {"teacher_epoch": epoch})
        data, network = self._named_data, self.run.config.network.identity()
        preprocessing = data.preprocessing.describe()
        return own | {"data": data.fingerprint, "preprocessing": preprocessing, "network": network}

    def _conditions(self) -> dict[str, Any]:
        """What determines them of the earlier stages."""
        config = self.config
        said: dict[str, Any] = {} if config.filter is None else {"data": self._named_data.fingerprint}
        if not self.number:
            return said
        said["stage"] = self.number
        if config.freezes(self.number):
            said |= {"frozen": self.earlier.union_key, "frozen_lr_scale": config.frozen_lr_scale}
        if self.uses_pool:
            said |= {"pool": self.pool_key, "fresh_fraction": config.fresh_fraction}
        if self.has_teacher:
            said |= {"teacher_conditions": list(config.teacher_conditions)}
        return said

    @property
    def _named_data(self) -> PreparedData:
        """All real data, under the name of those that the stage sees."""
        return self.run.data if self.filtered is None else self.filtered.named

    def _shared(self, name: str, key: str) -> Folder:
        if self.config.store is None:
            return self.run.folder / "stages" / f"{self.number:03d}" / name
        return Folder.at(self.config.store) / key


def has_set(folder: Folder, key: str) -> bool:
    """Whether a set of this content key is finished in a folder."""
    artefact = Artefact.find(folder, SYNTHETIC)
    return artefact is not None and artefact.manifest.key == key
