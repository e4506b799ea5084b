"""raydd from Python: run, load, evaluate, results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.data import Dataset

from raydd import config as configs
from raydd import pipeline
from raydd.config import RunConfig
from raydd.datasets import DataConfig
from raydd.evaluation import records
from raydd.evaluation.records import Record
from raydd.evaluation.students import Provenance, TrainingSet, train_students
from raydd.evaluation.trials import Trial
from raydd.networks import NetworkConfig
from raydd.pipeline.local import LocalExecutor
from raydd.prepared import apply
from raydd.progress import NoProgress, Progress
from raydd.random import Key
from raydd.relabel import HardLabels
from raydd.storage import Folder
from raydd.synthetic import SyntheticSet
from raydd.training import Recipe
from raydd.views import ImageViews


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set as torch's loaders take it: pairs of an image in network space and its target.

    Images that are stored as mosaics (IDC) are decoded; `synthetic` holds them as they are stored.
    Targets are class indices, or label logits [K] where the set has soft labels; `recipe` and `learned_lr` say how to
    train on it, `preprocessing.forward` brings test images into the same space.
    """

    def __init__(self, synthetic: SyntheticSet) -> None:
        """Wrap a set."""
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
    shown = progress or NoProgress()
    if not ray:
        return pipeline.execute(chosen, LocalExecutor(), shown).folder
    from raydd.cluster.executor import RayExecutor

    with RayExecutor() as executor:
        return pipeline.execute(chosen, executor, shown).folder


def load(path: str | Path) -> DistilledDataset:
    """The distilled set of a run, or of a folder that holds one.

    Raises:
        ArtefactError: there is none, or it is damaged.
    """
    folder = Folder.at(path)
    inside = folder / "synthetic"
    return DistilledDataset(SyntheticSet.load(inside if inside.has("manifest.json") else folder))


def results(*paths: str | Path) -> pa.Table:
    """The records of one or several runs, one row a student (see `raydd.evaluation.records.SCHEMA`)."""
    return records.read(*(Folder.at(path) / "results" for path in paths))


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
    synthetic, decoded, chosen = dataset.synthetic, dataset.decoded, recipe or dataset.recipe
    prepared = apply(data, dataset.preprocessing, tuple(synthetic.images.shape[1:]), synthetic.class_names, Key.root(0))
    views = None
    if chosen.views is not None:
        drawn = ImageViews(decoded.images, dataset.preprocessing, chosen.views)
        chosen = replace(chosen, temperature=1.0)
        views = HardLabels(drawn, decoded.labels, synthetic.num_classes)
    training_set = TrainingSet(
        images=decoded.images,
        targets=decoded.targets,
        learned_lr=dataset.learned_lr,
        images_per_class=synthetic.images_per_class,
        bytes_total=synthetic.images.numel() * 4,
        views=views,
    )
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
            network=network or NetworkConfig(),
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
            [trial], prepared, training_set, provenance, [trial.record_id("", "")], device, shown
        )
    ]
