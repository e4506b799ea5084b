"""From encoded images to one tensor: in threads, straight into its place, whatever single images are like.

Letters: N images that are listed, M of them that can be decoded, C H W.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from raydd.core import process
from raydd.core.errors import DataError, UserError
from raydd.data.listing import Item, some
from raydd.data.overheard import overheard

PixelArray = npt.NDArray[np.uint8]
"""Of a grey image [H, W], of all others [H, W, 3]."""

_T = TypeVar("_T")
_R = TypeVar("_R")

_THREADS: Final = min(8, os.cpu_count() or 1)
_BLOCK: Final = 32  # images a thread decodes at a time
_AHEAD: Final = 2 * _THREADS  # blocks that are decoded or waiting for it
_ONE_PICTURE: Final = ("MPO", "PSD")  # formats whose further frames belong to the first: depth or previews, layers


@dataclass(frozen=True)
class Seen(Generic[_R]):
    """What became of one image."""

    value: _R | None
    """What was made of it; None where it cannot be decoded."""
    problem: str
    """Why there is none, what is not as it was stored, or what Pillow warned of; empty where all is well."""


@dataclass(frozen=True)
class Decoded:
    """What became of N images."""

    images: Tensor
    """uint8 [M, C, H, W], in order."""
    is_kept: Tensor
    """bool [N]: which of the N these are."""
    problems: tuple[tuple[int, str, str], ...]
    """Of each image with a problem its number among the N, where it is, and what is wrong."""


def decode(items: Iterable[Item], count: int, image_size: int | None, channels: int | None = None) -> Tensor:
    """Decode N images, of which all are good, to uint8 [N, C, H, W]; see `decode_all`.

    Raises:
        DataError: images cannot be decoded (names them), or as `decode_all`.
    """
    found = decode_all(items, count, image_size, channels)
    kept = found.is_kept.tolist()
    if lost := [f"{where} ({what})" for number, where, what in found.problems if not kept[number]]:
        raise DataError(f"cannot decode {len(lost)} image(s), replace or remove them: {some(lost)}")
    return found.images


def decode_all(items: Iterable[Item], count: int, image_size: int | None, channels: int | None = None) -> Decoded:
    """Decode those of N images that can be: unless C is given, it is 1 when all of them are grey, otherwise 3.

    The EXIF orientation is applied, alpha dropped, 16 bits cut to their upper 8, everything else converted to RGB.
    With `image_size`, the shorter side is resized to it and the centre cropped, in one bilinear, antialiased step.
    In memory are, besides the result, the few images that threads are at.

    Args:
        items: the images.
        count: N.
        image_size: H and W; None where images have the same size.
        channels: C.

    Raises:
        DataError: they differ in size although there is no `image_size`, or one is coloured although C is 1.
    """
    canvas = _Canvas(count, channels)
    is_kept, problems = [], []
    for number, (item, seen) in enumerate(in_threads(partial(look_at, partial(_pixels, image_size)), items)):
        if seen.problem:
            problems.append((number, item.where, seen.problem))
        if seen.value is not None:
            canvas.add(item.where, seen.value)
        is_kept.append(seen.value is not None)
    return Decoded(canvas.images(), torch.tensor(is_kept, dtype=torch.bool), tuple(problems))


def in_threads(work: Callable[[_T], _R], things: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
    """Do something with each of many things, in threads: each with what came of it, in order, as it is asked for."""

    def work_off(block: list[_T]) -> list[_R]:
        return [work(thing) for thing in block]

    things = iter(things)
    waiting: deque[tuple[list[_T], Future[list[_R]]]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        while True:
            if block := list(islice(things, _BLOCK)):
                waiting.append((block, pool.submit(work_off, block)))
            if not waiting:
                return
            if not block or len(waiting) > _AHEAD:
                done, results = waiting.popleft()
                yield from zip(done, results.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def look_at(look: Callable[[Image.Image, str], _R], item: Item) -> Seen[_R]:
    """Open an image and bring it upright and into 8 bits, grey or RGB.

    Args:
        look: makes something of the image; is told the mode in which it was stored, too.
        item: the image.

    Raises:
        UserError: not the image is wrong, but the disk or the store refuses to read it.
    """
    with overheard() as warned:
        seen = _look_at(look, item)
    return replace(seen, problem=", ".join([*filter(None, [seen.problem]), *map(_first_line, warned)]))


def _look_at(look: Callable[[Image.Image, str], _R], item: Item) -> Seen[_R]:
    try:
        with item.open() as image:
            if getattr(image, "is_animated", False) and image.format not in _ONE_PICTURE:
                return Seen(None, f"{getattr(image, 'n_frames', 'several')} frames, where one image is needed")
            stored, remarks = image.mode, _remarks(image)
            return Seen(look(_plain(image, remarks), stored), ", ".join(remarks))
    except UnidentifiedImageError:
        return Seen(None, "not an image")
    except Image.DecompressionBombError as error:
        return Seen(None, f"decompression bomb: {error}")
    except Exception as error:  # on damaged bytes a decoder may raise nearly anything
        if isinstance(error, UserError) and not isinstance(error, DataError):
            raise
        return Seen(None, str(error) or type(error).__name__)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0].rstrip(". ")


def fitted(image: Image.Image, image_size: int | None) -> Image.Image:
    """The image resized by its shorter side and cropped to its centre; as it is for None."""
    if image_size is None:
        return image
    return ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)


def _pixels(image_size: int | None, image: Image.Image, stored: str) -> PixelArray:
    return np.asarray(fitted(image, image_size))


def _remarks(image: Image.Image) -> list[str]:
    """What decoding will change in the pixels of an image that is not read yet."""
    remarks = []
    if image.mode == "CMYK":
        remarks.append("CMYK converted to RGB")
    if image.mode.startswith("I;16") or (image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", ""))):
        remarks.append("16 bits cut to the upper 8")
    return remarks


def _plain(image: Image.Image, remarks: list[str]) -> Image.Image:
    """Upright, in mode L or RGB."""
    image.load()
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # so does the reader of EXIF
        remarks.append(f"EXIF cannot be read ({error}), orientation not applied")
    match image.mode:
        case "L" | "RGB":
            return image
        case "1" | "LA" | "La":
            return image.convert("L")
        case "I;16" | "I;16L" | "I;16B" | "I;16N":
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        case "I" | "F":
            raise ValueError("32-bit pixels, whose range is unknown; store 8 or 16 bits")
        case "P":
            return image.convert("RGBA").convert("RGB")
        case _:
            return image.convert("RGB")


class _Canvas:
    """The tensor, made when the first image tells its size, and anew when the first coloured one comes."""

    def __init__(self, count: int, channels: int | None) -> None:
        self._count, self._channels = count, channels
        self._images = np.empty((0, 0, 0, 0), np.uint8)
        self._filled = 0

    def add(self, where: str, pixels: PixelArray) -> None:
        """Put the next image into its place."""
        size, wanted = pixels.shape[:2], self._channels or (1 if pixels.ndim == 2 else 3)
        if self._filled == 0:
            self._images = self._room(wanted, size)
        if size != self._images.shape[2:]:
            raise DataError(
                f"{where} is {_in_words(size)}, images before it are {_in_words(self._images.shape[2:])}: "
                "set data.image_size to bring all images to one size"
            )
        if pixels.ndim == 3 and self._images.shape[1] == 1:
            if self._channels is not None:
                raise DataError(f"{where}: is coloured, where grey images are needed")
            grey, self._images = self._images, self._room(3, size)
            self._images[: self._filled] = grey[: self._filled]
        self._images[self._filled] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
        self._filled += 1

    def _room(self, channels: int, size: tuple[int, ...]) -> PixelArray:
        """Uninitialised memory for all images, where there is as much."""
        shape = (self._count, channels, *size)
        if (asked := math.prod(shape)) > (most := process.memory_bytes(torch.device("cpu"))):
            raise DataError(
                f"{self._count:,} images of {_in_words(size)} take {asked / 1e9:,.0f} GB of memory, and this machine "
                f"has {most / 1e9:,.0f} GB: set a lower data.image_size"
            )
        return np.empty(shape, np.uint8)

    def images(self) -> Tensor:
        """Those that were added; of unknown size where there are none."""
        return torch.from_numpy(self._images[: self._filled])


def _in_words(size: tuple[int, ...]) -> str:
    height, width = size
    return f"{width}x{height}"
