"""Copy check: how near the images of a set lie to images of the real training set.

How near a real image that was never learned lies to the training images tells what "near" means: the nearest-neighbour
distances of test images are the reference. A synthetic image counts as a copy where it lies nearer to a training image
than all but a fraction `quantile` of the test images do; of images that have nothing to do with the training set as
many would, and of stored training images all do.

There are three views of an image. pixel: its values, in which changes of colour and noise are small. feature: what the
observer makes of it. moved: its values, mirrored or not and shifted by at most a pixel up, down, left or right,
whichever of the ten lies nearest; without a border of one pixel, which a shift fills with something else.

Letters: M images of the set, N real training images, T test images, V ways to move an image, B images of a block,
P some of them, C H W, D values or features.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress
from raydd.data.images import Images, SelectedImages, as_images
from raydd.data.preprocessing import Preprocessing
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, each_set
from raydd.evaluation.students.trials import Trial
from raydd.sets.preview import preview
from raydd.training.loop import features

_BLOCK: Final = 1024
"""Images at most whose distances are computed together."""
_BLOCK_VALUES: Final = 2**22
"""Values at most of those images."""
_HELD_VALUES: Final = 2**26
"""Values at most of the images, moved, that training images are gone through for."""
_WINDOWS: Final = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
"""Where the part of an image begins that is compared with the inner part of a training image: row and column."""


@dataclass(frozen=True, kw_only=True)
class CopiesConfig(Asker):
    """The copy check."""

    quantile: float = 0.01
    """Of the test images' distances: nearer images of a set are copies."""
    images: int = 1000
    """At most so many images of a set, drawn at random, are looked at."""
    reference_images: int = 500
    """At most so many test images, drawn at random, make the reference."""
    shown: int = 10
    """Images of the set in the picture, those nearest to the training images first."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not 0 <= self.quantile < 1:
            raise ConfigError("evaluate.copies.quantile", f"must be at least 0 and below 1, is {self.quantile:g}")
        for name in ("images", "reference_images", "shown"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.copies.{name}", f"must be at least 1, is {getattr(self, name)}")

    def preparations(self, trials: Sequence[Trial]) -> list[Question]:
        """The reference, which all sets share."""
        return list(dict.fromkeys(_reference(question) for question in self.questions(trials)))

    def prepare(self, question: Question, view: View, progress: Progress) -> dict[str, Tensor]:
        """How far test images are from the nearest training image: float64 [T] by name of the view."""
        test = _some(view.data.test.images, self.reference_images, view.key.child("copies", "test"))
        found: dict[str, Tensor] = {}
        for done, (name, space) in enumerate(_spaces(view).items(), 1):
            found[name] = space.nearest(test, view.data.train.images)[0]
            progress.update(question.work, done, len(_SPACES))
        return found

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """One for every training set but all the real data."""
        return [Question(probe="copies", trial=trial) for trial in each_set(trials) if trial.subject != "full"]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Nearest-neighbour distances and the share of copies in each view; the nearest in pixels side by side.

        Distances in pixels are root mean squares of values in 0..1; those in features are of features of length 1.
        """
        data, reference = view.data, view.prepared(_reference(question))
        images = as_images(view.training_set(question.trial).images)
        chosen = _some(images, self.images, view.key.child("copies", "set"))
        metrics: dict[str, float] = {}
        for done, (name, space) in enumerate(_spaces(view).items(), 1):
            distances_M, rows_M = space.nearest(chosen, data.train.images)
            metrics |= _measured(name, distances_M, reference[name], self.quantile)
            if name == "pixel":
                picture = _side_by_side(chosen, data.train.images, distances_M, rows_M, data.preprocessing, self.shown)
            progress.update(question.work, done, len(_SPACES))
        return Answer(metrics=metrics, pictures={"nearest": picture})


