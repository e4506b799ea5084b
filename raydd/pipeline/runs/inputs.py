"""What a run works with: its config, its folder, the real data, and the ingredients that are made of these."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from raydd.config import RunConfig
from raydd.core import compilation
from raydd.core.keyed_random import Key
from raydd.data import DataFacts, Undecoded, prepared, signature, undecoded
from raydd.data.prepared import PreparedData
from raydd.data.streamed_images import ImageReader, Streamed, read_here
from raydd.ingredients.base import Ingredient
from raydd.ingredients.coreset import ChosenImages
from raydd.ingredients.expert_trajectories import ExpertTrajectories
from raydd.ingredients.forgetting import ForgettingScores
from raydd.ingredients.observer import Observer
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.ingredients.teacher_ranking import TeacherRanking
from raydd.ingredients.trained_teacher import TrainedTeacher
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder, content_key
from raydd.storage.event_log import METRICS
from raydd.training.cost import training
from raydd.training.recipe import Recipe


@dataclass(frozen=True)
class RunInputs:
    """A config and its folder, as a kitchen of ingredients. Small and picklable: workers open the rest themselves."""

    config: RunConfig
    folder: Folder
    reader: ImageReader = field(default=read_here, kw_only=True)
    """Decodes images that are streamed."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened here: the data do not travel."""
        return {"config": self.config, "folder": self.folder, "reader": self.reader}

    @property
    def name(self) -> str:
        """Of the run, in reports and on dashboards."""
        return self.config.name

    @property
    def work(self) -> Folder:
        """What may be deleted when the run is finished."""
        return self.folder / "work"

    @property
    def synthetic(self) -> Folder:
        """The distilled set: the union of all stages."""
        return self.folder / "synthetic"

    @property
    def average(self) -> Folder:
        """The distilled set with its images averaged over the iterations, where the method keeps an average."""
        return self.folder / "ema"

    @property
    def results(self) -> Folder:
        """One record a student."""
        return self.folder / "results"

    @property
    def metrics(self) -> Folder:
        """JSON lines of experts and distilling."""
        return self.folder / METRICS

    @property
    def sets(self) -> tuple[str, ...]:
        """The folders, of the run and of each stage, of the sets that distilling makes."""
        return ("synthetic", "ema") if self.config.method.has_average else ("synthetic",)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.config.seed

    def key(self) -> Key:
        """The root of the run's draws."""
        return Key.root(self.config.seed)

    @property
    def network(self) -> NetworkConfig:
        """Of experts and inner loop, and of whatever is trained on the real data without a network of its own."""
        return self.config.network

    @property
    def device(self) -> torch.device:
        """The GPU that this process sees first, or the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def data_key(self) -> str:
        """Of the prepared data in `work/`: changes with the config and with names and times of the source's files."""
        validation = self.config.seed if self.config.data.validation_fraction else None
        return content_key(
            {"config": self.config.data.identity(), "files": signature(self.config.data), "seed": validation}
        )

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data: mapped from `work/` where it lies there, else made anew."""
        saved = prepared.open_saved(self.work / "data", self.data_key)
        return (saved or prepared.prepare(self.config.data, self.key(), self.work)).read_by(self.reader)

    @property
    def facts(self) -> DataFacts:
        """The size of the data, by which work is planned."""
        return DataFacts(len(self.data.train), len(self.data.test), self.data.shape, self.data.num_classes)

    @property
    def training_files(self) -> Undecoded:
        """The training images by their files."""
        images = self.data.train.images
        if isinstance(images, Streamed):
            return images.files
        return undecoded(self.config.data, self.key(), self.data.skipped)

    def compiles(self, network: NetworkConfig, recipe: Recipe, num_images: int) -> bool:
        """Whether a training on so many images is compiled: by the plan and not by a clock."""
        cluster = self.config.cluster
        flops = training(network, recipe, self.facts, num_images, 0).flops
        return compilation.chosen(cluster.compile, flops, self.device, cluster.threads_per_worker)

    def pack(self, fastest: Callable[[], int]) -> int:
        """How many networks a process trains side by side; the one choice that asks a clock, on a GPU."""
        if self.config.cluster.pack != "auto":
            return self.config.cluster.pack
        return 1 if self.device.type == "cpu" else fastest()

    @cached_property
    def experts(self) -> ExpertTrajectories:
        """The expert trajectories, with the epochs that stages read which do not match trajectories of their own."""
        config = self.config
        last = config.experts.training.epochs
        readers = [method for stage, method in enumerate(config.methods) if not config.uses_trajectories(stage)]
        read = frozenset(epoch for method in readers for epoch in method.epochs_read(last))
        return ExpertTrajectories(self, config.experts, config.experts_seed, read)

    @cached_property
    def teacher(self) -> TrainedTeacher:
        """The teacher, with the epochs after which stages need it; none where all take the finished one."""
        config, epochs = self.config, frozenset[int]()
        if "teacher_epoch" in config.stages.teacher_conditions:
            epochs = frozenset(teacher_epochs(config.teacher.training.epochs, config.stages.count))
        return TrainedTeacher(self, config.teacher, config.teacher_network, config.teacher_seed, epochs)

    @cached_property
    def ranking(self) -> TeacherRanking:
        """The ranking of the training images by the teacher."""
        return TeacherRanking(self, self.config.ranking, self.teacher)

    @cached_property
    def scores(self) -> ForgettingScores | None:
        """How often each training image is forgotten, where a filter asks."""
        chosen = self.config.stages.filter
        if chosen is None or not chosen.needs_scores:
            return None
        return ForgettingScores(self, chosen.scoring, self.config.seed)

    @cached_property
    def observer(self) -> Observer:
        """The network that looks at real and distilled images."""
        return Observer(self, self.config.evaluate.selector, self.config.experts_seed)

    @cached_property
    def selection(self) -> ChosenImages:
        """The real images that are chosen to be compared with."""
        return ChosenImages(self, self.observer, self.config.images_per_class)

    @cached_property
    def made_first(self) -> dict[str, Ingredient[Any]]:
        """What the method needs made from the real data, by kind, in order."""
        own = {ingredient.kind: ingredient for ingredient in self.config.method.ingredients(self)}
        return {kind: own[kind] if kind in own else self._known(kind) for kind in self.config.method.made_first}

    def _known(self, kind: str) -> Ingredient[Any]:
        if kind == "experts":
            return self.experts
        if kind == self.selection.kind:
            return self.selection
        return self.teacher if kind == "teacher" else self.ranking
