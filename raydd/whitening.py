"""Preprocessing: from pixels to the space that networks see, and back.

Three maps, each affine and invertible: none, per-channel standardisation, and ZCA whitening as the
trajectory-matching papers use it (MTT, https://arxiv.org/abs/2203.11932; DATM, https://arxiv.org/abs/2310.05773):
with mean m and covariance U diag(s) U^T of the flattened training images in [0, 1],

    z = (x - m) U (s + eps)^(-1/2) U^T,    x = z U (s + eps)^(1/2) U^T + m.

A map is fitted once, on training images alone, and stored with everything made in its space.

Letters: N or B images, C H W, D = C * H * W.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from raydd.datasets import DataConfig, ImageSet
from raydd.errors import ArtefactError, ConfigError, DataError

ZCA_EPSILON = 0.1
"""Added to the eigenvalues of the covariance."""

_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITERATURE = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
    "medmnist": ((0.5,), (0.5,)),
    "imagefolder": _IMAGENET,
    "parquet": _IMAGENET,
    "huggingface": _IMAGENET,
}
"""Mean and deviation per channel, or one of each for all channels, that the papers use for a `data.source` or for its
family, whether or not they are its true ones: the published code of MTT, DATM, IDC and SRe2L has CIFAR-10's for
CIFAR-100, too, where DC has (0.5071, 0.4866, 0.4409) and (0.2673, 0.2564, 0.2762)."""

_MAX_ZCA_VALUES = 16_384  # D; the covariance takes 8 D^2 bytes: 2 GB
_BLOCK_VALUES = 2**22  # values that are mapped at a time


class PixelBlocks(Protocol):
    """Training images to fit a map on, a few in memory at a time; they are gone through as often as it takes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """All N as uint8 [B, C, H, W] of any B, each time in the same order."""
        ...


