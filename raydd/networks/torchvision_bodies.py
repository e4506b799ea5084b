"""Networks of torchvision, without their last linear layer: its own modules, so that its files of weights fit.

ResNet (He et al., CVPR 2016), MobileNetV2 (Sandler et al., CVPR 2018), EfficientNet-B0 (Tan and Le, ICML 2019),
ShuffleNetV2 (Ma et al., ECCV 2018), DenseNet-121 (Huang et al., CVPR 2017). Small images, below 128 pixels, are taken
in by one 3x3 convolution without pooling (`stems.py`). Parameters have torch's default initialisation. Nothing is
dropped while training, neither features nor residual branches: such draws would not be keyed.

Letters: C H W.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch import nn

from raydd.networks.config import NetworkConfig
from raydd.networks.norms import norm
from raydd.networks.stems import first_convolution, has_large_stem
from raydd.networks.traits import Shape


def _resnet(name: str, config: NetworkConfig, shape: Shape) -> nn.Module:
    net = _made(name, norm_layer=partial(norm, config))
    net.conv1 = first_convolution(config, shape, net.conv1)
    if not has_large_stem(config, shape):
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return _reset(net)


def _mobile(name: str, config: NetworkConfig, shape: Shape, **undropped: float) -> nn.Module:
    """MobileNetV2 and EfficientNet, whose published first convolution is 3x3 with stride 2."""
    net = _made(name, **undropped)
    net.features[0][0] = first_convolution(config, shape, net.features[0][0])
    net.classifier = nn.Identity()
    return _reset(net)


def _shufflenet(name: str, config: NetworkConfig, shape: Shape) -> nn.Module:
    net = _made(name)
    net.conv1[0] = first_convolution(config, shape, net.conv1[0])
    if not has_large_stem(config, shape):
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return _reset(net)


def _densenet(config: NetworkConfig, shape: Shape) -> nn.Module:
    net = _made("densenet121")
    net.features.conv0 = first_convolution(config, shape, net.features.conv0)
    if not has_large_stem(config, shape):
        net.features.pool0 = nn.Identity()
    net.classifier = nn.Identity()
    return _reset(net)


def _made(name: str, **arguments: Any) -> Any:
    """A network of torchvision, whose parts go by names that only it knows."""
    from torchvision import models  # here, because importing torchvision takes seconds

    return getattr(models, name)(weights=None, **arguments)


def _reset(net: nn.Module) -> nn.Module:
    """The network with convolutions as torch initialises them."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return net


TORCHVISION: Final[Mapping[str, Callable[[NetworkConfig, Shape], nn.Module]]] = {
    "resnet18": partial(_resnet, "resnet18"),
    "resnet50": partial(_resnet, "resnet50"),
    "mobilenet_v2": partial(_mobile, "mobilenet_v2", dropout=0.0),
    "efficientnet_b0": partial(_mobile, "efficientnet_b0", dropout=0.0, stochastic_depth_prob=0.0),
    "shufflenet_v2_x0_5": partial(_shufflenet, "shufflenet_v2_x0_5"),
    "shufflenet_v2_x1_0": partial(_shufflenet, "shufflenet_v2_x1_0"),
    "densenet121": _densenet,
}
"""What builds their bodies, under torchvision's own names."""
