"""Parameters of the same networks under the names that other code gives them."""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

_WRAPPERS: Final = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
"""What DataParallel, torch.compile, and classes around a network such as Lightning's, put in front of every name."""
_COUNTED: Final = ("total_ops", "total_params")
"""What thop leaves in a network: no parameters."""
_HEAD: Final = re.compile(r"(?:fc|linear|classifier|head)\.(?:\d+\.|fc\.)?(?P<rest>weight|bias)")
"""The last layer of torchvision's networks, alone or in a sequence."""
_OF_TORCHVISION: Final = (
    "layer1.0.conv1.weight",  # ResNets
    "features.0.0.weight",  # MobileNetV2, EfficientNet
    "stage2.0.branch1.0.weight",  # ShuffleNetV2
    "features.conv0.weight",  # DenseNet
)
"""Each is in the files of one or two of them."""
_DOTTED: Final = re.compile(r"(?<=denselayer)(?P<head>\d+\.)(?P<layer>norm|conv)\.(?P<number>[12])(?=\.)")
"""How DenseNet's published files name its layers."""
_LISTED: Final = re.compile(r"layers\.(?P<kind>conv|norm)\.(?P<block>\d+)\.(?P<rest>.+)")
"""The ConvNet of RDED's and DELT's code."""
_NUMBERED: Final = re.compile(r"features\.(?P<place>\d+)\.(?P<rest>.+)")
"""That of DC's code, which MTT and DATM took over."""


def named_as_here(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's parameters and buffers under raydd's names; those that are under no name that is known stay.

    Known are torchvision's networks that raydd has (`layer1.0.conv1.weight`, `fc.bias`), the ResNet-18 of pytorch-cifar
    (`layer2.0.shortcut.0.weight`, `linear.bias`), the ConvNets of RDED and DELT (`layers.conv.0.weight`,
    `classifier.bias`) and of DC (`features.0.weight`), each behind what may be put in front of all names.
    """
    plain = _unwrapped({name: tensor for name, tensor in state.items() if not name.endswith(_COUNTED)})
    if any(name in plain for name in _OF_TORCHVISION):
        return {_of_torchvision(name): tensor for name, tensor in plain.items()}
    blocks = _blocks(plain)
    return {_renamed(name, blocks): tensor for name, tensor in plain.items()}


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = dict(state)
    while wrapper := next((each for each in _WRAPPERS if plain and all(name.startswith(each) for name in plain)), None):
        plain = {name.removeprefix(wrapper): tensor for name, tensor in plain.items()}
    return plain


def _of_torchvision(name: str) -> str:
    if found := _HEAD.fullmatch(name):
        return f"head.{found['rest']}"
    plain = _DOTTED.sub(r"\g<head>\g<layer>\g<number>", name.replace(".shortcut.", ".downsample."))
    return f"body.{plain}"


def _blocks(state: Mapping[str, Tensor]) -> dict[int, str]:
    """Where each layer of DC's one sequence belongs: every convolution begins a block."""
    places = {int(found["place"]): name for name in state if (found := _NUMBERED.fullmatch(name))}
    convolutions = sorted(place for place in places if state.get(f"features.{place}.weight", _NONE).ndim == 4)
    return {
        place: f"body.{sum(begin <= place for begin in convolutions) - 1}."
        + ("conv" if place in convolutions else "norm")
        for place in places
    }


_NONE: Final = Tensor()


def _renamed(name: str, blocks: Mapping[int, str]) -> str:
    if found := _LISTED.fullmatch(name):
        return f"body.{found['block']}.{found['kind']}.{found['rest']}"
    if found := _NUMBERED.fullmatch(name):
        return f"{blocks[int(found['place'])]}.{found['rest']}"
    return f"head.{name.removeprefix('classifier.')}" if name.startswith("classifier.") else name
