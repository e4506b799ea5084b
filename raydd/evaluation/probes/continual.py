"""Continual learning: classes arrive a few at a time, and a set is the memory of those that were seen.

The learner is GDumb (Prabhu et al., ECCV 2020, https://www.robots.ox.ac.uk/~tvg/publications/2020/gdumb.pdf): after
every step a fresh network is trained from scratch on the memory alone, and tells the classes seen so far apart. As in
DC's and DM's experiments (https://arxiv.org/abs/2006.05929, section 4.3; https://arxiv.org/abs/2110.04181, section 4.2)
the memory has a fixed place for each class, so that old classes stay as they are when new ones come.

Beside a set stand memories of real images: drawn at random, and chosen by herding in the features of a network that
knows all classes. A synthetic image takes more bytes than a real one, whose pixels are bytes: there are memories of as
many images, and of as many bytes.

What a student learns from is cut to the classes seen: soft labels lose the logits of the others. Where a teacher labels
views of images, students learn the classes of these views instead: the teacher has seen the classes to come.

Letters: M images of a memory, T test images, K classes, S steps, D values of an image.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Final, Literal

import pyarrow as pa
import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress, Work
from raydd.data.images import SelectedImages, as_images
from raydd.data.prepared import PreparedData
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, each_set
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import SETS, Trial
from raydd.ingredients.coreset import herding
from raydd.ingredients.view_labels import HardLabels
from raydd.training.fit import fit
from raydd.training.loop import features, predict
from raydd.training.views import ImageViews

Memory = Literal["random", "herding", "random_bytes", "herding_bytes", "full"]

_SET: Final = "set"
_RANKS: Final = "ranks"
_LABEL_BYTES: Final = 8
_VALUE_BYTES: Final = 4
_ACCURACY: Final = "accuracy_of_"


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(Asker):
    """Class-incremental learning from a memory."""

    steps: int = 5
    """In which the classes arrive, as many in each as in any other, or one more; of fewer classes one in each."""
    orders: int = 3
    """Random orders of the classes, with seeds 0, 1, ..., which are those of the students as well."""
    memories: tuple[Memory, ...] = ("random", "herding", "random_bytes", "herding_bytes")
    """What a set is compared with. random, herding: as many real images a class; random_bytes, herding_bytes: real
    images of as many bytes; full: all of them, the most that can be had."""
    epochs: int | None = None
    """After each step; the evaluation's recipe's by default. Of `full` always `full_epochs`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in (("steps", 2), ("orders", 1), ("epochs", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ConfigError(f"evaluate.continual.{name}", f"must be at least {least}, is {value}")
        if len(set(self.memories)) < len(self.memories):
            raise ConfigError("evaluate.continual.memories", "names one twice")

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """Each memory under each order of the classes; those of real images beside each set."""
        kinds = [_SET, *(memory for memory in self.memories if memory != "full")]
        asked = [(trial, kind) for trial in self._sets(trials) for kind in kinds]
        if "full" in self.memories:
            full = next((trial for trial in trials if trial.subject == "full"), None)
            if full is None:
                raise ConfigError("evaluate.baselines", "evaluate.continual.memories names full: name it here as well")
            asked.append((full, "full"))
        return [
            Question(probe="continual", trial=replace(trial, student_seed=seed), variant=f"{kind} {seed}")
            for trial, kind in asked
            for seed in range(self.orders)
        ]

    def preparations(self, trials: Sequence[Trial]) -> list[Question]:
        """The herding of as many images as any memory beside a set takes."""
        if not {"herding", "herding_bytes"} & set(self.memories):
            return []
        return [_ranking(trial) for trial in self._sets(trials)]

    def prepare(self, question: Question, view: View, progress: Progress) -> Mapping[str, Tensor]:
        """Of every class its rows int64 in the order of choice, as `ranks.<class>`."""
        learned, train = view.training_set(question.trial), view.data.train
        most = max(learned.images_per_class, self._per_class("herding_bytes", learned, view.data))
        observer, ranks = view.observer(), dict[str, Tensor]()
        for label in range(view.data.num_classes):
            rows = (train.labels == label).nonzero().squeeze(1)
            seen = features(observer, SelectedImages(train.images, rows))
            ranks[f"{_RANKS}.{label}"] = rows[herding(seen, min(most, len(rows)))]
            progress.update(Work("herding", "for continual learning"), label + 1, view.data.num_classes)
        return ranks

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Accuracy over the classes seen after every step, its mean over the steps, and forgetting.

        `accuracy_of_<n>_classes` is that over the test images of the n classes seen so far; `average_accuracy` their
        mean over the steps (average incremental accuracy: iCaRL, https://arxiv.org/abs/1611.07725, section 4.1);
        `memory_images` and `memory_bytes` are those of the memory of all classes.
        """
        kind, _, order = question.variant.partition(" ")
        data, trial = view.data, question.trial
        memory, used_bytes = self._memory(kind, int(order), question, view)
        tasks = class_tasks(view.key.child("continual", "order", int(order)), data.num_classes, self.steps)
        found: list[float] = []
        by_task, metrics = torch.full((len(tasks), len(tasks)), math.nan, dtype=torch.float64), dict[str, float]()
        for step in range(len(tasks)):
            classes_K = torch.cat(tasks[: step + 1]).sort().values
            labels_T, is_right_T = _tested(trial, memory, classes_K, view)
            found.append(float(is_right_T.double().mean()))
            metrics[f"{_ACCURACY}{len(classes_K)}_classes"] = found[-1]
            for task in range(step + 1):
                own_T = torch.isin(labels_T, tasks[task])
                by_task[step, task] = is_right_T[own_T].double().mean()
            progress.update(question.work, step + 1, len(tasks))
        metrics |= {"average_accuracy": fmean(found), "final_accuracy": found[-1], "forgetting": forgetting(by_task)}
        metrics |= {"memory_images": float(len(memory.images)), "memory_bytes": float(used_bytes)}
        return Answer(metrics=metrics, test_accuracy=found[-1])

    def _sets(self, trials: Sequence[Trial]) -> list[Trial]:
        """What is asked about, with the epochs of the probe."""
        own = [trial for trial in each_set(trials) if trial.subject in SETS]
        if self.epochs is None:
            return own
        return [replace(trial, recipe=replace(trial.recipe, epochs=self.epochs)) for trial in own]

    def _memory(self, kind: str, order: int, question: Question, view: View) -> tuple[TrainingSet, int]:
        """What students are trained on when all classes are seen, and the bytes that it takes."""
        learned, data = view.training_set(question.trial), view.data
        if kind == _SET:
            return learned, set_bytes(learned)
        if kind == "full":
            rows = torch.arange(len(data.train))
        else:
            count = self._per_class(kind, learned, data)
            if kind.startswith("herding"):
                ranks = view.prepared(_ranking(question.trial))
                rows = torch.cat([ranks[f"{_RANKS}.{label}"][:count] for label in range(data.num_classes)])
            else:
                rows = _random_rows(view.key.child("continual", "random", order), data, count)
        classes = data.train.labels[rows]
        real = replace(learned, images=SelectedImages(data.train.images, rows), targets=classes, classes=None)
        return real, len(rows) * _real_bytes(data)

    def _per_class(self, kind: str, learned: TrainingSet, data: PreparedData) -> int:
        """Real images of a class, of which there may be fewer."""
        if not kind.endswith("bytes"):
            return max(1, learned.images_per_class)
        return max(1, set_bytes(learned) // (data.num_classes * _real_bytes(data)))


def class_tasks(key: Key, num_classes: int, steps: int) -> list[Tensor]:
    """The classes, int64, that arrive in each step, in a random order; of S steps, or as many as there are classes."""
    return list(permutation(key, num_classes).tensor_split(min(steps, num_classes)))


def forgetting(by_task_SS: Tensor) -> float:
    """How much less is known of the earlier classes in the end than once was known: F_S.

    The mean over all tasks j but the last of max_{l < S} a_{l,j} - a_{S,j}: Chaudhry et al., Riemannian Walk, ECCV
    2018, https://arxiv.org/abs/1801.10112, section 3.2. Accuracies are among all classes seen at the time: what is lost
    by having to tell more classes apart counts as well. 0 where there is one step alone.

    Args:
        by_task_SS: a_{l,j}, the accuracy of task j after step l; what lies above the diagonal is not looked at.
    """
    steps = len(by_task_SS)
    lost = [float(by_task_SS[j : steps - 1, j].max() - by_task_SS[-1, j]) for j in range(steps - 1)]
    return fmean(lost) if lost else 0.0


def set_bytes(learned: TrainingSet) -> int:
    """What a set takes as a memory: as it is stored, or in memory, if that is less; without a teacher or its labels."""
    in_memory = math.prod(learned.images.shape) * _VALUE_BYTES
    in_memory += learned.targets.numel() * learned.targets.element_size()
    return min(in_memory, int(learned.metrics.get("bytes.images", learned.bytes_total)))


def seen_only(memory: TrainingSet, classes_K: Tensor) -> TrainingSet:
    """What a memory holds of some classes, which are numbered from 0 in their order.

    Args:
        memory: images with their classes, or with logits of all classes and the classes beside them.
        classes_K: int64, ascending.
    """
    labels_M = memory.targets if memory.classes is None else memory.classes
    rows = torch.isin(labels_M, classes_K.to(labels_M.device)).nonzero().squeeze(1)
    numbers = torch.searchsorted(classes_K.to(labels_M.device), labels_M[rows])
    is_soft = memory.targets.is_floating_point()
    return replace(
        memory,
        images=SelectedImages(as_images(memory.images), rows),
        targets=memory.targets[rows][:, classes_K.to(memory.targets.device)] if is_soft else numbers,
        classes=numbers if is_soft else None,
    )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How a memory did over the steps: means over orders, and standard deviations where there are several."""

    run: str
    method: str
    dataset: str
    images_per_class: int
    """Of the set."""
    subject: str
    memory: str
    """`set`, or what stands beside it; see `ContinualConfig.memories`."""
    count: int
    """Orders of the classes."""
    memory_images: float
    memory_bytes: float
    classes: tuple[int, ...]
    """Seen after each step."""
    accuracy: tuple[float, ...]
    """Over the classes seen, after each step."""
    accuracy_std: tuple[float, ...] | None
    average: tuple[float, float | None]
    """Mean and standard deviation over orders of the mean accuracy over steps."""
    final: tuple[float, float | None]
    """Of the accuracy over all classes."""
    forgetting: tuple[float, float | None]


def curves(table: pa.Table) -> list[Curve]:
    """Put together what was measured under several orders.

    Args:
        table: answers, as `records.read_probes` gives them, of any number of runs.

    Returns:
        One for every memory, in the order of the records; of failed answers there is nothing.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["probe"] == "continual" and row["status"] == "ok":
            memory, own = row["variant"].partition(" ")[0], {**row, "metrics": dict(row["metrics"])}
            groups.setdefault((*(row[name] for name in _ALIKE), memory, *_seen(own["metrics"])), []).append(own)
    return [_curve(rows) for rows in groups.values()]


_ALIKE: Final = ("run", "config_key", "subject", "labels", "network", "recipe", "optimizer", "epochs")


def _curve(rows: Sequence[Mapping[str, Any]]) -> Curve:
    first, measured = rows[0], [row["metrics"] for row in rows]
    classes = _seen(measured[0])
    steps = [_summary(of[f"{_ACCURACY}{count}_classes"] for of in measured) for count in classes]
    spreads = tuple(std for _, std in steps if std is not None)
    return Curve(
        **{name: first[name] for name in ("run", "method", "dataset", "images_per_class", "subject")},
        memory=first["variant"].partition(" ")[0],
        count=len(rows),
        memory_images=fmean(of["memory_images"] for of in measured),
        memory_bytes=fmean(of["memory_bytes"] for of in measured),
        classes=classes,
        accuracy=tuple(mean for mean, _ in steps),
        accuracy_std=spreads or None,
        average=_summary(of["average_accuracy"] for of in measured),
        final=_summary(of["final_accuracy"] for of in measured),
        forgetting=_summary(of["forgetting"] for of in measured),
    )


def _seen(metrics: Mapping[str, float]) -> tuple[int, ...]:
    """After how many classes an accuracy was measured."""
    names = (name for name in metrics if name.startswith(_ACCURACY))
    return tuple(sorted(int(name.removeprefix(_ACCURACY).partition("_")[0]) for name in names))


def _summary(values: Iterable[float]) -> tuple[float, float | None]:
    known = list(values)
    return fmean(known), stdev(known) if len(known) > 1 else None


def _ranking(trial: Trial) -> Question:
    return Question(probe="continual", trial=replace(trial, student_seed=0), variant=_RANKS)


def _random_rows(key: Key, data: PreparedData, count: int) -> Tensor:
    """Rows of at most `count` training images of every class."""
    chosen = []
    for label in range(data.num_classes):
        rows = (data.train.labels == label).nonzero().squeeze(1)
        chosen.append(rows[permutation(key.child(label), len(rows))[:count]])
    return torch.cat(chosen)


def _real_bytes(data: PreparedData) -> int:
    """Of a real image of D values, whose pixels are bytes, with its class."""
    return math.prod(data.shape) + _LABEL_BYTES


def _tested(trial: Trial, memory: TrainingSet, classes_K: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Train a network on what a memory holds of some classes, and test it on their test images.

    Returns:
        Classes int64 [T], and bool [T]: which of them it tells.
    """
    data = replace(view.data, class_names=tuple(view.data.class_names[label] for label in classes_K.tolist()))
    own, learned = trial, seen_only(memory, classes_K)
    if (views := trial.recipe.views) is not None:
        own = replace(trial, recipe=replace(trial.recipe, temperature=1.0, squares_temperature=False))
        drawn = ImageViews(learned.images[:].to(view.device), data.preprocessing, views)
        learned = replace(learned, views=HardLabels(drawn, learned.targets, len(classes_K)))
    training = student_training([own], data, learned, view.device, compiled=False)
    fit(training)
    rows_T = torch.isin(data.test.labels, classes_K).nonzero().squeeze(1)
    labels_T = data.test.labels[rows_T]
    guessed_T = predict(training.modules[0], SelectedImages(data.test.images, rows_T)).argmax(1)
    return labels_T, classes_K[guessed_T] == labels_T
