"""Copy check: how near the images of a set lie to images of the real training set, in pixels and in features.

How near a real image that was never learned lies to the training images tells what "near" means: the nearest-neighbour
distances of test images are the reference. A synthetic image counts as a copy where it lies nearer to a training image
than all but a fraction `quantile` of the test images do; of images that have nothing to do with the training set as
many would, and of stored training images all do.

Letters: M images of the set, N real training images, T test images, D values of an image, F features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.errors import ConfigError
from raydd.evaluation.diversity import features
from raydd.evaluation.probing import Answer, Asker, Question, View, each_set
from raydd.evaluation.trials import Trial
from raydd.networks import Network
from raydd.pixels import Images, as_images
from raydd.progress import Progress
from raydd.random import permutation
from raydd.synthetic import preview
from raydd.whitening import Preprocessing

_BLOCK = 1024
"""Images whose distances are computed together."""


@dataclass(frozen=True, kw_only=True)
class CopiesConfig(Asker):
    """The copy check."""

    quantile: float = 0.01
    """Of the test images' distances: nearer images of a set are copies."""
    reference_images: int = 1000
    """At most so many test images, drawn at random, make the reference."""
    shown: int = 10
    """Images of the set in the picture, those nearest to the training images first."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not 0 <= self.quantile < 1:
            raise ConfigError("evaluate.copies.quantile", f"must be at least 0 and below 1, is {self.quantile:g}")
        for name in ("reference_images", "shown"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.copies.{name}", f"must be at least 1, is {getattr(self, name)}")

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """One for every training set but all the real data."""
        return [Question(probe="copies", trial=trial) for trial in each_set(trials) if trial.subject != "full"]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Nearest-neighbour distances and the share of copies, in pixels and in features; the nearest side by side.

        Distances in pixels are root mean squares of values in 0..1; those in features are of features of length 1.
        """
        data, chosen = view.data, as_images(view.training_set(question.trial).images)
        drawn = permutation(view.key.child("copies"), len(data.test))[: self.reference_images].sort().values
        test = data.test.images[drawn]
        sides: dict[str, Callable[[Images], Iterator[Tensor]]] = {
            "pixel": lambda images: _pixels(images, data.preprocessing),
            "feature": lambda images: _features(images, view.observer()),
        }
        metrics: dict[str, float] = {}
        for done, (name, seen) in enumerate(sides.items(), 1):
            found = {
                whose: nearest(torch.cat(list(seen(images))), seen(data.train.images))
                for whose, images in (("set", chosen), ("test", as_images(test)))
            }
            metrics |= _measured(name, found["set"][0], found["test"][0], self.quantile)
            if name == "pixel":
                picture = _side_by_side(chosen, data.train.images, *found["set"], data.preprocessing, self.shown)
            progress.update(question.title, done, len(sides))
        return Answer(metrics=metrics, pictures={"nearest": picture})


def nearest(points_MD: Tensor, blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """How far, float32 [M], and which, int64 [M], the nearest of many others is to each of some points.

    The nearest is found by squared norms and inner products; its distance is then that of the difference, so that equal
    points are at 0.

    Args:
        points_MD: the points.
        blocks: the others in their order, float [B, D] each.
    """
    norms_M, first = points_MD.square().sum(1), 0
    least_M = torch.full_like(norms_M, torch.inf)
    distances_M, rows_M = torch.full_like(norms_M, torch.inf), torch.zeros(len(points_MD), dtype=torch.int64)
    for block_BD in blocks:
        squared_MB = norms_M[:, None] - 2 * points_MD @ block_BD.T + block_BD.square().sum(1)
        own_M, places_M = squared_MB.min(1)
        closer = own_M < least_M
        least_M = least_M.where(~closer, own_M)
        exact_M = (points_MD - block_BD[places_M]).norm(dim=1)
        distances_M, rows_M = distances_M.where(~closer, exact_M), rows_M.where(~closer, first + places_M)
        first += len(block_BD)
    return distances_M, rows_M


def _pixels(images: Images, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """Blocks of flat images [B, D] in pixel space, scaled so that distances are root mean squares."""
    for block in images.split(_BLOCK):
        flat_BD = preprocessing.inverse(block.cpu()).flatten(1)
        yield flat_BD / flat_BD.shape[1] ** 0.5


def _features(images: Images, observer: Network) -> Iterator[Tensor]:
    """Blocks of features [B, F] of length 1."""
    for block in images.split(_BLOCK):
        yield F.normalize(features(observer, block), dim=1)


def _measured(name: str, set_M: Tensor, test_T: Tensor, quantile: float) -> dict[str, float]:
    threshold = float(test_T.quantile(quantile))
    return {
        f"{name}_distance": float(set_M.mean()),
        f"{name}_distance_min": float(set_M.min()),
        f"{name}_reference": float(test_T.mean()),
        f"{name}_copies": float((set_M <= threshold).float().mean()),
    }


def _side_by_side(
    chosen: Images, real: Images, distances_M: Tensor, rows_M: Tensor, preprocessing: Preprocessing, shown: int
) -> bytes:
    """A PNG of two rows: the images of the set that are nearest to training images, and those training images."""
    first = distances_M.argsort(stable=True)[:shown]
    pairs = torch.cat([chosen[first].cpu(), real[rows_M[first]].cpu()])
    pixels = preprocessing.inverse(pairs).mul(255).round().clamp(0, 255).to(torch.uint8)
    return preview(pixels, torch.arange(2).repeat_interleave(len(first)))
