"""Images that are decoded from their files whenever they are needed, for want of the memory to keep them.

Whoever knows beforehand which rows it will need asks for them in `batches`, which decodes ahead. What comes out does
not depend on who decodes: it is what the same images are when they are resident, bit by bit (but for ZCA, whose
products round by the size of a batch).

Letters: N images, B batch, C H W.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.loading import Undecoded
from raydd.data.preprocessing import Preprocessing

AHEAD = 4
"""Batches that are decoded while one is worked on."""

DecodedBlocks = Generator[Tensor, None, None]
"""uint8 [B, C, H, W] of one batch after the other; closing it ends the work behind it."""
ImageReader = Callable[[Undecoded, int, Sequence[Tensor]], DecodedBlocks]
"""`(files, channels, rows)` to the pixels of each of `rows` (int64 [B], not empty, in any order), in order."""


def read_here(files: Undecoded, channels: int, rows: Sequence[Tensor]) -> DecodedBlocks:
    """Decode with threads of this process, `AHEAD` batches ahead; see `ImageReader`.

    Raises:
        DataError: images cannot be decoded; when their batch is due.
    """
    flying: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="decoding") as pool:
        try:
            for rows_B in rows:
                flying.append(pool.submit(decoded, files, rows_B, channels))
                if len(flying) > AHEAD:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for waiting in flying:
                waiting.cancel()


def decoded(files: Undecoded, rows_B: Tensor, channels: int) -> Tensor:
    """The pixels of these rows, uint8 [B, C, H, W], whatever their order, and each as often as it is named."""
    distinct, places_B = rows_B.unique(return_inverse=True)
    return files.decode(distinct, channels)[places_B]


@dataclass(frozen=True, eq=False)
class Streamed:
    """N images of a split, by their files."""

    files: Undecoded
    image_shape: tuple[int, int, int]
    """C, H, W."""
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")
    """Where images are brought into network space, and stay."""
    reader: ImageReader = read_here
    """Decodes ahead."""

    @property
    def shape(self) -> torch.Size:
        """See `Images`."""
        return torch.Size([len(self.files), *self.image_shape])

    def __len__(self) -> int:
        """N."""
        return len(self.files)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """See `Images`; decoded now."""
        rows_B = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        return self._seen(decoded(self.files, rows_B, self.image_shape[0])) if len(rows_B) else self._nothing()

    def split(self, size: int) -> Iterator[Tensor]:
        """See `Images`; decoded ahead."""
        return self.batches(torch.arange(len(self)).split(size))

    def to(self, device: torch.device) -> "Streamed":
        """See `Images`; nothing is decoded."""
        return replace(self, device=device)

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Images`; decoded ahead, until the iterator is closed or has gone.

        Raises:
            DataError: images cannot be decoded, or are not of the size that they had.
        """
        some = [rows_B.cpu() for rows_B in rows if len(rows_B)]
        with closing(self.reader(self.files, self.image_shape[0], some)) as read:
            for rows_B in rows:
                yield self._seen(next(read)) if len(rows_B) else self._nothing()

    def _seen(self, pixels: Tensor) -> Tensor:
        if pixels.shape[1:] != self.image_shape:
            raise DataError(
                f"{self.files.listing.where}: images are {tuple(pixels.shape[1:])}, but were {self.image_shape} when "
                "they were first looked at; set data.image_size, or restore the files"
            )
        return self._map(pixels.to(self.device))

    @cached_property
    def _map(self) -> Callable[[Tensor], Tensor]:
        return self.preprocessing.on(self.device, torch.uint8)

    def _nothing(self) -> Tensor:
        return torch.empty(0, *self.image_shape, device=self.device)
