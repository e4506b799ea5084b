"""Architecture search: whether a set ranks ConvNets as all the real data rank them.

The architectures are a sample of a grid like DC's (Zhao et al., ICLR 2021, section 4.3): depth, width, norm, activation
and pooling. Students of each are trained on the distilled set, on as many real images, and on all of them, which is the
truth. A set has to beat early stopping: all the real images for as many steps of the same size, hence in the same time.

What the ranking is worth is computed from the records of all that by `searched`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Any, Final

import pyarrow as pa
import torch

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress
from raydd.data.images import SelectedImages, as_images
from raydd.data.prepared import LabelledImages
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, each_set
from raydd.evaluation.probes.rank_correlation import RESAMPLES, Estimate, estimate, kendall, spearman
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import SETS, Trial
from raydd.networks import Network
from raydd.networks.config import Activation, NetworkConfig, Norm, Pooling
from raydd.training.fit import Told, fit
from raydd.training.loop import Training, accuracy, predict

EARLY: Final = "early_stopping"
"""The variant of questions about all the real images in a set's time; others have none."""
TOP: Final = 0.05
"""Of the architectures, those that are best in truth: whether a set tells them apart is what a search needs."""
_FEWEST: Final = 3
"""Architectures that have a rank correlation to speak of."""
_PROXIES: Final = (*SETS, "random", "k_center", "herding")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Asker):
    """The search among ConvNets."""

    depths: tuple[int, ...] = (1, 2, 3)
    """Numbers of blocks; images of 8x8 can be halved three times."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of every block."""
    norms: tuple[Norm, ...] = ("none", "batch", "layer", "instance", "group")
    """As `network.norm`."""
    activations: tuple[Activation, ...] = ("sigmoid", "relu", "leaky_relu")
    """As `network.activation`."""
    poolings: tuple[Pooling, ...] = ("none", "max", "avg")
    """As `network.pooling`."""
    sample: int | None = 20
    """So many architectures of the grid, drawn at random; null takes all."""
    seed: int = 0
    """Of that draw: runs of the same seed search among the same architectures."""
    students: int = 1
    """Of each architecture on each set, with seeds 0, 1, ...; what counts is their mean."""
    epochs: int | None = None
    """On a set; the evaluation's recipe's by default, and always where labels are replayed."""
    full_epochs: int = 10
    """On all the real images."""
    lr: float | None = None
    """Step size of all students; as in the evaluation by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("depths", "widths", "norms", "activations", "poolings"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"evaluate.search.{name}", "must name something, and nothing twice")
        for name in ("students", "epochs", "full_epochs"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ConfigError(f"evaluate.search.{name}", f"must be at least 1, is {count}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError("evaluate.search.lr", f"must be positive, is {self.lr}")
        size = len(self._grid())
        if not _FEWEST <= (size if self.sample is None else self.sample) <= size:
            problem = f"must be from {_FEWEST} to the {size} architectures of the grid, is {self.sample or size}"
            raise ConfigError("evaluate.search.sample", problem)

    def architectures(self) -> list[NetworkConfig]:
        """What is searched among, in the order of the grid."""
        grid = self._grid()
        drawn = permutation(Key.root(self.seed).child("search", "sample"), len(grid))[: self.sample]
        return [grid[place] for place in drawn.sort().values.tolist()]

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """Each architecture on all the real images, on each set to search with, and on all of them in its time."""
        full = next((trial for trial in trials if trial.subject == "full"), None)
        if full is None:
            raise ConfigError("evaluate.baselines", "the truth of evaluate.search is full: name it")
        truth = self._taken(full, self.full_epochs)
        sets = [self._taken(trial, self.epochs) for trial in each_set(trials) if trial.subject in _PROXIES]
        asked = [(trial, "") for trial in (truth, *sets)]
        asked += [(_in_the_time_of(trial, truth), EARLY) for trial in sets[:1]]
        return [
            Question(probe="search", trial=replace(trial, network=network, student_seed=seed), variant=variant)
            for trial, variant in asked
            for network in self.architectures()
            for seed in range(self.students)
        ]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Test accuracy, and accuracy on the split to select by: the validation split where there is one."""
        trial, data = question.trial, view.data
        early = question.variant == EARLY
        network = _stopped_early(view, trial, progress) if early else view.student(trial, progress)
        found = _accuracy(network, data.test)
        metrics = {
            "selection_accuracy": found if data.validation is None else _accuracy(network, data.validation),
            "parameters": float(sum(tensor.numel() for tensor in network.parameters())),
        }
        return Answer(metrics=metrics, test_accuracy=found)

    def _grid(self) -> list[NetworkConfig]:
        axes = self.depths, self.widths, self.norms, self.activations, self.poolings
        try:
            return [
                NetworkConfig(depth=depth, width=width, norm=norm, activation=activation, pooling=pooling)
                for depth, width, norm, activation, pooling in product(*axes)
            ]
        except ConfigError as error:
            raise ConfigError(f"evaluate.search.{error.field.removeprefix('network.')}s", error.problem) from error

    def _taken(self, trial: Trial, epochs: int | None) -> Trial:
        """A trial with the epochs and the step size of the search."""
        own = epochs if epochs is not None and trial.labels != "replayed" else trial.recipe.epochs
        recipe = replace(trial.recipe, epochs=own, lr=trial.recipe.lr if self.lr is None else self.lr)
        return replace(trial, recipe=recipe, measure_every=None)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What ranking architectures by a proxy is worth. Accuracies and regret are fractions."""

    run: str
    method: str
    dataset: str
    images_per_class: int
    labels: str
    subject: str
    """The set; of early stopping the one whose steps it takes."""
    proxy: str
    """What the students were trained on: the subject of the set, or `early_stopping`."""
    draw: int
    """Of random images; 0 otherwise."""
    count: int
    """Architectures that have both a proxy and a truth: those whose training did not break off."""
    spearman: Estimate
    kendall: Estimate
    top_spearman: float | None
    """Of the architectures that are best in truth, `TOP` of them; None for fewer than three."""
    regret: float
    """How far the pick is in truth below the best of all; of several that are equal by the proxy, their mean."""
    pick: str
    """Label of the first architecture that is best by the proxy."""
    best: str
    """Label of the one that is best in truth."""
    seconds: float
    """To train a student on the proxy: mean over architectures."""
    pairs: tuple[tuple[str, float, float], ...]
    """Of every architecture its label, what the proxy measured, and the test accuracy in truth."""


def searched(table: pa.Table, top: float = TOP, resamples: int = RESAMPLES) -> list[Searched]:
    """Compare each proxy's ranking with the truth of its run, set by set.

    Args:
        table: answers, as `records.read_probes` gives them, of any number of runs.
        top: the part of the architectures that `top_spearman` is about.
        resamples: of the bootstrap.

    Returns:
        A row a proxy, random draws apart; by run, the distilled set first, early stopping last. None where nobody was
        trained on all the data.
    """
    rows = [row for row in table.to_pylist() if row["probe"] == "search" and row["status"] == "ok"]
    found: list[Searched] = []
    for truth in _groups(row for row in rows if row["subject"] == "full"):
        same = [row for row in rows if row["subject"] != "full" and _conditions(row) == _conditions(truth[0])]
        found += [_compared(proxy, truth, top, resamples) for proxy in _groups(same) if _shared(proxy, truth)]
    return sorted(found, key=lambda row: (row.run, (*_PROXIES, EARLY).index(row.proxy), row.draw))


def regret(proxy: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """The best truth less that of the best by the proxy: the mean of those that are equal there."""
    most = max(proxy.values())
    return max(truth.values()) - fmean(truth[name] for name, value in proxy.items() if value == most)


def _compared(
    proxy: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], top: float, resamples: int
) -> Searched:
    by_proxy = _by_network(proxy, lambda row: dict(row["metrics"])["selection_accuracy"])
    in_truth = _by_network(truth, lambda row: row["test_accuracy"])
    names = _shared(proxy, truth)
    x_N, y_N = (torch.tensor([of[name] for name in names], dtype=torch.float64) for of in (by_proxy, in_truth))
    best_n = y_N.argsort(descending=True, stable=True)[: math.ceil(top * len(names))]
    few = len(best_n) < _FEWEST
    first, key = proxy[0], Key.root(0).child("search", "bootstrap")
    return Searched(
        **{name: first[name] for name in ("run", "method", "dataset", "images_per_class", "labels", "subject")},
        proxy=first["variant"] or first["subject"],
        draw=first["distill_seed"] if first["subject"] == "random" else 0,
        count=len(names),
        spearman=estimate(spearman, x_N, y_N, key, resamples),
        kendall=estimate(kendall, x_N, y_N, key, resamples),
        top_spearman=None if few else estimate(spearman, x_N[best_n], y_N[best_n], key, 1).value,
        regret=regret({name: by_proxy[name] for name in names}, in_truth),
        pick=max(names, key=by_proxy.__getitem__),
        best=max(in_truth, key=in_truth.__getitem__),
        seconds=fmean(row["seconds"] for row in proxy),
        pairs=tuple((name, by_proxy[name], in_truth[name]) for name in names),
    )


def _in_the_time_of(own: Trial, truth: Trial) -> Trial:
    """A set's trial under the recipe of all the real images, but for how long it trains."""
    recipe = replace(own.recipe, lr=truth.recipe.lr, temperature=truth.recipe.temperature)
    return replace(own, recipe=recipe)


