"""Parameters under other code's names: each network of theirs is built by hand, and answers as ours does."""

import pytest
import torch
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


def test_our_own_names_stay() -> None:
    for network in (NetworkConfig(width=5), NetworkConfig(name="resnet18", norm="batch"), NetworkConfig(name="vgg11")):
        state = keyed(network, (3, 32, 32)).state_dict()
        assert list(named_as_here(state)) == list(state)


def test_what_nobody_knows_stays_and_is_named_where_it_does_not_fit() -> None:
    odd = {"blocks.0.weight": torch.zeros(2), "module.head.weight": torch.zeros(2, 2)}
    assert named_as_here(odd).keys() == odd.keys()
    assert named_as_here({}) == {}
