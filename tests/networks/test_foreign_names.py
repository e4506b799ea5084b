"""Parameters under other code's names: each network of theirs is built by hand, and answers as ours does."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from raydd.networks import build, load_state, named_as_here
from raydd.networks.config import NetworkConfig
from tests.networks.test_architectures import keyed

DEPTH, WIDTH, CLASSES = 3, 6, 5


class Listed(nn.Module):
    """A ConvNet whose layers are in lists by their kind, as RDED's and DELT's code has them."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[WIDTH] * DEPTH]
        self.layers = nn.ModuleDict(
            {
                "conv": nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)),
                "norm": nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(DEPTH)),
            }
        )
        self.classifier = nn.Linear(WIDTH * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = nn.functional.avg_pool2d(norm(conv(x)).relu(), 2)
        return self.classifier(x.flatten(1))


class Numbered(nn.Module):
    """A ConvNet in one sequence, as DC's code has it, with or without norms."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(DEPTH):
            layers.append(nn.Conv2d(WIDTH if block else 3, WIDTH, 3, padding=1))
            if norm == "instance":
                layers.append(nn.GroupNorm(WIDTH, WIDTH, affine=True))
            elif norm == "batch":
                layers.append(nn.BatchNorm2d(WIDTH, affine=True))
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Shortened(nn.Module):
    """A block of pytorch-cifar: two convolutions, and a shortcut of its own name where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.shortcut(x)).relu()


class OfCIFAR(nn.Module):
    """The ResNet-18 of pytorch-cifar."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        for number, (before, width) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            first = Shortened(before, width, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, Shortened(width, width, 1)))
        self.linear = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.linear(x.mean((2, 3)))


def images() -> Tensor:
    return torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def with_statistics(module: nn.Module) -> nn.Module:
    """Whose affine parts and running statistics are all different, in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module(images())
    return module.eval()


@pytest.mark.parametrize("wrapped", [(), ("module.",), ("_orig_mod.",), ("_orig_mod.", "module.")])
@pytest.mark.parametrize("theirs", ["listed", "batch", "instance", "none"])
def test_convnets_of_other_code_answer_as_ours(theirs: str, wrapped: tuple[str, ...]) -> None:
    torch.manual_seed(3)
    module = with_statistics(Listed() if theirs == "listed" else Numbered(theirs))
    norm = "batch" if theirs == "listed" else theirs
    network = NetworkConfig(width=WIDTH, depth=DEPTH, norm=norm)  # type: ignore[arg-type]
    ours = build(network, (3, 32, 32), CLASSES).eval()
    state = {"".join(wrapped) + name: tensor for name, tensor in module.state_dict().items()}
    load_state(ours, named_as_here(state))
    torch.testing.assert_close(ours(images()), module(images()), rtol=0, atol=1e-6)


def of_torchvision(head: str) -> nn.Module:
    """Its ResNet-18 for small images, as SRe2L's code changes it; some put the last layer into a sequence."""
    module = torchvision.models.resnet18(num_classes=CLASSES)
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()  # type: ignore[assignment]
    if head == "sequence":
        module.fc = nn.Sequential(nn.Dropout(0.5), module.fc)  # type: ignore[assignment]
    return module


RESNETS = {
    "pytorch-cifar": OfCIFAR,
    "torchvision": lambda: of_torchvision("alone"),
    "a sequence": lambda: of_torchvision("sequence"),
}


@pytest.mark.parametrize("wrapped", ["", "module.", "model.", "net.", "_orig_mod.module.", "backbone."])
@pytest.mark.parametrize("theirs", RESNETS)
def test_resnets_of_other_code_answer_as_ours(theirs: str, wrapped: str) -> None:
    torch.manual_seed(3)
    module = with_statistics(RESNETS[theirs]())
    ours = build(NetworkConfig(name="resnet18", norm="batch", stem="small"), (3, 32, 32), CLASSES).eval()
    counted = {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)}
    state = {wrapped + name: tensor for name, tensor in {**module.state_dict(), **counted}.items()}
    load_state(ours, named_as_here(state))
    torch.testing.assert_close(ours(images()), module(images()), rtol=1e-4, atol=1e-4)


def test_our_own_names_stay() -> None:
    for network in (NetworkConfig(width=5), NetworkConfig(name="resnet18", norm="batch"), NetworkConfig(name="vgg11")):
        state = keyed(network, (3, 32, 32)).state_dict()
        assert list(named_as_here(state)) == list(state)


def test_what_nobody_knows_stays_and_is_named_where_it_does_not_fit() -> None:
    odd = {"blocks.0.weight": torch.zeros(2), "module.head.weight": torch.zeros(2, 2)}
    assert named_as_here(odd).keys() == odd.keys()
    assert named_as_here({}) == {}