@dataclass(frozen=True)
class ComparedSpace:
    """Where distances between images are measured."""

    ways: Callable[[Tensor], Tensor]
    """An image in all the ways that it is compared in: of [B, C, H, W] in network space float32 [V, B, D]."""
    fixed: Callable[[Tensor], Tensor]
    """Training images: of [B, C, H, W] in network space float32 [B, D]."""

    def nearest(self, images: Images, real: Images) -> tuple[Tensor, Tensor]:
        """How far, float64 [M], and which, int64 [M], the training image is that is nearest to each of some images."""
        num_ways = len(self.ways(images[:1]))
        held = max(1, _HELD_VALUES // (num_ways * images.shape[1:].numel()))
        parts = [self._nearest(own, real) for own in images.split(held)]
        return torch.cat([distances for distances, _ in parts]), torch.cat([rows for _, rows in parts])

    def _nearest(self, some_BCHW: Tensor, real: Images) -> tuple[Tensor, Tensor]:
        points_VBD = torch.cat([self.ways(block) for block in some_BCHW.split(_rows(some_BCHW.shape))], 1)
        size_VB = points_VBD.shape[:2]
        others = (self.fixed(block) for block in real.split(_rows(real.shape)))
        distances_VB, rows_VB = (found.view(size_VB) for found in nearest(points_VBD.flatten(0, 1), others))
        least_B, ways_B = distances_VB.min(0)
        return least_B, rows_VB.gather(0, ways_B[None])[0]


def nearest(points_MD: Tensor, blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """How far, float64 [M], and which, int64 [M], the nearest of many others is to each of some points.

    The nearest is found by squared norms and inner products in float64; its distance is then that of the difference,
    so that equal points are at 0.

    Args:
        points_MD: the points.
        blocks: the others in their order, float [B, D] each.
    """
    best_M = torch.full((len(points_MD),), torch.inf, dtype=torch.float64)
    rows_M, first = torch.zeros(len(points_MD), dtype=torch.int64), 0
    for block in blocks:
        block_BD, start = block.double(), 0
        norms_B = block_BD.square().sum(1)
        for own in points_MD.split(_rows(points_MD.shape)):
            own_PD, here = own.double(), slice(start, start + len(own))
            closest_P = torch.addmm(norms_B, own_PD, block_BD.T, alpha=-2).argmin(1)
            distances_P = (own_PD - block_BD[closest_P]).norm(dim=1)
            closer_P = distances_P < best_M[here]
            best_M[here] = distances_P.where(closer_P, best_M[here])
            rows_M[here] = (first + closest_P).where(closer_P, rows_M[here])
            start += len(own)
        first += len(block)
    return best_M, rows_M


_SPACES: Final = ("pixel", "feature", "moved")


def _spaces(view: View) -> dict[str, ComparedSpace]:
    """The views of images, by name."""
    preprocessing, observer = view.data.preprocessing, view.observer()

    def pixels(block_BCHW: Tensor) -> Tensor:
        return _scaled(preprocessing.inverse(block_BCHW.cpu()))

    def seen(block_BCHW: Tensor) -> Tensor:
        units_BF: Tensor = F.normalize(features(observer, block_BCHW), dim=1)
        return units_BF

    spaces = (
        ComparedSpace(lambda block: pixels(block)[None], pixels),
        ComparedSpace(lambda block: seen(block)[None], seen),
        ComparedSpace(
            lambda block: torch.stack([_scaled(way) for way in moved(preprocessing.inverse(block.cpu()))]),
            lambda block: _scaled(preprocessing.inverse(block.cpu())[:, :, 1:-1, 1:-1]),
        ),
    )
    return dict(zip(_SPACES, spaces, strict=True))


def moved(pixels_BCHW: Tensor) -> Iterator[Tensor]:
    """The parts [B, C, H - 2, W - 2] of images, mirrored or not, that may be the inner part of another image."""
    height, width = (size - 2 for size in pixels_BCHW.shape[2:])
    for image_BCHW in (pixels_BCHW, pixels_BCHW.flip(3)):
        for top, left in _WINDOWS:
            yield image_BCHW[:, :, top : top + height, left : left + width]


def _scaled(pixels_BCHW: Tensor) -> Tensor:
    """Flat [B, D], such that distances are root mean squares."""
    flat_BD = pixels_BCHW.flatten(1)
    return flat_BD / math.sqrt(flat_BD.shape[1])


def _rows(shape: Sequence[int]) -> int:
    """Rows of a tensor of this shape that are worked on together."""
    return max(1, min(_BLOCK, _BLOCK_VALUES // torch.Size(shape[1:]).numel()))


def _some(images: Images, count: int, key: Key) -> Images:
    """At most so many images, drawn at random."""
    if len(images) <= count:
        return images
    return SelectedImages(images, permutation(key, len(images))[:count].sort().values.to(images.device))


def _reference(question: Question) -> Question:
    """What the answer is held against: the same for all sets."""
    about = replace(question.trial, subject="full", labels="hard", draw=0, student_seed=0)
    return replace(question, trial=about, variant="reference")


def _measured(name: str, set_M: Tensor, test_T: Tensor, quantile: float) -> dict[str, float]:
    threshold = float(test_T.quantile(quantile))
    return {
        f"{name}_distance": float(set_M.mean()),
        f"{name}_distance_min": float(set_M.min()),
        f"{name}_reference": float(test_T.mean()),
        f"{name}_copies": float((set_M <= threshold).double().mean()),
    }


def _side_by_side(
    chosen: Images, real: Images, distances_M: Tensor, rows_M: Tensor, preprocessing: Preprocessing, shown: int
) -> bytes:
    """A PNG of two rows: the images of the set that are nearest to training images, and those training images."""
    first = distances_M.argsort(stable=True)[:shown]
    pairs = torch.cat([chosen[first.to(chosen.device)].cpu(), real[rows_M[first].to(real.device)].cpu()])
    pixels = preprocessing.inverse(pairs).mul(255).round().clamp(0, 255).to(torch.uint8)
    return preview(pixels, torch.arange(2).repeat_interleave(len(first)), columns=shown)
