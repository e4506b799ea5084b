"""Robustness: what is left of a student's accuracy under attack, and under common corruptions.

The attack is projected gradient descent (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083) in pixels, through
the preprocessing: from a random start within epsilon of an image x in every value,

    x' <- clamp_[0, 1](clamp_[x - epsilon, x + epsilon](x' + step * sign(d loss / d x'))),

with the cross-entropy to the true class and a step of 2.5 epsilon / steps. Students are trained as always, none of them
against attacks. An image counts as robust where the student is right before and after the attack: who attacks may
leave it as it is. Corruptions are in `raydd.evaluation.probes.corruptions`.

Letters: N drawn test images, B some of them, C H W, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation, uniform
from raydd.core.progress import Progress
from raydd.data.images import SelectedImages
from raydd.data.preprocessing import Preprocessing
from raydd.evaluation.probes.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupted
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, first_students
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.training.loop import accuracy, predict

_BATCH: Final = 128
_STEP: Final = 2.5
"""Of epsilon, how far all steps go together (Madry et al.): enough to reach any border from any start."""

Classify = Callable[[Tensor], Tensor]
"""Logits [B, K] of pixels in units of [0, 1], or of bytes."""


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(Asker):
    """Attacks and corruptions."""

    students: int = 3
    """Of each set, with seeds 0, 1, ..."""
    images: int = 1000
    """At most so many test images, drawn at random, are attacked and corrupted."""
    epsilons: tuple[float, ...] = (2.0, 8.0)
    """How far an attack moves a value of a pixel, in units of 1/255."""
    steps: int = 20
    """Of an attack."""
    corruptions: tuple[Corruption, ...] = CORRUPTIONS
    """Each at five severities; none leaves them out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("students", "images", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.robustness.{name}", f"must be at least 1, is {getattr(self, name)}")
        if not self.epsilons:
            raise ConfigError("evaluate.robustness.epsilons", "name at least one")
        for epsilon in self.epsilons:
            if not 0 <= epsilon <= 255:
                raise ConfigError("evaluate.robustness.epsilons", f"must be from 0 to 255, is {epsilon:g}")
        for name, named in (("epsilons", list(map(_label, self.epsilons))), ("corruptions", self.corruptions)):
            if twice := [value for value in named if named.count(value) > 1]:
                raise ConfigError(f"evaluate.robustness.{name}", f"names {twice[0]} twice")

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """One for each of the first students of every set, under every regime of labels."""
        return [Question(probe="robustness", trial=trial) for trial in first_students(trials, self.students)]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Accuracies on the drawn images: robust at every epsilon, clean, and corrupted; and how far below clean.

        What is corrupted counts by its mean over severities and, of all corruptions, the mean of these.
        """
        network, data = view.student(question.trial, progress), view.data
        key = view.key.child("robustness")
        rows_N = permutation(key.child("images"), len(data.test))[: self.images].sort().values
        pixels = _bytes(SelectedImages(data.test.images, rows_N), data.preprocessing)
        labels_N = data.test.labels[rows_N]
        maps = {dtype: data.preprocessing.on(view.device, dtype) for dtype in (torch.uint8, torch.float32)}
        classify = partial(_logits, network, maps, view.device)
        right_N = _right(classify, pixels, labels_N)
        clean, robust, under = float(right_N.double().mean()), {}, {}
        parts = len(self.epsilons) + len(self.corruptions)
        for done, epsilon in enumerate(self.epsilons, 1):
            withstood_N = _withstood(
                classify, pixels, labels_N, right_N, epsilon / 255, self.steps, key.child("start"), rows_N
            )
            robust[_label(epsilon)] = float(withstood_N.double().mean())
            progress.update(question.work, done, parts, f"epsilon {epsilon:g}/255")
        for done, kind in enumerate(self.corruptions, len(self.epsilons) + 1):
            under[kind] = fmean(
                float(_right(classify, made, labels_N).double().mean())
                for made in _all_severities(kind, pixels, key.child("corruptions"), rows_N)
            )
            progress.update(question.work, done, parts, kind)
        metrics = {f"robust_accuracy_{name}": value for name, value in robust.items()}
        metrics |= {"clean_accuracy": clean}
        metrics |= {f"robust_drop_{name}": clean - value for name, value in robust.items()}
        if under:
            mean = fmean(under.values())
            metrics |= {"corrupted_accuracy": mean, "corrupted_drop": clean - mean}
            metrics |= {f"{kind}_accuracy": value for kind, value in under.items()}
        return Answer(metrics=metrics, test_accuracy=accuracy(predict(network, data.test.images), data.test.labels))


def attacked(
    classify: Classify, x_BCHW: Tensor, labels_B: Tensor, epsilon: float, steps: int, start_BCHW: Tensor
) -> Tensor:
    """Images that were moved by at most epsilon in every value, in 0..1 as before, by projected gradient descent.

    Args:
        classify: is differentiable, and sees every image by itself.
        x_BCHW: pixels in units of [0, 1].
        labels_B: int64, the true classes.
        epsilon: in units of [0, 1].
        steps: how many.
        start_BCHW: in -1..1, where between the borders to start.
    """
    lowest, highest = (x_BCHW - epsilon).clamp(min=0), (x_BCHW + epsilon).clamp(max=1)
    moved = (x_BCHW + epsilon * start_BCHW).clamp(lowest, highest)
    for _ in range(steps):
        moved.requires_grad_()
        loss = F.cross_entropy(classify(moved), labels_B, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved.detach() + _STEP * epsilon / steps * gradient.sign()).clamp(lowest, highest)
    return moved


def _withstood(
    classify: Classify,
    pixels: Tensor,
    labels_N: Tensor,
    right_N: Tensor,
    epsilon: float,
    steps: int,
    key: Key,
    rows_N: Tensor,
) -> Tensor:
    """Of bytes [N, C, H, W], those that are classified rightly before and after an attack: bool [N].

    Only those of `right_N` are attacked. Where an attack starts depends on the key and the image's row.
    """
    withstood_N = right_N.clone()
    for batch_B in right_N.nonzero()[:, 0].split(_BATCH):
        x_BCHW = pixels[batch_B].float() / 255
        start = uniform(key, rows_N[batch_B], x_BCHW[0].numel()).view_as(x_BCHW) * 2 - 1
        moved = attacked(classify, x_BCHW, labels_N[batch_B], epsilon, steps, start)
        withstood_N[batch_B] = _right(classify, moved, labels_N[batch_B])
    return withstood_N


def _all_severities(kind: Corruption, pixels: Tensor, key: Key, rows_N: Tensor) -> Iterator[Tensor]:
    """Bytes [N, C, H, W] under one corruption, severity by severity."""
    for severity in SEVERITIES:
        blocks = zip(pixels.split(_BATCH), rows_N.split(_BATCH), strict=True)
        yield torch.cat([corrupted(kind, block, severity, key, rows_B) for block, rows_B in blocks])


@torch.no_grad()
def _right(classify: Classify, pixels: Tensor, labels_N: Tensor) -> Tensor:
    """Which images are classified rightly: bool [N]."""
    return torch.cat([classify(batch).argmax(1) for batch in pixels.split(_BATCH)]) == labels_N


def _logits(
    network: Network, maps: Mapping[torch.dtype, Callable[[Tensor], Tensor]], device: torch.device, pixels_BCHW: Tensor
) -> Tensor:
    """Float32 [B, K] on the CPU, whose pixels are there too; the maps into network space are by the pixels' dtype."""
    logits: Tensor = network(maps[pixels_BCHW.dtype](pixels_BCHW.to(device)))
    return logits.float().cpu()


def _bytes(images: SelectedImages, preprocessing: Preprocessing) -> Tensor:
    """The images as they were stored: uint8 [N, C, H, W]."""
    blocks = (preprocessing.inverse(block.cpu()) for block in images.split(_BATCH))
    return torch.cat([block.mul(255).round().clamp(0, 255).to(torch.uint8) for block in blocks])


def _label(epsilon: float) -> str:
    return f"{epsilon:g}"
