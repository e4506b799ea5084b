"""FADRM: fast and accurate data residual matching (Cui et al., NeurIPS 2025, https://arxiv.org/abs/2506.24125).

SRe2L's loss from real images, in segments: between two of them images are mixed with those that they started from, and
may change their size, so that a part of the work is done on smaller images. Adam begins anew in every segment; its step
size follows one cosine over all of them.

Letters: M synthetic images, C H W, S a side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd import networks
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Start, Task
from raydd.methods.decoupled.family import GroupMethod
from raydd.methods.decoupled.recover import MOMENTS, Recover
from raydd.methods.decoupled.sre2l import SpreadConfig
from raydd.networks.config import NetworkConfig
from raydd.sets.synthetic import SyntheticSet

SMALLER: Final = 200
"""The side of every other segment for larger images."""


@dataclass(frozen=True, kw_only=True)
class FADRMConfig(SpreadConfig):
    """FADRM with one teacher; the defaults are the published ones for ImageNet-1K."""

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "sre2l"}
    name: Literal["fadrm"] = "fadrm"
    iterations: int = 2_000
    init: Literal["medium", "easy", "hard", "random", "noise"] = "medium"
    crop: Literal["curriculum", "random", "none"] = "random"
    segments: int = 4
    """Parts of the iterations, equally long, between which images are mixed with those that they started from."""
    sizes: tuple[int, ...] | None = None
    """The side in pixels at which the images of each segment are optimised; the last is that of the data. null: for
    images of more than 200 pixels these and 200 in turn, else one size."""
    residual: float = 0.5
    """[alpha] what is kept of an image between two segments; the rest is the real image that it started from."""

    def __post_init__(self) -> None:
        """Refuse segments that do not fill the iterations, and a start without real images."""
        super().__post_init__()
        self._require_at_least(1, "segments")
        if self.iterations % self.segments:
            raise ConfigError(
                "method.segments", f"must divide method.iterations ({self.iterations}), is {self.segments}"
            )
        if not 0 <= self.residual <= 1:
            raise ConfigError("method.residual", f"must be between 0 and 1, is {self.residual}")
        if self.init == "noise":
            raise ConfigError("method.init", "is what images are mixed with; set it to another start than noise")
        if self.sizes is not None and (len(self.sizes) != self.segments or min(self.sizes) < 1):
            problem = f"must be {self.segments} sides in pixels, one for each of method.segments, is {list(self.sizes)}"
            raise ConfigError("method.sizes", problem)

    @property
    def segment_length(self) -> int:
        """Iterations of a segment."""
        return self.iterations // self.segments

    def sides(self, shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Height and width of the images in each segment, for data of a shape C, H, W.

        Raises:
            ConfigError: the last is not that of the data, or the data are not square.
        """
        _, height, width = shape
        if self.sizes is None and (height != width or height <= SMALLER):
            return [(height, width)] * self.segments
        sizes = self.sizes or [SMALLER if left % 2 else height for left in reversed(range(self.segments))]
        if height != width or sizes[-1] != height:
            problem = f"must end with the side of the data's images, which are {height}x{width} and have to be square"
            raise ConfigError("method.sizes", f"{problem}; is {list(sizes)}")
        return [(side, side) for side in sizes]

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """A distiller of the task's class groups, at their starting images."""
        return Segmented(self, task, start, key)


class Segmented(Recover):
    """Class groups whose images are mixed with their starts from segment to segment."""

    def __init__(self, config: FADRMConfig, task: Task, start: Start, key: Key) -> None:
        """Begin at the starting images, at the first segment's size.

        Raises:
            ConfigError: the data, the stage or the teacher do not fit the method or its sizes.
        """
        super().__init__(config, task, start, key)
        self._length, self._sides = config.segment_length, config.sides(task.data.shape)
        self._residual = config.residual
        card = task.require_teacher().card
        for size in set(self._sides):
            _require_size(NetworkConfig(**card.network), task.data.shape, size)
        self._origins = self._values["images"]
        self._begin_with(at_size(self._origins, self._sides[0]))

    def step(self) -> dict[str, float]:
        """Update the images; before the first step of a later segment they are mixed with their starts."""
        segment, done = divmod(self.iteration, self._length)
        if segment and not done:
            self._begin_with(residual(self._values["images"], self._origins, self._sides[segment], self._residual))
        return super().step()

    @property
    def _adam_steps(self) -> int:
        return self.iteration % self._length + 1

    def _set(self, rows: Tensor, done: int) -> SyntheticSet:
        images = self._values["images"].detach()
        return self._set_of(at_size(images, self._sides[-1]), rows, done)

    def _begin_with(self, images_MCHW: Tensor) -> None:
        """Adam anew, at these images."""
        images = images_MCHW.detach().clone()
        self._values = {name: torch.zeros_like(images) for name in MOMENTS} | {"images": images}


def at_size(images_MCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at a height and width, bilinear with corners not aligned; the same where they have it."""
    if images_MCHW.shape[2:] == size:
        return images_MCHW
    return F.interpolate(images_MCHW, size, mode="bilinear", align_corners=False)


def residual(images_MCHW: Tensor, origins_MCHW: Tensor, size: tuple[int, int], kept: float) -> Tensor:
    """The next segment's start, x <- alpha resize(x) + (1 - alpha) resize(o).

    Args:
        images_MCHW: x, at the size of the segment before.
        origins_MCHW: o, what the images started from, at the size of the data.
        size: height and width in the next segment.
        kept: alpha.
    """
    return kept * at_size(images_MCHW.detach(), size) + (1 - kept) * at_size(origins_MCHW, size)


def _require_size(network: NetworkConfig, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    """See that a teacher for images of a shape takes those of another size, too."""
    channels = shape[0]
    try:
        found = [networks.num_features(network, (channels, *side)) for side in (shape[1:], size)]
    except ConfigError as small:
        raise ConfigError("method.sizes", f"{size[0]} pixels are too few for the teacher: {small}") from small
    if found[0] != found[1]:
        problem = f"{network.label} takes images of {shape[1]}x{shape[2]} alone, not of {size[0]}x{size[1]}"
        raise ConfigError("method.sizes", f"{problem}; leave it out, or take a teacher that averages its last maps")
