"""The networks of the dataset-distillation literature, in one table.

ConvNet is that of DC, MTT and DATM (Gidaris and Komodakis, CVPR 2018): blocks of convolution, norm, ReLU and average
pooling; what else can stand in their place is what DC searches 720 ConvNets for (Zhao et al., ICLR 2021, section 4.3).
The others are the small-image forms in which the same papers report transfer across architectures. All start from
torch's default initialisation, where a ConvNet has no other, drawn from the global generator (see
`raydd.core.keyed_random.seeded`).

Two habits of the literature: the first convolution pads greyscale 28x28 images to 32x32 (not in ResNets and the others
of `torchvision_bodies.py`, nor in WRN-16-2); and images of 64 pixels or more are halved once more (not in ConvNet), by
the first convolution or, in VGG-11, at the end. The decoupled family's ResNet-18 for small images does not halve those
of 64 pixels: `stem: small`.

Letters: B batch, K classes, C H W, F features.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from raydd.core import process
from raydd.core.errors import ArtefactError, ConfigError
from raydd.networks.config import NetworkConfig
from raydd.networks.norms import norm
from raydd.networks.stems import extra_stride
from raydd.networks.torchvision_bodies import TORCHVISION
from raydd.networks.traits import Architecture, Shape
from raydd.networks.wide_resnet import wide_resnet


class Network(nn.Module):
    """A body that turns images into features, and one linear layer."""

    def __init__(self, body: nn.Module, num_features: int, num_classes: int) -> None:
        """Put a linear layer of F = `num_features` inputs on top of `body`."""
        super().__init__()
        self.body = body
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """What the linear layer sees, [B, F]."""
        features: Tensor = self.body(images_BCHW)
        return features.flatten(1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.head(self.features(images_BCHW))
        return logits


def build(config: NetworkConfig, shape: Shape, num_classes: int) -> Network:
    """Build a network for images of a shape, with fresh parameters from torch's global generator.

    Args:
        config: which network.
        shape: C, H, W of the images.
        num_classes: K.

    Raises:
        ConfigError: the images are smaller than the network can pool.
    """
    _check_size(config, shape)
    network = Network(_body(config)(config, shape), num_features(config, shape), num_classes)
    if config.init == "lecun":
        network.apply(_lecun)
    return network


@cache
def num_features(config: NetworkConfig, shape: Shape) -> int:
    """F of the network's body, found once for all that are built; no draw of the caller's is used up.

    Raises:
        ConfigError: the images are smaller than the network can pool.
    """
    _check_size(config, shape)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return _num_features(_body(config)(config, shape), shape)


def _body(config: NetworkConfig) -> Callable[[NetworkConfig, Shape], nn.Module]:
    """What builds the body."""
    traits = config.traits
    return traits.body if isinstance(traits, Architecture) else BODIES[config.name]


def load_state(module: Network, state: Mapping[str, Tensor]) -> None:
    """Take over parameters and buffers under the module's own names; counts of batches may be missing.

    Raises:
        ArtefactError: names or shapes are not those of the module; says the first that differs.
    """
    here, there = module.state_dict(), state
    for name in sorted(here.keys() | there.keys()):
        wanted, found = (list(tensors[name].shape) if name in tensors else "absent" for tensors in (here, there))
        if wanted != found and not name.endswith("num_batches_tracked"):
            raise ArtefactError(
                f"the stored parameters are not this network's: {name} is {found} there and {wanted} in the network; "
                "name the network that they are of (and its stem, where it has a choice), and the data with their "
                "classes"
            )
    module.load_state_dict(state, strict=False)


def _convnet(config: NetworkConfig, shape: Shape) -> nn.Module:
    """Gidaris and Komodakis, CVPR 2018, as DC, MTT and DATM have it: as many blocks as it is deep."""
    return _blocks(config, shape, ((width, _POOLINGS[config.pooling]()) for width in _widths(config)))


def _widths(config: NetworkConfig) -> list[int]:
    """The channels of a ConvNet's blocks."""
    growth = 2 if config.growth == "doubled" else 1
    return [config.width * growth**number for number in range(config.num_blocks)]


