"""Real images as training asks for them: some rows at a time, in network space.

Most datasets fit into memory as bytes, and four times fewer of them as float32. So bytes are what is kept, and each
batch is mapped into network space when it is asked for.

Letters: N images, B some of them, C H W.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from raydd.data.preprocessing import Preprocessing


class Images(Protocol):
    """Images in network space, wherever their pixels are."""

    @property
    def shape(self) -> torch.Size:
        """N, C, H, W."""
        ...

    @property
    def device(self) -> torch.device:
        """Where indexing puts images."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Float32 [B, C, H, W] in network space, of rows int64 [B] or bool [N] on any device that tensors allow."""
        ...

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them, so many at a time."""
        ...

    def to(self, device: torch.device) -> "Images":
        """The same images, which indexing puts on another device."""
        ...

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each of the rows, int64 [B], their images, in order: a chance to read ahead."""
        ...


@dataclass(frozen=True, eq=False)
class Resident:
    """Images that stay in memory, as bytes or as they are in network space."""

    pixels: Tensor
    """uint8 [N, C, H, W]; or floating point, in network space. May be memory-mapped."""
    preprocessing: Preprocessing | None = None
    """Of bytes: what they pass through whenever they are asked for, channel by channel."""

    def __post_init__(self) -> None:
        """Refuse bytes without a map, and a map without bytes."""
        assert (self.pixels.dtype == torch.uint8) == (self.preprocessing is not None)
        assert self.preprocessing is None or self.preprocessing.per_channel

    @classmethod
    def of(cls, pixels_NCHW: Tensor, preprocessing: Preprocessing) -> "Resident":
        """Pixels, uint8, as a preprocessing shows them to networks.

        Whitening multiplies each image by a matrix of D x D, so it is done once and for all, at four bytes a value.
        """
        if preprocessing.per_channel:
            return cls(pixels_NCHW, preprocessing)
        return cls(preprocessing.forward(pixels_NCHW))

    @property
    def shape(self) -> torch.Size:
        """See `Images`."""
        return self.pixels.shape

    @property
    def device(self) -> torch.device:
        """See `Images`."""
        return self.pixels.device

    def __len__(self) -> int:
        """N."""
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """See `Images`: the bits of `preprocessing.forward(pixels)[rows]`."""
        chosen = self.pixels[rows]
        return chosen if self._seen is None else self._seen(chosen)

    def split(self, size: int) -> Iterator[Tensor]:
        """See `Images`."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def to(self, device: torch.device) -> "Resident":
        """See `Images`: one copy of the pixels, where they are not there already."""
        moved = self.pixels.to(device)
        return self if moved is self.pixels else Resident(moved, self.preprocessing)

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Images`."""
        return (self[own] for own in rows)

    @cached_property
    def _seen(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.preprocessing is None else self.preprocessing.on(self.pixels.device, self.pixels.dtype)


@dataclass(frozen=True, eq=False)
class SelectedImages:
    """Some rows of other images, which are not copied."""

    images: Images
    rows: Tensor
    """int64 [N], which of them."""

    @property
    def shape(self) -> torch.Size:
        """See `Images`."""
        return torch.Size([len(self.rows), *self.images.shape[1:]])

    @property
    def device(self) -> torch.device:
        """See `Images`."""
        return self.images.device

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """See `Images`."""
        return self.images[self.rows[rows]]

    def split(self, size: int) -> Iterator[Tensor]:
        """See `Images`."""
        return self.images.batches(self.rows.split(size))

    def to(self, device: torch.device) -> "SelectedImages":
        """See `Images`."""
        return SelectedImages(self.images.to(device), self.rows.to(device))

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Images`."""
        return self.images.batches([self.rows[own] for own in rows])


def as_images(images: Images | Tensor) -> Images:
    """A tensor [N, C, H, W] in network space as `Images`; others as they are."""
    return Resident(images) if isinstance(images, Tensor) else images
