"""Which network to build; `raydd.networks` builds it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal

from raydd.core import plugins
from raydd.core.errors import ConfigError
from raydd.networks.traits import Architecture, Traits

Norm = Literal["instance", "batch", "layer", "group", "none"]
Activation = Literal["relu", "leaky_relu", "sigmoid"]
Pooling = Literal["avg", "max", "none"]
Growth = Literal["flat", "doubled"]
Init = Literal["torch", "lecun"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network to build."""

    name: str = "convnet"
    """convnet, resnet18, resnet50, vgg11, alexnet, lenet, mlp, wrn16_2, mobilenet_v2, efficientnet_b0,
    shufflenet_v2_x0_5, shufflenet_v2_x1_0, densenet121, or what another package adds."""
    width: int = 128
    """Channels of every block (convnet)."""
    depth: int | Literal["auto"] = 3
    """Number of blocks, each of which halves the image where it pools (convnet). auto is the literature's choice by the
    size of the images: 3 at 32 pixels, 4 at 64, 5 at 128, 6 at 224; 2 at the least."""
    norm: Norm = "instance"
    """Normalisation of what convolutions make (convnet, ResNets, vgg11, wrn16_2; batch alone: the other networks of
    torchvision). Only convnet has layer, over a whole map with a scale and a shift for each of its values, and group,
    over a fourth of the channels."""
    stem: Literal["auto", "small", "imagenet"] = "auto"
    """How an image is taken in (torchvision's networks). small: a 3x3 convolution, at full size; imagenet: as
    published, for a ResNet a 7x7 convolution and a pooling, which leave a quarter of each side; auto: by the image's
    size."""
    activation: Activation = "relu"
    """What follows the norm (convnet); the slope of leaky_relu is 0.01 below 0."""
    pooling: Pooling = "avg"
    """What ends a block (convnet); none leaves the image at its size."""
    growth: Growth = "flat"
    """Channels of later blocks (convnet). flat: as of the first; doubled: twice those of the block before (FRePo)."""
    init: Init = "torch"
    """Where parameters start (convnet). torch: as its layers have it; lecun: weights normal, cut off at two deviations,
    with a variance of 1 / fan-in, and biases 0, as Flax has it (FRePo)."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1, and what the network does not have, with a ConfigError."""
        traits = self.traits
        for field in ("width", "depth"):
            if (value := getattr(self, field)) != "auto" and value < 1:
                raise ConfigError(f"network.{field}", f"must be at least 1, not {value}")
        if self.stem != "auto" and "stem" not in traits.takes:
            raise ConfigError("network.stem", f"only torchvision's have a choice of stems, {self.name} takes auto")
        self._check_blocks(traits)
        if self.norm == "group" and self.width % GROUPS:
            raise ConfigError("network.width", f"must be a multiple of {GROUPS} for norm: group, not {self.width}")

    def _check_blocks(self, traits: Traits) -> None:
        """See that what only the blocks of a ConvNet can be made of is left as it is."""
        if self.norm not in (norms := traits.norms):
            taken = " or ".join(filter(None, (", ".join(norms[:-1]), norms[-1])))
            known = "" if self.norm in _WIDESPREAD else f"only convnet has {self.norm}, "
            raise ConfigError("network.norm", f"{known}{self.name} takes {taken}")
        for field, usual in _USUAL_BLOCK.items():
            if field not in traits.takes and getattr(self, field) != usual:
                raise ConfigError(f"network.{field}", f"only convnet has a choice, {self.name} takes {usual}")

    @property
    def label(self) -> str:
        """The name in tables and records, such as `convnet-d3-w128-instance`, `resnet18-batch` or `alexnet`."""
        unusual = [value for name, value in self._blocks.items() if value != _USUAL_BLOCK[name]]
        said: dict[str, list[str]] = {
            "depth": [f"d{self.depth}"],
            "width": [f"w{self.width}"],
            "norm": [self.norm],
            "stem": [] if self.stem == "auto" else [self.stem],
        }
        taken = [part for field, parts in said.items() if field in self.traits.takes for part in parts]
        return "-".join([self.name, *taken, *("unpooled" if value == "none" else value for value in unusual)])

    @property
    def traits(self) -> Traits:
        """Of the architecture."""
        own = TRAITS.get(self.name)
        return added_architecture(self.name) if own is None else own

    def sized(self, side: int) -> "NetworkConfig":
        """The same with the depth that `auto` means for images whose shorter side has so many pixels."""
        return replace(self, depth=max(2, round(math.log2(side)) - 2)) if self.depth == "auto" else self

    @property
    def num_blocks(self) -> int:
        """The depth, which is known by now."""
        assert self.depth != "auto"
        return self.depth

    @property
    def is_usual(self) -> bool:
        """Whether it is a ConvNet as the papers distil with: instance norm, ReLU, average pooling."""
        return self.name == "convnet" and self.norm == "instance" and self._blocks == _USUAL_BLOCK

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network keeps running statistics of what its layers see."""
        return self.norm == "batch" and "norm" in self.traits.takes

    def identity(self) -> dict[str, str | int]:
        """What determines the network, for content keys; what blocks are of only where it was chosen."""
        unsaid = {"stem": "auto", **_USUAL_BLOCK}
        return {name: value for name, value in asdict(self).items() if unsaid.get(name) != value}

    @property
    def _blocks(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _USUAL_BLOCK}


_USUAL_BLOCK: Final = {"activation": "relu", "pooling": "avg", "growth": "flat", "init": "torch"}
_WIDESPREAD: Final = ("instance", "batch", "none")
"""Norms that more than convnet has."""
GROUPS: Final = 4
"""Of channels, under norm: group."""


def _batch_normed(smallest_side: int, student_lr: float = 1e-3) -> Traits:
    """Of a network of torchvision's that is made with batch norms alone."""
    return Traits(takes=("norm", "stem"), norms=("batch",), smallest_side=smallest_side, student_lr=student_lr)


