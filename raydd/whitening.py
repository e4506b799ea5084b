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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
    "imagefolder": _IMAGENET,
    "parquet": _IMAGENET,
}
"""Mean and deviation per channel that the papers use for a `data.source`, whether or not they are its true ones."""

_MAX_ZCA_VALUES = 16_384  # D; the covariance takes 8 D^2 bytes: 2 GB
_BLOCK_VALUES = 2**22  # values that are mapped at a time


class Preprocessing(Protocol):
    """An affine map of images, fitted and fixed."""

    name: ClassVar[str]
    """What `data.preprocess` calls it."""

    def forward(self, images: Tensor) -> Tensor:
        """Pixels [B, C, H, W], uint8 or float in [0, 1], in network space: float32 (float64 for float64 pixels)."""
        ...

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

    def forward(self, images: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(lambda x: x, images)

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(lambda x: x, x)

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

    def forward(self, images: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(lambda x, mean, std: (x - mean) / std, images, *self._per_channel())

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(lambda x, mean, std: x * std + mean, x, *self._per_channel())

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: a few numbers fit into the description."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The name, and `mean` and `std` as lists of C numbers."""
        return {"name": self.name, "mean": self.mean_C.tolist(), "std": self.std_C.tolist()}

    def _per_channel(self) -> tuple[Tensor, Tensor]:
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

    def forward(self, images: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(
            lambda x, mean, whiten: ((x.flatten(1) - mean) @ whiten).view_as(x), images, self.mean_D, self.whiten_DD
        )

    def inverse(self, x: Tensor) -> Tensor:
        """See `Preprocessing`."""
        return _blockwise(
            lambda x, mean, colour: (x.flatten(1) @ colour + mean).view_as(x), x, self.mean_D, self.colour_DD
        )

    def tensors(self) -> dict[str, Tensor]:
        """`mean` [D], `whiten` [D, D] and `colour` [D, D]."""
        return {"mean": self.mean_D, "whiten": self.whiten_DD, "colour": self.colour_DD}

    def describe(self) -> dict[str, Any]:
        """The name, and the `epsilon` of the fit."""
        return {"name": self.name, "epsilon": self.epsilon}


def fit(config: DataConfig, train: ImageSet) -> Preprocessing:
    """The map that the config names, fitted on the training images where it has anything to fit.

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
            return fit_standardise(train.images)
        case "zca":
            return fit_zca(train.images)


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
    if source not in LITERATURE or channels != 3:
        known = ", ".join(LITERATURE)
        raise ConfigError(
            "data.statistics",
            f"the papers have constants for RGB images of {known}, "
            f"not for {source!r} with {channels} channel(s); set it to computed",
        )
    mean, std = LITERATURE[source]
    return Standardise(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def fit_standardise(images: Tensor) -> Standardise:
    """Mean and deviation (over all pixels, divided by their number) of each channel of uint8 [N, C, H, W].

    Both follow in float64 from exact counts of the 256 values.
    """
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).double()
    if ((counts > 0).sum(1) < 2).any():
        raise DataError("a colour channel has the same value in all training images; set data.preprocess to none")
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean_C = share @ values
    std_C = (share * (values - mean_C[:, None]).square()).sum(1).sqrt()
    return Standardise(mean_C, std_C)


def fit_zca(images: Tensor, epsilon: float = ZCA_EPSILON) -> ZCA:
    """Whitening by the covariance (divided by N - 1) of uint8 [N, C, H, W], added up in float64, kept as float32."""
    size_N, size_D = len(images), images.shape[1:].numel()
    if size_D > _MAX_ZCA_VALUES:
        raise ConfigError(
            "data.preprocess",
            f"zca of {size_D} values per image takes a matrix of {8e-9 * size_D**2:.0f} GB; "
            "set it to standardise, or lower data.image_size",
        )
    if size_N < 2:
        raise DataError("zca needs at least 2 training images; set data.preprocess to standardise")
    mean_D = torch.zeros(size_D, dtype=torch.float64, device=images.device)
    covariance_DD = torch.zeros(size_D, size_D, dtype=torch.float64, device=images.device)
    for _, block in _blocks(images, torch.float64):
        mean_D += block.flatten(1).sum(0) / size_N
    for _, block in _blocks(images, torch.float64):
        centred_BD = block.flatten(1) - mean_D
        covariance_DD.addmm_(centred_BD.T, centred_BD, alpha=1 / (size_N - 1))
    eigenvalues_D, U_DD = torch.linalg.eigh(covariance_DD)
    scale_D = (eigenvalues_D.clamp(min=0) + epsilon).sqrt()  # rounding makes a zero slightly negative
    whiten_DD, colour_DD = (U_DD / scale_D) @ U_DD.T, (U_DD * scale_D) @ U_DD.T
    return ZCA(mean_D.float(), whiten_DD.float(), colour_DD.float(), epsilon)


def _blockwise(function: Callable[..., Tensor], images: Tensor, *constants: Tensor) -> Tensor:
    """`function(block, *constants)` block by block, in float32 (float64 for float64), on the device of the images."""
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    constants = tuple(constant.to(images.device, dtype) for constant in constants)
    out = torch.empty(images.shape, dtype=dtype, device=images.device)
    for rows, block in _blocks(images, dtype):
        out[rows] = function(block, *constants)
    return out


def _blocks(images: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive rows of the images, as pixels in units of [0, 1]."""
    size = max(1, _BLOCK_VALUES // images.shape[1:].numel())
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        yield rows, images[rows].to(dtype) / (255 if images.dtype == torch.uint8 else 1)