@torch.no_grad()
def _lecun(layer: nn.Module) -> None:
    """LeCun, Bottou, Orr and Müller, 1998, section 4.6: weights of variance 1 / fan-in; cut off at two deviations."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        assert layer.bias is not None
        std = (layer.weight[0].numel() ** -0.5) / _CUT_DEVIATION
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(layer.bias)


def _vgg11(config: NetworkConfig, shape: Shape) -> nn.Module:
    """Simonyan and Zisserman, ICLR 2015, with one linear layer. At 64 pixels the last map keeps every other pixel."""
    plan = ((width, nn.MaxPool2d(2) if pooled else nn.Identity()) for width, pooled in _VGG11)
    return _blocks(config, shape, plan).append(nn.AvgPool2d(1, stride=extra_stride(shape)))


def _alexnet(config: NetworkConfig, shape: Shape) -> nn.Module:
    """Krizhevsky et al., NeurIPS 2012, as DC shrank it: five convolutions, no norm, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 128, 5, stride=extra_stride(shape), padding=2 + _extra_padding(shape)),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 192, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(192, 192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def _lenet(config: NetworkConfig, shape: Shape) -> nn.Module:
    """LeCun et al., 1998, with ReLU and max pooling."""
    convolutions = nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, stride=extra_stride(shape), padding=_extra_padding(shape)),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    num_features = _num_features(convolutions, shape)
    return nn.Sequential(convolutions, nn.Linear(num_features, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())


def _mlp(config: NetworkConfig, shape: Shape) -> nn.Module:
    """Two hidden layers of 128."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())


BODIES: Final[Mapping[str, Callable[[NetworkConfig, Shape], nn.Module]]] = {
    "convnet": _convnet,
    "vgg11": _vgg11,
    "alexnet": _alexnet,
    "lenet": _lenet,
    "mlp": _mlp,
    "wrn16_2": wide_resnet,
    **TORCHVISION,
}
"""What builds raydd's own bodies."""

_VGG11: Final = (
    (64, True), (128, True), (256, False), (256, True), (512, False), (512, True), (512, False), (512, True),
)  # fmt: skip
"""Width of each block, and whether it ends in a pooling."""


_ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}

_POOLINGS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "avg": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "none": nn.Identity,
}


_SMALLEST_IMAGENET_SIDE: Final = 33
_CUT_DEVIATION: Final = 0.87962566103423978
"""Standard deviation of a standard normal value that is known to lie within two of its own."""


def _blocks(config: NetworkConfig, shape: Shape, plan: Iterable[tuple[int, nn.Module]]) -> nn.Sequential:
    """3x3 convolution, norm, activation and a pooling, once for every (width, pooling) of the plan."""
    blocks = nn.Sequential()
    channels, padding = shape[0], 1 + _extra_padding(shape)
    height, width = (side + 2 * _extra_padding(shape) for side in shape[1:])
    for num_maps, pool in plan:
        parts = {
            "conv": nn.Conv2d(channels, num_maps, 3, padding=padding),
            "norm": norm(config, num_maps, (height, width)),
            config.activation: _ACTIVATIONS[config.activation](),
            "pool": pool,
        }
        blocks.append(nn.Sequential(OrderedDict(parts)))
        channels, padding = num_maps, 1
        height, width = (side if isinstance(pool, nn.Identity) else side // 2 for side in (height, width))
    return blocks


def _extra_padding(shape: Shape) -> int:
    """What makes greyscale 28x28 images 32x32, pixels on every side."""
    return 2 if shape == (1, 28, 28) else 0


def _num_features(body: nn.Module, shape: Shape) -> int:
    """F, found by showing one image to a copy: the meta device imports torch's compiler, which takes seconds."""
    tried = deepcopy(body).to_empty(device="cpu").eval()
    with torch.no_grad(), torch.device("cpu"):
        features: Tensor = tried(torch.zeros(1, *shape))
    return math.prod(features.shape[1:])


def _check_size(config: NetworkConfig, shape: Shape) -> None:
    side, size = min(shape[1:]) + 2 * _extra_padding(shape), f"{shape[1]}x{shape[2]}"
    if config.name == "convnet":
        if config.pooling != "none" and side < 2**config.num_blocks:
            most = side.bit_length() - 1
            problem = f"{config.num_blocks} blocks pool an image of {size} to nothing; take at most {most}"
            raise ConfigError("network.depth", problem)
        _check_weights(config, shape)
    elif config.stem == "imagenet" and side < _SMALLEST_IMAGENET_SIDE:
        problem = f"imagenet needs images of at least {_SMALLEST_IMAGENET_SIDE} pixels a side, not {size}; take small"
        raise ConfigError("network.stem", problem)
    elif side < (least := config.traits.smallest_side):
        problem = f"{config.name} needs images of at least {least}x{least}, not {size}; take convnet or mlp"
        raise ConfigError("network.name", problem)


def _check_weights(config: NetworkConfig, shape: Shape) -> None:
    """Refuse a ConvNet whose convolutions alone take more memory than there is, before any of it is asked for."""
    parameters = 9 * sum(before * after for before, after in pairwise([shape[0], *_widths(config)]))
    if 4 * parameters > (most := process.memory_bytes(torch.device("cpu"))):
        size = f"{4 * parameters / 1e9:,.0f} GB of weights"
        problem = f"{config.num_blocks} blocks from {config.width:,} channels on have {size}"
        raise ConfigError("network.width", f"{problem}, and this machine has {most / 1e9:,.0f} GB of memory")
