"""What a run works with: its config, its folder, and the names, keys and opening of all that its stages share."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from raydd.config import RunConfig
from raydd.core.keyed_random import Key
from raydd.data import Undecoded, prepared, signature, undecoded
from raydd.data.prepared import PreparedData
from raydd.data.streamed_images import ImageReader, Streamed, read_here
from raydd.ingredients import observer
from raydd.ingredients.coreset import KIND as SELECTION
from raydd.ingredients.coreset import Selection, selection_identity
from raydd.ingredients.experts import trajectory_card
from raydd.ingredients.forgetting import KIND as SCORES
from raydd.ingredients.forgetting import Scores, scores_identity
from raydd.ingredients.ranking import KIND as RANKING
from raydd.ingredients.ranking import Parts
from raydd.ingredients.teacher import KIND as TEACHER
from raydd.ingredients.teacher import Teacher, teacher_identity
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.ingredients.trajectories import KIND as EXPERTS
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.ingredients.trajectory_card import read_card, require_card
from raydd.networks import Network
from raydd.storage import Artefact, Folder, content_key


@dataclass(frozen=True)
class RunInputs:
    """A config and its folder, and what is made from the real data. Small and picklable: workers open the rest."""

    config: RunConfig
    folder: Folder
    reader: ImageReader = field(default=read_here, kw_only=True)
    """Decodes images that are streamed."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened here: the data do not travel."""
        return {"config": self.config, "folder": self.folder, "reader": self.reader}

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
        return self.folder / "metrics"

    @property
    def sets(self) -> tuple[str, ...]:
        """The folders, of the run and of each stage, of the sets that distilling makes."""
        return ("synthetic", "ema") if self.config.method.has_average else ("synthetic",)

    def key(self) -> Key:
        """The root of the run's draws."""
        return Key.root(self.config.seed)

    @property
    def device(self) -> torch.device:
        """The GPU that this process sees first, or the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def data_key(self) -> str:
        """Of the prepared data in `work/`: changes with the config and with names and times of the source's files."""
        validation = self.config.seed if self.config.data.validation_fraction else None
        return content_key(
            {"config": asdict(self.config.data), "files": signature(self.config.data), "seed": validation}
        )

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data: mapped from `work/` where it lies there, else made anew."""
        saved = prepared.open_saved(self.work / "data", self.data_key)
        return (saved or prepared.prepare(self.config.data, self.key(), self.work)).read_by(self.reader)

    @property
    def training_files(self) -> Undecoded:
        """The training images by their files."""
        images = self.data.train.images
        if isinstance(images, Streamed):
            return images.files
        return undecoded(self.config.data, self.key(), self.data.skipped)

    @cached_property
    def trajectories(self) -> TrajectoryStore:
        """Where the experts are, or will be."""
        card = trajectory_card(self.config.experts, self.config.network, self.data, self.config.experts_seed)
        key = content_key(card.identity())
        if self.config.experts.store is None:
            return TrajectoryStore(self.folder / "experts", card)
        root = Folder.at(self.config.experts.store)
        artefact = Artefact.find(root, EXPERTS)
        if artefact is None:
            return TrajectoryStore(root / key, card)
        require_card(read_card(artefact), card, root.uri)
        return TrajectoryStore(root, card)

    @property
    def experts_key(self) -> str:
        """Content key of the trajectories."""
        return content_key(self.trajectories.card.identity())

    @cached_property
    def teacher_key(self) -> str:
        """Content key of the teacher."""
        config = self.config
        return content_key(teacher_identity(config.teacher, config.teacher_network, self.data, config.teacher_seed))

    @property
    def teacher_folder(self) -> Folder:
        """Where the teacher is, or will be."""
        return self._shared(self.config.teacher.store, "teacher", self.teacher_key)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, once it has shown on held-out data that it is the one of its card.

        Raises:
            UserError: there is none, or it is not.
        """
        teacher = Teacher.load(self.teacher_folder, self.device)
        teacher.check(self.data)
        return teacher

    @property
    def teacher_epochs(self) -> frozenset[int]:
        """The epochs after which stages need the teacher; empty where all take the finished one."""
        config = self.config
        if "teacher_epoch" not in config.stages.teacher_conditions:
            return frozenset()
        return frozenset(teacher_epochs(config.teacher.training.epochs, config.stages.count))

    @property
    def ranking_key(self) -> str:
        """Content key of the ranking of the training images by the teacher."""
        return content_key({"teacher": self.teacher_key, "data": self.data.fingerprint})

    @property
    def ranking_folder(self) -> Folder:
        """Where the ranking is, or will be."""
        return self._shared(self.config.ranking.store, "ranking", self.ranking_key)

    @property
    def scores_key(self) -> str:
        """Content key of the forgetting scores of the training images."""
        chosen = self.config.stages.filter
        assert chosen is not None
        return content_key(scores_identity(chosen.scoring, self.config.network, self.data, self.config.seed))

    @property
    def scores_folder(self) -> Folder:
        """Where those scores are, or will be."""
        return self.folder / "forgetting"

    @cached_property
    def scores(self) -> Scores:
        """How often each training image was forgotten."""
        return Scores.load(self.scores_folder)

    @cached_property
    def observer_key(self) -> str:
        """Content key of the network that looks at real and distilled images."""
        config = self.config
        identity = observer.observer_identity(config.evaluate.selector, config.network, self.data, config.experts_seed)
        return content_key(identity)

    @property
    def observer_folder(self) -> Folder:
        """Where that network is, or will be."""
        return self.folder / "observer" / self.observer_key

    @cached_property
    def observer(self) -> Network:
        """That network, on this process's device."""
        return observer.load(self.observer_folder, self.config.network, self.data, self.device)

    @cached_property
    def selection_key(self) -> str:
        """Content key of the real images that are chosen to be compared with."""
        config = self.config
        identity = selection_identity(
            config.evaluate.selector, config.network, self.data, config.experts_seed, config.images_per_class
        )
        return content_key(identity)

    @property
    def selection_folder(self) -> Folder:
        """Where they are named, or will be."""
        return self.folder / "selection" / self.selection_key

    @cached_property
    def selection(self) -> Selection:
        """Which these are."""
        return Selection.load(self.selection_folder)

    def _shared(self, store: str | None, name: str, key: str) -> Folder:
        return self.folder / name if store is None else Folder.at(store) / key

    @property
    def ranking_parts(self) -> Parts:
        """The scores of the training images, as far as they are made."""
        return Parts(self.work / "ranking" / self.ranking_key, len(self.data.train))

    def has_teacher(self) -> bool:
        """Whether the teacher is trained."""
        artefact = Artefact.find(self.teacher_folder, TEACHER)
        if artefact is None or artefact.manifest.key != self.teacher_key:
            return False
        return self.teacher_epochs <= self.stored_teacher_epochs()

    def stored_teacher_epochs(self) -> frozenset[int]:
        """The epochs after which the stored teacher can be opened; a run that adds some keeps those of others."""
        return Teacher.stored_epochs(self.teacher_folder)

    def has_ranking(self) -> bool:
        """Whether all training images are ranked."""
        artefact = Artefact.find(self.ranking_folder, RANKING)
        return artefact is not None and artefact.manifest.key == self.ranking_key

    def has_scores(self) -> bool:
        """Whether the training images have the forgetting scores that a filter needs, if one does."""
        chosen = self.config.stages.filter
        if chosen is None or not chosen.needs_scores:
            return True
        artefact = Artefact.find(self.scores_folder, SCORES)
        return artefact is not None and artefact.manifest.key == self.scores_key

    def has_observer(self) -> bool:
        """Whether the network that looks at images is trained."""
        return Artefact.find(self.observer_folder, observer.KIND) is not None

    def has_selection(self) -> bool:
        """Whether the real images that are compared with are chosen."""
        return Artefact.find(self.selection_folder, SELECTION) is not None