class Preprocessing(Protocol):
    """An affine map of images, fitted and fixed."""

    name: ClassVar[str]
    """What `data.preprocess` calls it."""
    per_channel: ClassVar[bool]
    """Whether each value becomes another by itself, in the same way in all of its channel."""

    def on(self, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """`forward` for images of this dtype on this device, where its constants lie from now on; not in blocks."""
        ...

    def forward(self, images: Tensor) -> Tensor:
        """Pixels [B, C, H, W], uint8 or float in [0, 1], in network space: float32 (float64 for float64 pixels)."""
        return _blockwise(self.on(images.device, images.dtype), images)

    def inverse(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in network space as pixels in units of [0, 1], not clamped; float64 stays float64."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The large part of its state, for a safetensors file."""
        ...

    def describe(self) -> dict[str, Any]:
        """The small part of its state, as JSON, with its name under `name`."""
        ...

    @property
    def digest(self) -> str:
        """Sha256 over name and state, equal for equal maps wherever they were stored."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Identity(Preprocessing):
    """Pixels as they are, in [0, 1]."""

    name: ClassVar[str] = "none"
    per_channel: ClassVar[bool] = True

    def on(self, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """See `Preprocessing`."""
        return _located(_unchanged, device, dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(self.on(x.device, x.dtype), x)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}


@dataclass(frozen=True, eq=False)
class Standardise(Preprocessing):
    """Zero mean and unit deviation per channel: (x - mean) / std."""

    mean_C: Tensor
    """In units of [0, 1]."""
    std_C: Tensor
    """In units of [0, 1], above 0."""
    name: ClassVar[str] = "standardise"
    per_channel: ClassVar[bool] = True

    def on(self, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """See `Preprocessing`."""
        return _located(_standardised, device, dtype, *self._constants())

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(_located(_unstandardised, x.device, x.dtype, *self._constants()), x)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: a few numbers fit into the description."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The name, and `mean` and `std` as lists of C numbers."""
        return {"name": self.name, "mean": self.mean_C.tolist(), "std": self.std_C.tolist()}

    def _constants(self) -> tuple[Tensor, Tensor]:
        return self.mean_C[:, None, None], self.std_C[:, None, None]


@dataclass(frozen=True, eq=False)
class ZCA(Preprocessing):
    """Whitening of flattened images, by the equations at the head of this file."""

    mean_D: Tensor
    whiten_DD: Tensor
    """U (s + eps)^(-1/2) U^T."""
    colour_DD: Tensor
    """U (s + eps)^(1/2) U^T."""
    epsilon: float = ZCA_EPSILON
    name: ClassVar[str] = "zca"
    per_channel: ClassVar[bool] = False

    def on(self, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """See `Preprocessing`."""
        return _located(_whitened, device, dtype, self.mean_D, self.whiten_DD)

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(_located(_coloured, x.device, x.dtype, self.mean_D, self.colour_DD), x)

    def tensors(self) -> dict[str, Tensor]:
        """`mean` [D], `whiten` [D, D] and `colour` [D, D]."""
        return {"mean": self.mean_D, "whiten": self.whiten_DD, "colour": self.colour_DD}

    def describe(self) -> dict[str, Any]:
        """The name, and the `epsilon` of the fit."""
        return {"name": self.name, "epsilon": self.epsilon}


def fit(config: DataConfig, train: ImageSet | PixelBlocks) -> Preprocessing:
    """The map that the config names, fitted on the training images where it has anything to fit.

    Images that are read in blocks give the same bits as all of them in memory, whatever the blocks.

    Raises:
        ConfigError: literature constants for a source that has none, or ZCA on images too large for it.
        DataError: a channel is constant, or there is only one image to whiten by.
    """
    match config.preprocess:
        case "none":
            return Identity()
        case "standardise" if config.statistics == "literature":
            return literature_constants(config.source, channels=train.shape[0])
        case "standardise":
            return fit_standardise(_pixels(train))
        case "zca":
            return fit_zca(_pixels(train))


def restore(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
    """The map whose `describe()` and `tensors()` these are.

    Raises:
        ArtefactError: a part is missing, or the map is none that this version knows.
    """
    try:
        match description["name"]:
            case Identity.name:
                return Identity()
            case Standardise.name:
                mean_C, std_C = (torch.tensor(description[key], dtype=torch.float64) for key in ("mean", "std"))
                return Standardise(mean_C, std_C)
            case ZCA.name:
                return ZCA(tensors["mean"], tensors["whiten"], tensors["colour"], description["epsilon"])
            case unknown:
                raise ArtefactError(f"preprocessing {unknown!r} is not known; a newer raydd may have written it")
    except KeyError as missing:
        raise ArtefactError(f"the stored preprocessing lacks {missing}; restore the file or make it again") from missing


def literature_constants(source: str, channels: int) -> Standardise:
    """The papers' constants for a `data.source`; a ConfigError where there are none."""
    mean, std = LITERATURE.get(source.partition(":")[0], ((), ()))
    if len(mean) not in (1, channels):
        raise ConfigError(
            "data.statistics",
            f"the papers have constants for images of {', '.join(LITERATURE)}, in RGB where these are coloured, "
            f"not for {source!r} with {channels} channel(s); set it to computed",
        )
    mean_C, std_C = (torch.tensor(values, dtype=torch.float64).expand(channels).clone() for values in (mean, std))
    return Standardise(mean_C, std_C)


def fit_standardise(images: Tensor | PixelBlocks) -> Standardise:
    """Mean and deviation (over all pixels, divided by their number) of each channel of uint8 [N, C, H, W].

    Both follow in float64 from exact counts of the 256 values.
    """
    counts = reduce(torch.add, map(_counts, _blocks(images))).double()
    if ((counts > 0).sum(1) < 2).any():
        raise DataError("a colour channel has the same value in all training images; set data.preprocess to none")
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean_C = share @ values
    std_C = (share * (values - mean_C[:, None]).square()).sum(1).sqrt()
    return Standardise(mean_C, std_C)


def fit_zca(images: Tensor | PixelBlocks, epsilon: float = ZCA_EPSILON) -> ZCA:
    """Whitening by the covariance (divided by N - 1) of uint8 [N, C, H, W], added up in float64, kept as float32.

    Images are gone through twice, for the mean and for the covariance around it.
    """
    size_N, size_D = len(images), math.prod(images.shape[-3:])
    if size_D > _MAX_ZCA_VALUES:
        raise ConfigError(
            "data.preprocess",
            f"zca of {size_D} values per image takes a matrix of {8e-9 * size_D**2:.0f} GB; "
            "set it to standardise, or lower data.image_size",
        )
    if size_N < 2:
        raise DataError("zca needs at least 2 training images; set data.preprocess to standardise")
    mean_D = reduce(torch.add, (x_BD.sum(0) / size_N for x_BD in _flattened(images)))
    covariance_DD = mean_D.new_zeros(size_D, size_D)
    for x_BD in _flattened(images):
        centred_BD = x_BD - mean_D
        covariance_DD.addmm_(centred_BD.T, centred_BD, alpha=1 / (size_N - 1))
    eigenvalues_D, U_DD = torch.linalg.eigh(covariance_DD)
    scale_D = (eigenvalues_D.clamp(min=0) + epsilon).sqrt()  # rounding makes a zero slightly negative
    whiten_DD, colour_DD = (U_DD / scale_D) @ U_DD.T, (U_DD * scale_D) @ U_DD.T
    return ZCA(mean_D.float(), whiten_DD.float(), colour_DD.float(), epsilon)


def _pixels(train: ImageSet | PixelBlocks) -> Tensor | PixelBlocks:
    return train.images if isinstance(train, ImageSet) else train


def _counts(block_BCHW: Tensor) -> Tensor:
    """How often each of the 256 values is in each channel, int64 [C, 256]."""
    return torch.stack([channel.flatten().bincount(minlength=256) for channel in block_BCHW.unbind(1)])


def _flattened(images: Tensor | PixelBlocks) -> Iterator[Tensor]:
    """Consecutive images in units of [0, 1], float64 [B, D]."""
    return (block.flatten(1).double() / 255 for block in _blocks(images))


def _blocks(images: Tensor | PixelBlocks) -> Iterator[Tensor]:
    """Consecutive images, the same B of them at a time wherever they come from; fewer at the end."""
    size = _block_size(images.shape[-3:])
    return iter(images.split(size)) if isinstance(images, Tensor) else _regrouped(images.blocks(), size)


def _regrouped(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in blocks of one size; those at the end may be fewer."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) > size:
            *whole, rest = torch.cat(held).split(size)
            yield from whole
            held = [rest]
    if held:
        yield torch.cat(held)


def _blockwise(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a function from `_located` makes of images, a few at a time."""
    out = torch.empty(images.shape, dtype=_precision(images.dtype), device=images.device)
    size = _block_size(images.shape[1:])
    for start in range(0, len(images), size):
        out[start : start + size] = function(images[start : start + size])
    return out


def _block_size(shape: Sequence[int]) -> int:
    """How many images of C, H, W are mapped at a time."""
    return max(1, _BLOCK_VALUES // math.prod(shape))


def _located(
    equation: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, *constants: Tensor
) -> Callable[[Tensor], Tensor]:
    """`equation(x, *constants)` of images of this dtype on this device, which come in units of [0, 1] as new tensors.

    The largest pixel is a tensor there, too: a GPU would multiply by the reciprocal of a number.
    """
    largest = torch.tensor(255 if dtype == torch.uint8 else 1)
    own = tuple(constant.to(device, _precision(dtype)) for constant in (largest, *constants))
    return partial(_mapped, equation, own)


def _mapped(equation: Callable[..., Tensor], constants: tuple[Tensor, ...], images: Tensor) -> Tensor:
    largest, *others = constants
    return equation(images.to(largest.dtype) / largest, *others)


def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _unchanged(x: Tensor) -> Tensor:
    return x


def _standardised(x: Tensor, mean_C11: Tensor, std_C11: Tensor) -> Tensor:
    return x.sub_(mean_C11).div_(std_C11)


def _unstandardised(x: Tensor, mean_C11: Tensor, std_C11: Tensor) -> Tensor:
    return x.mul_(std_C11).add_(mean_C11)


def _whitened(x: Tensor, mean_D: Tensor, whiten_DD: Tensor) -> Tensor:
    return ((x.flatten(1) - mean_D) @ whiten_DD).view_as(x)


def _coloured(x: Tensor, mean_D: Tensor, colour_DD: Tensor) -> Tensor:
    return (x.flatten(1) @ colour_DD + mean_D).view_as(x)
