"""How much work goes into everything, by one number: recipes and iterations for data of a size.

`effort` 1 is what makes sets worth having of a few thousand small images on two cores in a quarter of an hour; half of
it is half the work of distilling. Numbers of steps, not of epochs, are what networks need, so epochs follow from the
number of images.

Letters: K classes, N real images, M images of a set that is trained on.
"""

import math
from dataclasses import dataclass
from typing import Final

from raydd.data import DataFacts
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig

EFFORTS: Final = (
    *(1 / 64, 1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4),
    *(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0),
)
"""What may be decided for: steps that are coarse, so that a machine that was measured twice decides the same."""
FINISHING: Final = 8
"""How many times the iterations of a trial a method gets that is finished."""
_WIDTHS: Final = ((128, 32.0), (64, 8.0), (32, 1 / 4), (24, 1 / 8), (16, 0.0))
"""Of networks, and the effort from which on they are so wide."""
MATCHED_BATCH: Final = 32
"""Images of a step, when trajectories are matched and of students of what comes of it."""
_REAL_IMAGES: Final = 24_000
"""Real images, counted as often as they are seen, that a network is trained on at effort 1."""
_STUDENT_STEPS: Final = 400


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What goes into a trial, or into finishing."""

    effort: float
    mirrored: bool
    """Whether images may be mirrored."""
    facts: DataFacts
    is_last: bool = False
    """Whether the set is finished, and not tried."""

    def iterations(self, at_one: float) -> int:
        """Of a method that is tried for so many at effort 1."""
        times = FINISHING if self.is_last else 1
        return max(1, round(times * at_one * self.effort))

    @property
    def width(self) -> int:
        """Of networks: narrow ones learn in time what little effort allows."""
        return next(width for width, least in _WIDTHS if self.effort >= least)

    @property
    def random_draws(self) -> int:
        """Of random images, each with its own students."""
        return 3 if self.is_last and self.effort >= 2 else 1

    @property
    def num_students(self) -> int:
        """Of a set that is measured."""
        if self.is_last:
            return 3 if self.effort < 4 else 5
        return 1 if self.effort < 1 / 2 else 2

    def epochs_on_real(self, share: float, fewest: int) -> int:
        """Of a network that is trained on all real images, with a share of what is usual."""
        seen = _REAL_IMAGES * share * min(8.0, math.sqrt(self.effort))
        return min(200, max(fewest, round(seen / self.facts.num_train)))

    def real_batch(self, steps: int) -> int:
        """Images of a step of an epoch of so many steps on all real images."""
        return min(256, max(8, self.facts.num_train // steps))

    def student(self, num_images: int) -> Recipe:
        """The recipe for sets with class labels, which images of all methods are trained by: IDC's, without flips."""
        flip = "_flip" if self.mirrored else ""
        batch = _batch(num_images)
        return Recipe(
            epochs=self._epochs(num_images, batch),
            lr=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=batch,
            schedule="step",
            augmentation=f"idc:color_crop{flip}_scale_rotate",
            cutmix=0.5,
        )

    def learned_student(self, num_images: int) -> Recipe:
        """The recipe for sets that come with a step size: DATM's."""
        batch = min(MATCHED_BATCH, num_images)
        return Recipe(
            epochs=self._epochs(num_images, batch),
            lr=None,
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=batch,
            schedule="step",
            augmentation=self.siamese,
        )

    def taught_student(self, num_images: int) -> Recipe:
        """The recipe for students that see views of images, under a teacher's labels or the classes: RDED's."""
        batch = _batch(num_images)
        return Recipe(
            epochs=self._epochs(num_images, batch),
            lr=1e-3,
            optimizer="adamw",
            weight_decay=0.01,
            batch_size=batch,
            schedule="half_cosine",
            augmentation="none",
            temperature=20.0,
            views=ViewsConfig(min_scale=0.25, flip=self.mirrored),
        )

    @property
    def siamese(self) -> str:
        """What real and synthetic images go through together."""
        return "dsa" if self.mirrored else "color_crop_cutout_scale_rotate"

    @property
    def full_epochs(self) -> int:
        """Of students on all real images."""
        return self.epochs_on_real(1.5, 2)

    def _epochs(self, num_images: int, batch: int) -> int:
        steps = _STUDENT_STEPS * min(3.0, math.sqrt(self.effort))
        return min(1_000, max(20, round(steps / math.ceil(num_images / batch))))


def _batch(num_images: int) -> int:
    """Images of a step: a fourth of the set, so that small sets have several steps an epoch."""
    return min(64, max(16, num_images // 4))
