"""torchvision's networks and WRN-16-2: they answer as torchvision's own, or as their equations say."""

import re

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.networks import Network, build, load_state, named_as_here
from raydd.networks.config import NetworkConfig
from raydd.training.stacked import Pack
from tests.networks.test_architectures import batch, keyed, num_parameters

THEIRS = ["resnet50", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "densenet121"]
FIRST = {
    "resnet50": "conv1",
    "mobilenet_v2": "features.0.0",
    "efficientnet_b0": "features.0.0",
    "shufflenet_v2_x0_5": "conv1.0",
    "shufflenet_v2_x1_0": "conv1.0",
    "densenet121": "features.conv0",
}
POOLING = {"resnet50": "maxpool", "shufflenet_v2_x0_5": "maxpool", "shufflenet_v2_x1_0": "maxpool"}
POOLING |= {"densenet121": "features.pool0"}
SMALLEST = {"resnet50": 9, "mobilenet_v2": 17, "efficientnet_b0": 17, "densenet121": 16, "wrn16_2": 5}
SMALLEST |= {"shufflenet_v2_x0_5": 9, "shufflenet_v2_x1_0": 9}


def config(name: str, stem: str = "auto") -> NetworkConfig:
    return NetworkConfig(name=name, norm="batch", stem=stem)  # type: ignore[arg-type]


def torchvisions(name: str, stem: str) -> nn.Module:
    """Of 10 classes, with affine parts and statistics in which a swap of two layers would show."""
    torch.manual_seed(3)
    net: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    if stem == "small":
        width = net.get_submodule(FIRST[name]).out_channels
        net.set_submodule(FIRST[name], nn.Conv2d(3, width, 3, 1, 1, bias=False))
        if name in POOLING:
            net.set_submodule(POOLING[name], nn.Identity())
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.add_(0.1 * torch.randn_like(layer.weight))
                layer.running_mean.add_(0.1 * torch.randn_like(layer.running_mean))
                layer.running_var.mul_(1 + torch.rand_like(layer.running_var))
    return net.eval()


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("name", THEIRS)
def test_they_take_over_torchvisions_parameters_and_answer_alike(name: str, stem: str) -> None:
    theirs = torchvisions(name, stem)
    ours = build(config(name, stem), (3, 40, 40), 10).eval()
    load_state(ours, named_as_here(theirs.state_dict()))
    images = batch(2, 3, 40, 40).float()
    torch.testing.assert_close(ours(images), theirs(images))
    assert list(named_as_here(ours.state_dict())) == list(ours.state_dict())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("efficientnet_b0", 5_288_548),
        ("shufflenet_v2_x0_5", 1_366_792),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("densenet121", 7_978_856),
    ],
)
def test_they_have_the_published_sizes_at_224_pixels(name: str, published: int) -> None:
    net = build(config(name), (3, 224, 224), 1000)
    assert num_parameters(net) == published
    assert num_parameters(net.head) == 1000 * (net.head.in_features + 1)


def test_a_densenet_is_found_under_the_names_of_the_published_files() -> None:
    theirs = torchvisions("densenet121", "imagenet").state_dict()
    dotted = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): t for name, t in theirs.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in dotted
    assert named_as_here(dotted).keys() == named_as_here(theirs).keys()


@pytest.mark.parametrize("name", [*THEIRS, "wrn16_2"])
def test_parameters_are_keyed_and_nothing_is_dropped(name: str) -> None:
    net, images = keyed(config(name), (1, 28, 28)), batch(3, 1, 28, 28).float()
    again = keyed(config(name), (1, 28, 28))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    drawn = torch.random.get_rng_state()
    assert torch.equal(net.train()(images), again.train()(images))
    assert torch.equal(drawn, torch.random.get_rng_state())


@pytest.mark.parametrize(("name", "least"), SMALLEST.items())
def test_the_smallest_images_still_matter_and_smaller_ones_are_refused(name: str, least: int) -> None:
    logits = keyed(config(name), (1, least, least)).double()(batch(3, 1, least, least))
    assert (logits[0] - logits[1]).abs().max() > 1e-6
    with pytest.raises(ConfigError, match=f"{name} needs images of at least {least}x{least}"):
        build(config(name), (1, least - 1, least), 10)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "wrn16_2"])
def test_they_have_second_derivatives(name: str) -> None:
    net, images = keyed(config(name), (3, 20, 20)).double(), batch(3, 3, 20, 20).requires_grad_()
    gradient = torch.autograd.grad(net(images).logsumexp(1).sum(), list(net.parameters()), create_graph=True)
    (pixels,) = torch.autograd.grad(sum(g.square().sum() for g in gradient), images)
    assert pixels.isfinite().all() and pixels.abs().max() > 0


@pytest.mark.parametrize("name", [*THEIRS, "wrn16_2"])
def test_they_answer_side_by_side_as_alone(name: str) -> None:
    nets = [keyed(config(name), (3, 20, 20), key=Key.root(seed)).double().eval() for seed in range(2)]
    images = batch(4, 3, 20, 20).view(2, 2, 3, 20, 20)
    alone = torch.stack([net(own) for net, own in zip(nets, images, strict=True)])
    torch.testing.assert_close(Pack(nets).eval()(images), alone)


@pytest.mark.parametrize("name", THEIRS[1:])
def test_torchvisions_have_batch_norms_alone(name: str) -> None:
    assert config(name).has_batch_norm and config(name).label == f"{name}-batch"
    with pytest.raises(ConfigError, match=rf"^network\.norm: {name} takes batch$"):
        NetworkConfig(name=name)


def _wide(net: Network, x: Tensor) -> Tensor:
    """WRN-16-2 in evaluation mode by its equations, from parameters by name."""
    state = net.state_dict()

    def active(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"body.{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    x = F.conv2d(x, state["body.0.weight"], padding=1)
    for block, stride in enumerate((1, 1, 2, 1, 2, 1)):
        name = f"1.{block}"
        a = active(x, f"{name}.norm1")
        inner = F.conv2d(a, state[f"body.{name}.conv1.weight"], stride=stride, padding=1)
        inner = F.conv2d(active(inner, f"{name}.norm2"), state[f"body.{name}.conv2.weight"], padding=1)
        x = inner + (x if block % 2 else F.conv2d(a, state[f"body.{name}.shortcut.weight"], stride=stride))
    return active(x, "2").mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


def test_wrn_16_2_equals_its_equations() -> None:
    net = keyed(config("wrn16_2"), (3, 32, 32)).double()
    for parameter in net.parameters():
        parameter.data += 0.05 * batch(*parameter.shape)
    net(batch(4, 3, 32, 32))
    net.eval()
    images = batch(2, 3, 32, 32)
    torch.testing.assert_close(net(images), _wide(net, images))
    assert num_parameters(net) == 691_674
    assert sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in net.modules()) == 13