TRAITS: Final[Mapping[str, Traits]] = {
    "convnet": Traits(
        takes=("depth", "width", "norm", "activation", "pooling", "growth", "init"),
        norms=("instance", "batch", "layer", "group", "none"),
    ),
    "resnet18": Traits(takes=("norm", "stem"), smallest_side=9),
    "resnet50": Traits(takes=("norm", "stem"), smallest_side=9),
    "vgg11": Traits(takes=("norm",), smallest_side=32, student_lr=5e-4),
    "alexnet": Traits(smallest_side=8, student_lr=1e-4),
    "lenet": Traits(smallest_side=16),
    "mlp": Traits(),
    "wrn16_2": Traits(takes=("norm",), smallest_side=5),
    "mobilenet_v2": _batch_normed(17, student_lr=2.5e-3),
    "efficientnet_b0": _batch_normed(17, student_lr=2e-3),
    "shufflenet_v2_x0_5": _batch_normed(9),
    "shufflenet_v2_x1_0": _batch_normed(9),
    "densenet121": _batch_normed(16),
}
"""Of raydd's own networks. The step sizes are RDED's and DELT's [code]; those that they do not train have that
of most. A ResNet leaves two pixels, as an instance norm makes a constant of one; how far a ConvNet pools is a
matter of its depth."""


def added_networks() -> Mapping[str, plugins.Plugin]:
    """Those of other packages: each an `Architecture`."""
    return plugins.added(plugins.NETWORKS, Architecture, frozenset(TRAITS))


def added_architecture(name: str) -> Architecture:
    """That of another package; a ConfigError, which names what comes nearest, where there is no such network."""
    others = added_networks()
    if name in others:
        found: Architecture = others[name].added
        return found
    known = [*TRAITS, *others]
    near = get_close_matches(name, known, 1)
    guess = f"; did you mean {near[0]}?" if near else f"; {plugins.WHERE}"
    raise ConfigError("network.name", f"{name!r} is not one of {', '.join(known)}{guess}")
