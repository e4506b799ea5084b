"""What is made: runs, the choice of a method, students of a set."""

from pathlib import Path

from raydd import config as configs
from raydd import networks
from raydd.api.dataset import DistilledDataset
from raydd.api.places import Data, DistilledRun, data_of
from raydd.api.shown import Shown, shown
from raydd.cluster import choice
from raydd.config import RunConfig
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import apply
from raydd.evaluation.record import Record
from raydd.evaluation.students.of_set import tested_students
from raydd.networks.config import NetworkConfig
from raydd.pipeline import execution
from raydd.pipeline.auto.decide import Request
from raydd.pipeline.auto.portfolio import Labels
from raydd.pipeline.auto.search import AutoResult
from raydd.pipeline.auto.search import auto as choose
from raydd.training.recipe import Recipe


def run(config: RunConfig | str | Path, *, ray: bool = True, progress: Shown = None) -> DistilledRun:
    """Make everything that a config names; reuse what exists, resume what is unfinished.

    Args:
        config: a configuration, or the path of a YAML file.
        ray: on Ray, or in this process alone.
        progress: is told how it goes; see `raydd.api.shown`.

    Returns:
        The run, which `load`, `export`, `results` and `probes` take.

    Raises:
        UserError: something is wrong with config, data, resources or folder; nothing was written.
        RunError: the work broke off; the same call resumes it.
    """
    chosen = config if isinstance(config, RunConfig) else configs.load(str(config))
    with shown(progress) as told, choice.executor(ray) as executor:
        return DistilledRun(execution.execute(chosen, executor, told).folder)


def auto(
    source: str | Path,
    images_per_class: int,
    *,
    hours: float = 0.5,
    labels: Labels = "hard",
    out: str | Path | None = None,
    seed: int = 0,
    ray: bool = True,
    progress: Shown = None,
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
        progress: is told how it goes; see `raydd.api.shown`.

    Returns:
        What was tried and chosen; `load` takes it for the set.

    Raises:
        UserError: something is wrong with the data, the folder, or what is asked for; nothing was written.
        RunError: the work broke off; the same call goes on from there.
    """
    place = None if out is None else str(out)
    request = Request.of(str(source), images_per_class, place, hours=hours, labels=labels, seed=seed)
    with shown(progress) as told, choice.executor(ray) as executor:
        return choose(request, executor, ray, told)


def evaluate(
    dataset: DistilledDataset,
    data: Data,
    *,
    network: NetworkConfig | None = None,
    recipe: Recipe | None = None,
    num_students: int = 5,
    progress: Shown = None,
) -> list[Record]:
    """Train students on a distilled set and test them on real data, in this process; writes nothing.

    Where a teacher labelled the students of the run, those here learn the classes of the same views.

    Args:
        dataset: what to train on.
        data: where the test images come from: a DataConfig, or a run or config, whose data are taken; they pass through
            the set's own preprocessing.
        network: the students' network; ConvNet of depth 3 by default.
        recipe: the set's own by default.
        num_students: seeds 0, 1, ...
        progress: is told after every epoch; see `raydd.api.shown`.

    Raises:
        DataError: the data are not what they say, or not what the set was distilled from.
        ConfigError: the network cannot pool the set's images, or there is no step size.
    """
    synthetic = dataset.synthetic
    shape = dataset.shape
    chosen = network or NetworkConfig()
    if not isinstance(chosen, NetworkConfig):
        problem = "students are trained from their initialisation: give a raydd.NetworkConfig"
        raise ConfigError("network", f"{problem}; dataset.train and dataset.accuracy take any network")
    networks.build(chosen.sized(min(shape[1:])), shape, dataset.synthetic.num_classes)
    if (recipe or dataset.recipe).completed(dataset.learned_lr).lr is None:
        raise ConfigError("recipe.lr", "neither the recipe nor the set has a step size; choose one")
    prepared = apply(data_of(data), dataset.preprocessing, shape, synthetic.class_names, Key.root(0))
    with shown(progress) as told:
        seeds = range(num_students)
        return tested_students(synthetic, prepared, chosen, recipe, seeds, told)
