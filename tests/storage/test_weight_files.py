"""Parameters in the checkpoints that training code leaves behind: the same tensors whatever lies around them."""

import argparse
import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd.core.errors import ArtefactError
from raydd.storage.weight_files import parameters

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
OPTIMIZER = torch.optim.SGD(NETWORK.parameters(), 0.1, momentum=0.9)
STATE = NETWORK.state_dict()
WRITTEN: dict[str, Callable[[], Any]] = {
    "the network's own": lambda: STATE,
    "torchvision's reference trainer": lambda: {
        "model": STATE,
        "optimizer": OPTIMIZER.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(OPTIMIZER, 30).state_dict(),
        "epoch": 89,
        "args": argparse.Namespace(data_path="/imagenet", model="resnet18", lr=0.1, distributed=True),
    },
    "SRe2L's squeezing": lambda: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": STATE,
        "best_acc1": torch.tensor(93.4),
    },
    "kuangliu's": lambda: {"net": STATE, "acc": 95.0, "epoch": 199},
    "PyTorch's tutorial": lambda: {
        "epoch": 3,
        "model_state_dict": STATE,
        "optimizer_state_dict": OPTIMIZER.state_dict(),
    },
    "a plain dictionary": lambda: dict(STATE),
    "another name beside empty ones": lambda: {"model": {}, "network": OrderedDict(STATE)},
}


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("whose", WRITTEN)
def test_the_network_of_a_checkpoint(whose: str) -> None:
    found = parameters(saved(WRITTEN[whose]()), "file.pth")
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([Tensor()], "is not a mapping of names to tensors"),
        ({}, "holds , and no mapping of names to tensors under model, state_dict"),
        ({"weights": STATE, "epoch": 3}, "holds weights, epoch, and no mapping of names"),
        ({"model": NETWORK}, "holds pickled objects beside tensors, which raydd does not run"),
    ],
)
def test_what_holds_none_is_refused(content: Any, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        parameters(saved(content), "file.pth")