def _stopped_early(view: View, trial: Trial, progress: Progress) -> Network:
    """A network that was trained on all the real images for as many steps, of the same size, as a set takes.

    Where that is no whole number of epochs, the last one is on some of the images, drawn at random.
    """
    num_images = len(view.training_set(trial).images)
    size, steps = min(trial.recipe.batch_size, num_images), trial.recipe.steps(num_images)
    real = view.training_set(replace(trial, subject="full", labels="hard", draw=0))
    whole, rest = divmod(steps, math.ceil(len(real.images) / size))
    epochs = whole + (rest > 0)
    warmup = min(trial.recipe.warmup_epochs, epochs - 1)
    recipe = replace(trial.recipe, epochs=epochs, batch_size=size, warmup_epochs=warmup)
    training = student_training([replace(trial, recipe=recipe)], view.data, real, view.device, compiled=False)
    fit(training, range(whole), told=Told(progress, [trial.work], words=lambda result: ""))
    if rest:
        fit(_on_some(training, real, view.key.child("search", EARLY), rest), range(whole, epochs))
    (network,) = training.modules
    assert isinstance(network, Network)
    return network.eval()


def _on_some(training: Training, real: TrainingSet, key: Key, steps: int) -> Training:
    """The training of the same network, as far as it is, on as many of the images as so many steps take."""
    rows = permutation(key, len(real.images))[: steps * training.recipe.batch_size]
    views = real.views
    some = Training(
        training.modules,
        SelectedImages(as_images(real.images), rows),
        real.targets[rows.to(real.targets.device)],
        training.recipe,
        training.keys,
        views=None if views is None else lambda own, epoch, rows_B: views(own, epoch, rows.to(rows_B.device)[rows_B]),
    )
    some.load_state_dicts(training.state_dicts())
    return some


def _accuracy(network: Network, split: LabelledImages) -> float:
    return accuracy(predict(network, split.images), split.labels)


def _shared(proxy: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of the architectures that both have, in the order of the truth."""
    known = {row["network"] for row in proxy}
    return [name for name in dict.fromkeys(row["network"] for row in truth) if name in known]


_ALIKE: Final = ("run", "config_key", "dataset", "recipe", "augmentation", "optimizer")
"""Columns in which a proxy and its truth agree."""
_APART: Final = ("subject", "variant", "distill_seed", "labels", "epochs", "learned_lr")
"""Columns by which proxies differ."""


def _conditions(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _ALIKE)


def _groups(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows that differ in architecture and seed alone."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*_conditions(row), *(row[name] for name in _APART)), []).append(row)
    return list(groups.values())


def _by_network(rows: Sequence[Mapping[str, Any]], measured: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
    """The mean over seeds of every architecture, by its label."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["network"], []).append(measured(row))
    return {name: fmean(own) for name, own in values.items()}
