"""Realism and coverage: whether the images of a set look like real ones to a network that was trained on those.

The network is the run's observer. What it says of the images is RDED's realism (https://arxiv.org/abs/2312.03526), and
its features are the space in which the set is compared with test images, which are in no set: random training images,
a set like any other, show what real images reach there. Each of these numbers depends on how many images there are.

Letters: M images of the set, N test images, F features, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress
from raydd.data.images import SelectedImages, as_images
from raydd.data.prepared import LabelledImages
from raydd.evaluation.probes.coverage import spread
from raydd.evaluation.probes.discrepancy import bandwidth, frechet, gaussian_kernel, mmd, permutation_p
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, each_set
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.training.loop import accuracy, features, predict

FRECHET_IMAGES: Final = 1000
"""Of the set, and of the test images, there must be more than so many for a Frechet distance."""


@dataclass(frozen=True, kw_only=True)
class RealismConfig(Asker):
    """Realism and coverage."""

    images: int = 2000
    """At most so many images of a set, and so many test images, drawn at random, are compared."""
    neighbours: int = 5
    """k of density, coverage, precision and recall: the nearest real images that make a neighbourhood."""
    permutations: int = 500
    """Random splits that the discrepancy is held against."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.images < 2:
            raise ConfigError("evaluate.realism.images", f"must be at least 2, is {self.images}")
        for name in ("neighbours", "permutations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.realism.{name}", f"must be at least 1, is {getattr(self, name)}")

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """One for every training set but all the real data."""
        return [Question(probe="realism", trial=trial) for trial in each_set(trials) if trial.subject != "full"]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """What the observer says of the images, and how their features lie among those of test images.

        `realism`, in nats, is minus the mean cross-entropy of an image's class; `confidence` the mean of the largest
        probability and `accuracy` how often that is the class's; `real_...` are those of test images, and `teacher_...`
        what the run's teacher says of the set, where there is one. `mmd` is squared
        and unbiased, `mmd_p` its p-value, `class_mmd` the mean over the classes of two images or more. `frechet` is in
        the observer's features: not the FID of papers, whose features are Inception's.
        """
        key, observer = view.key.child("realism"), view.observer()
        chosen = self._some(_labelled(view.training_set(question.trial)), key.child("set"))
        test = self._some(view.data.test, key.child("test"))
        set_MF, real_NF = (features(observer, split.images) for split in (chosen, test))
        metrics = said(_logits(observer, set_MF), chosen.labels)
        metrics |= _named("real", said(_logits(observer, real_NF), test.labels))
        if (teacher := view.teacher()) is not None:
            metrics |= _named("teacher", said(predict(teacher, chosen.images), chosen.labels))
        progress.update(question.work, 1, 3)
        metrics |= spread(real_NF, set_MF, self.neighbours)
        progress.update(question.work, 2, 3)
        metrics |= self._discrepancies(set_MF, chosen.labels, real_NF, test.labels, key.child("permutations"))
        progress.update(question.work, 3, 3)
        return Answer(metrics=metrics)

    def _some(self, split: LabelledImages, key: Key) -> LabelledImages:
        if len(split) <= self.images:
            return split
        rows = permutation(key, len(split))[: self.images].sort().values
        return LabelledImages(SelectedImages(split.images, rows.to(split.images.device)), split.labels[rows])

    def _discrepancies(
        self, set_MF: Tensor, classes_M: Tensor, real_NF: Tensor, labels_N: Tensor, key: Key
    ) -> dict[str, float]:
        sizes = len(set_MF), len(real_NF)
        if min(sizes) < 2:
            return {}
        kernel_SS = gaussian_kernel(torch.cat([set_MF, real_NF]), bandwidth(real_NF))
        found = {
            "mmd": mmd(kernel_SS, len(set_MF)),
            "mmd_p": permutation_p(kernel_SS, len(set_MF), self.permutations, key),
        }
        if of_classes := class_mmds(kernel_SS, classes_M, labels_N):
            found["class_mmd"] = fmean(of_classes)
        if min(sizes) > FRECHET_IMAGES:
            found["frechet"] = frechet(set_MF, real_NF)
        return found


def said(logits_MK: Tensor, classes_M: Tensor) -> dict[str, float]:
    """`realism`, `confidence` and `accuracy` of images, by what a network says of them."""
    logits_MK = logits_MK.double()
    return {
        "realism": -float(F.cross_entropy(logits_MK, classes_M)),
        "confidence": float(logits_MK.softmax(1).max(1).values.mean()),
        "accuracy": accuracy(logits_MK, classes_M),
    }


def class_mmds(kernel_SS: Tensor, classes_M: Tensor, labels_N: Tensor) -> list[float]:
    """MMD^2 of each class that has two images or more on both sides, under the kernel of all; the set's come first."""
    found = []
    for label in classes_M.unique():
        own, real = ((labels == label).nonzero()[:, 0] for labels in (classes_M, labels_N))
        if min(len(own), len(real)) > 1:
            rows = torch.cat([own, len(classes_M) + real])
            found.append(mmd(kernel_SS[rows][:, rows], len(own)))
    return found


@torch.no_grad()
def _logits(observer: Network, features_MF: Tensor) -> Tensor:
    """What the last layer makes of features, on the CPU."""
    logits_MK: Tensor = observer.head(features_MF.to(next(observer.parameters()).device))
    return logits_MK.cpu()


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _labelled(chosen: TrainingSet) -> LabelledImages:
    """The images of a set with their classes, on the CPU."""
    classes = chosen.targets if chosen.classes is None else chosen.classes
    return LabelledImages(as_images(chosen.images), classes.cpu())
