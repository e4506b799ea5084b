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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from raydd.core.errors import ArtefactError

ZCA_EPSILON = 0.1
"""Added to the eigenvalues of the covariance."""
_BLOCK_VALUES = 2**22  # values that are mapped at a time


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


def _blockwise(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a function from `_located` makes of images, a few at a time."""
    out = torch.empty(images.shape, dtype=_precision(images.dtype), device=images.device)
    size = block_size(images.shape[1:])
    for start in range(0, len(images), size):
        out[start : start + size] = function(images[start : start + size])
    return out


def block_size(shape: Sequence[int]) -> int:
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
