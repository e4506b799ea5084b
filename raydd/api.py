"""raydd from Python: run, auto, load, evaluate, export, append; results, scores, probes and their columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress, Progress, Work
from raydd.data import DataConfig
from raydd.data.decoding import decode
from raydd.data.listing import Item
from raydd.data.prepared import apply
from raydd.evaluation import records
from raydd.evaluation.records import Record
from raydd.evaluation.students.training import Provenance, Pupil, TrainingSet, train_students, training_on
from raydd.evaluation.students.trials import Trial
from raydd.evaluation.tables import probe_tables
from raydd.evaluation.tables.scores import scores
from raydd.exchange import export as exporting
from raydd.exchange.export import ExportFormat
from raydd.exchange.source import set_folder
from raydd.ingredients.view_labels import HardLabels
from raydd.networks.config import NetworkConfig
from raydd.pipeline import execution
from raydd.pipeline.auto.decide import Request
from raydd.pipeline.auto.portfolio import Labels
from raydd.pipeline.auto.search import AutoResult
from raydd.pipeline.auto.search import auto as choose
from raydd.pipeline.executor import Executor
from raydd.pipeline.imports.append import append as join
from raydd.pipeline.local import LocalExecutor
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.training import optimizers
from raydd.training.fit import Told, fit
from raydd.training.recipe import Recipe
from raydd.training.views import ImageViews

__all__ = [
    "PROBES",
    "RECORDS",
    "DistilledDataset",
    "append",
    "auto",
    "evaluate",
    "export",
    "load",
    "probes",
    "results",
    "run",
    "scores",
]

RECORDS = records.SCHEMA
"""The columns of `results`."""
PROBES = probe_tables.SCHEMA
"""The columns of `probes`."""


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set as torch's loaders take it: pairs of an image in network space and its target.

    Images that are stored as mosaics (IDC) are decoded; `synthetic` holds them as they are stored.
    Targets are class indices, or label logits [K] where the set has soft labels. `train` trains any network on the set
    as `recipe` says; for loops of one's own, `loss` fits the targets and `lr_at` follows the schedule. `transform`
    brings real images into the space of the set's.
    """

    def __init__(self, synthetic: SyntheticSet) -> None:
        """Wrap a set.

        Raises:
            ArtefactError: its card has no recipe.
        """
        if "recipe" not in synthetic.card:
            raise ArtefactError("the card of the set has no recipe, so nobody knows how to train on it; add one")
        self.synthetic = synthetic
        self.decoded = synthetic.decoded()
        self.class_names = synthetic.class_names
        self.preprocessing = synthetic.preprocessing
        self.learned_lr = synthetic.learned_lr[-1]
        self.recipe: Recipe = TypeAdapter(Recipe).validate_python(synthetic.card["recipe"])

    def __len__(self) -> int:
        """The number of images to train on, M."""
        return len(self.decoded)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """float32 [C, H, W], and int64 [] or float32 [K]."""
        return self.decoded.images[index], self.decoded.targets[index]

    def transform(self, image: Image.Image | Tensor) -> Tensor:
        """A real image, or several, as networks that are trained on the set take them: float32 in network space.

        Args:
            image: a PIL image, whose shorter side is resized to that of the set's and whose centre is cropped, as raydd
                does with `data.image_size`; or pixels of the right size, uint8 or float in [0, 1], [C, H, W] or
                [B, C, H, W].

        Raises:
            DataError: the image is of another size or has other channels, and cannot be brought to these.
        """
        shape = tuple(self.decoded.images.shape[1:])
        if isinstance(image, Tensor):
            pixels = image if image.ndim == 4 else image[None]
        else:
            channels, height, width = shape
            seen = image.convert("L") if channels == 1 and image.mode in ("RGB", "RGBA", "P") else image.copy()
            pixels = decode([Item("the image", lambda: seen)], 1, height if height == width else None, channels)
        if tuple(pixels.shape[1:]) != shape:
            raise DataError(
                f"the image is of {tuple(pixels.shape[1:])}, but those of the set are of {shape}; resize it"
            )
        mapped = self.preprocessing.forward(pixels)
        return mapped if isinstance(image, Tensor) and image.ndim == 4 else mapped[0]

    def loss(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """The mean cross entropy of a batch against targets of this set, soft or hard, at the recipe's temperature."""
        if not targets.is_floating_point():
            return F.cross_entropy(logits_BK, targets)
        temperature = self.recipe.temperature
        loss = F.cross_entropy(logits_BK / temperature, (targets / temperature).softmax(1))
        return loss * temperature**2 if self.recipe.squares_temperature else loss

    def lr_at(self, epoch: int) -> float:
        """The step size in an epoch, counted from 0: the recipe's, or the learned one, along the schedule.

        Raises:
            ConfigError: there is neither.
        """
        recipe = self.recipe
        lr = self.learned_lr if recipe.lr is None else recipe.lr
        if lr is None:
            raise ConfigError("recipe.lr", "neither the recipe nor the set has a step size; choose one")
        warmup, decay = recipe.warmup_epochs, recipe.decay_epoch
        return lr * optimizers.lr_factor(recipe.schedule, epoch, recipe.epochs, warmup, decay)

    def train(
        self, network: nn.Module, *, recipe: Recipe | None = None, seed: int = 0, progress: Progress | None = None
    ) -> None:
        """Train a network on the set, in place and on the device where it is, as raydd trains its students.

        Where a teacher labelled the students of the run, the network learns the classes of the same views.

        Args:
            network: from images [B, C, H, W] in network space to logits [B, K]; left in evaluation mode.
            recipe: the set's own by default.
            seed: of the order of images and of their augmentation; the same as a student's `student_seed`.
            progress: is told after every epoch.

        Raises:
            ConfigError: neither the recipe nor the set has a step size.
            RunError: the loss is not finite any more.
        """
        training_set, chosen = self._training_set(recipe or self.recipe)
        training = training_on(training_set, chosen, [network], [Key.root(seed).child("student")], 0, False)
        fit(training, told=Told(progress or NoProgress(), [Work("training")]))
        network.eval()

    def _training_set(self, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """What is trained on under a recipe, and the recipe with the temperature that the labels then have."""
        views = None
        if recipe.views is not None:
            drawn = ImageViews(self.decoded.images, self.preprocessing, recipe.views)
            recipe = replace(recipe, temperature=1.0)
            views = HardLabels(drawn, self.decoded.labels, self.synthetic.num_classes)
        training_set = TrainingSet(
            images=self.decoded.images,
            targets=self.decoded.targets,
            learned_lr=self.learned_lr,
            images_per_class=self.synthetic.images_per_class,
            bytes_total=self.synthetic.images.numel() * 4,
            views=views,
        )
        return training_set, recipe


def run(config: RunConfig | str | Path, *, ray: bool = True, progress: Progress | None = None) -> Folder:
    """Make everything that a config names; reuse what exists, resume what is unfinished.

    Args:
        config: a configuration, or the path of a YAML file.
        ray: on Ray, or in this process alone.
        progress: is told how it goes.

    Returns:
        The run's folder.

    Raises:
        UserError: something is wrong with config, data, resources or folder; nothing was written.
        RunError: the work broke off; the same call resumes it.
    """
    chosen = config if isinstance(config, RunConfig) else configs.load(str(config))
    with _executor(ray) as executor:
        return execution.execute(chosen, executor, progress or NoProgress()).folder


def auto(
    source: str | Path,
    images_per_class: int,
    *,
    hours: float = 0.5,
    labels: Labels = "hard",
    out: str | Path | None = None,
    seed: int = 0,
    ray: bool = True,
    progress: Progress | None = None,
) -> AutoResult:
    """Make a set of somebody's images by the method that is found to be best for them.

    Args:
        source: a folder with a folder of images for each class, or a config, whose data are taken.
        images_per_class: to make.
        hours: that all of it may take on this machine.
        labels: what students may be told: "hard", the classes; "soft", labels that come with a set, or a teacher's;
            "any", whichever is best.
        out: where everything lies; `runs/auto-NAME-N` by default.
        seed: of all draws.
        ray: on Ray, or in this process alone.
        progress: is told how it goes.

    Returns:
        What was tried and chosen; `load(result.best)` is the set.

    Raises:
        UserError: something is wrong with the data, the folder, or what is asked for; nothing was written.
        RunError: the work broke off; the same call goes on from there.
    """
    place = None if out is None else str(out)
    request = Request.of(str(source), images_per_class, place, hours=hours, labels=labels, seed=seed)
    with _executor(ray) as executor:
        return choose(request, executor, ray, progress or NoProgress())


def load(path: str | Path) -> DistilledDataset:
    """The distilled set of a run, or of a folder that holds one.

    Raises:
        ArtefactError: there is none, or it is damaged.
    """
    return DistilledDataset(SyntheticSet.load(set_folder(Folder.at(path))))


def export(path: str | Path, format: ExportFormat, to: str | Path) -> Folder:
    """Write the distilled set of a run, or of a folder that holds one, for use without raydd.

    Args:
        path: the run or the set.
        format: `pt`, `imagefolder` or `parquet`; see `raydd.exchange.export`.
        to: the folder to make, which must not exist or be empty; on an error nothing is there.

    Returns:
        That folder.

    Raises:
        ArtefactError: there is no set, or it is damaged.
        UserError: the folder to make holds something, or cannot be written.
    """
    target = Folder.at(to)
    exporting.export(Folder.at(path), format, target)
    return target


def append(*paths: str | Path, to: str | Path) -> Folder:
    """Join distilled sets of disjoint classes of one dataset into one; nothing is distilled anew.

    Args:
        paths: runs, or folders that hold sets; two at least.
        to: the folder that gets the set, as runs have theirs.

    Returns:
        That folder.

    Raises:
        ArtefactError: there is no set, or sets do not go together: they share a class, or their preprocessing differs.
        UserError: there is a set at `to` already.
    """
    target = Folder.at(to)
    join([Folder.at(path) for path in paths], target)
    return target


def results(*paths: str | Path) -> pa.Table:
    """The records of one or several runs, one row a student (see `raydd.evaluation.records.SCHEMA`)."""
    return records.read(*(Folder.at(path) / "results" for path in paths))


def probes(*paths: str | Path) -> pa.Table:
    """What probes found in one or several runs: one row a metric of each training set, over all runs of a method.

    The columns are those of `raydd.PROBES`, with the runs' names in `config`. Runs of one name are distillation seeds,
    numbered in the order of the paths.
    """
    found: dict[tuple[str, int], pa.Table] = {}
    for path in paths:
        table = records.read_probes(Folder.at(path) / "results")
        name = table["run"][0].as_py() if len(table) else str(path)
        found[name, sum(known == name for known, _ in found)] = table
    return probe_tables.compare(found)


def evaluate(
    dataset: DistilledDataset,
    data: DataConfig,
    *,
    network: NetworkConfig | None = None,
    recipe: Recipe | None = None,
    num_students: int = 5,
    progress: Progress | None = None,
) -> list[Record]:
    """Train students on a distilled set and test them on real data, in this process; writes nothing.

    Where a teacher labelled the students of the run, those here learn the classes of the same views.

    Args:
        dataset: what to train on.
        data: where the test images come from; they pass through the set's own preprocessing.
        network: the students' network; ConvNet of depth 3 by default.
        recipe: the set's own by default.
        num_students: seeds 0, 1, ...
        progress: is told after every epoch.

    Raises:
        DataError: the data are not what they say, or not what the set was distilled from.
    """
    synthetic = dataset.synthetic
    prepared = apply(data, dataset.preprocessing, tuple(synthetic.images.shape[1:]), synthetic.class_names, Key.root(0))
    training_set, chosen = dataset._training_set(recipe or dataset.recipe)
    card: dict[str, Any] = dict(synthetic.card)
    provenance = Provenance(
        run=card.get("run", ""),
        method=card.get("method", {}).get("name", ""),
        dataset=prepared.name,
        recipe_name="own" if recipe is None else "given",
        distill_seed=card.get("seeds", {}).get("distill", 0),
        config_key="",
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trials = [
        Trial(
            subject="synthetic",
            labels="hard" if synthetic.soft_labels is None else "stored",
            network=(network or NetworkConfig()).sized(min(prepared.shape[1:])),
            recipe=chosen,
            student_seed=seed,
        )
        for seed in range(num_students)
    ]
    shown = progress or NoProgress()
    return [
        student.record
        for trial in trials
        for student in train_students(
            [Pupil(trial, trial.record_id("", ""))], prepared, training_set, provenance, device, shown
        )
    ]


@contextmanager
def _executor(ray: bool) -> Iterator[Executor]:
    """Who does the work; Ray is imported where it is used."""
    if not ray:
        yield LocalExecutor()
        return
    from raydd.cluster.executor import RayExecutor

    with RayExecutor() as executor:
        yield executor
