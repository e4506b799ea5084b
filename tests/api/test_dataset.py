"""What a set says of itself, and what it asks of networks and images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import raydd
from raydd import config as configs
from raydd import data as datasets
from raydd.core.errors import ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.training.recipe import Recipe
from tests.api.test_api import Counting, pictures, real_digits
from tests.api.test_loader import network_of
from tests.support.small import SmallRun, finished_run


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def small_set(**fields: Any) -> raydd.DistilledDataset:
    return raydd.DistilledDataset(real_digits(Recipe(**{"epochs": 3, "lr": 0.05, "batch_size": 8, **fields}), 1))


def test_train_says_what_it_measured() -> None:
    dataset, progress, network = small_set(), Counting(), network_of(0)
    found = dataset.train(network, data=DataConfig(), progress=progress)
    assert len(found.curve) == progress.updates == 3
    assert (found.loss, found.train_accuracy) == (found.curve[-1].loss, found.curve[-1].accuracy)
    assert found.test_accuracy == dataset.accuracy(network, DataConfig())
    assert repr(found).startswith(f"TrainingOutcome(3 epochs, loss {found.loss:.3f}, training accuracy ")
    assert repr(found).endswith(f"test accuracy {100 * found.test_accuracy:.1f} %)")
    untested = dataset.train(network_of(0))
    assert untested.curve == found.curve and untested.test_accuracy is None and "test" not in repr(untested)


def test_accuracy_on_every_kind_of_data(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    network = network_of(3)
    dataset.train(network)
    config = configs.load(str(digits.file))
    test = datasets.load(config.data, Key.root(0)).test
    guessed = network(dataset.transform(test.images)).argmax(1)
    wanted = float((guessed == test.labels).double().mean())
    run = raydd.DistilledRun(Folder.at(digits.out))
    arrays = test.images[:, 0].numpy(), test.labels.numpy()
    everything: list[Any] = [config.data, config, digits.file, str(digits.out), digits.out, Folder.at(digits.out), run]
    for data in [*everything, arrays, (test.images, test.labels.tolist())]:
        assert dataset.accuracy(network, data) == wanted
    assert not network.training
    network.train()
    assert dataset.accuracy(network, arrays) == wanted and network.training


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((2, 8, 8), np.uint8),), "are a pair, not 1 values"),
        ((np.zeros((2, 8, 8), np.uint8), [1]), r"images \(2, 1, 8, 8\) and classes \(1,\)"),
        ((np.zeros((2, 8, 8), np.uint8), [0.0, 1.0]), "as many whole numbers"),
        ((np.zeros((8, 8), np.uint8), [1]), r"images \(1, 8, 8\) and classes"),
        ((np.zeros((2, 8, 8), np.uint8), [1, 10]), "classes are from 0 to 9, these from 1 to 10"),
        ((np.zeros((0, 8, 8), np.uint8), np.zeros(0, int)), "there are no images to test on"),
        ("nowhere", "^data: .*nowhere is no run; give raydd.DataConfig"),
        (3, "^data: is a int; give raydd.DataConfig"),
    ],
)
def test_accuracy_on_what_is_no_data(data: Any, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        small_set().accuracy(network_of(0), data)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 4, 3), "^network: does not take the set's images, 1 x 8 x 8 .*3 channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"with \(2, 7\), .* the set has 10 classes, so let its last"),
        (nn.Flatten(), r"answers two images with \(2, 64\)"),
        (nn.LSTM(8, 8), "does not take the set's images"),
        (nn.Identity(), r"\(2, 1, 8, 8\)"),
    ],
)
def test_networks_that_do_not_fit(network: nn.Module, message: str) -> None:
    dataset = small_set()
    for refused in (lambda: dataset.train(network), lambda: dataset.accuracy(network, DataConfig())):
        network.train()
        with pytest.raises(ConfigError, match=message):
            refused()
        assert network.training


def test_looking_at_a_network_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10))
    network[1].eval()
    before = [tensor.clone() for tensor in network.state_dict().values()]
    with pytest.raises(DataError):
        small_set().train(network, data=((), ()))
    assert network.training and network[2].training and not network[1].training
    assert all(torch.equal(old, new) for old, new in zip(before, network.state_dict().values(), strict=True))


def test_evaluate_refuses_what_it_cannot_train(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    with pytest.raises(ConfigError, match="^network.*8"):
        raydd.evaluate(dataset, DataConfig(), network=NetworkConfig(depth=5))
    with pytest.raises(ConfigError, match=r"^network: .* give a raydd.NetworkConfig; dataset.train"):
        raydd.evaluate(dataset, DataConfig(), network=nn.Flatten())  # type: ignore[arg-type]
    unlearned = raydd.DistilledDataset(real_digits(Recipe(lr=0.1), 1))
    unlearned.learned_lr = None
    with pytest.raises(ConfigError, match=r"^recipe.lr: neither"):
        raydd.evaluate(unlearned, DataConfig(), recipe=Recipe(lr=None))
    (record,) = raydd.evaluate(dataset, digits.out, network=NetworkConfig(width=8, depth=2), num_students=1)
    assert record.status == "ok"


def test_arrays_of_every_layout() -> None:
    grey, colour = small_set(), raydd.load(pictures().out)
    draw = np.random.default_rng(0)
    one = draw.integers(0, 256, (8, 8), dtype=np.uint8)
    wanted = grey.preprocessing.forward(torch.from_numpy(one)[None, None])
    for array in (one, one[:, :, None], one[None, :, :, None][0], one[None, None][0, 0]):
        assert torch.equal(grey.transform(array), wanted[0])
    for array in (one[None], one[None, None], one[None, :, :, None]):
        assert torch.equal(grey.transform(array), wanted)
    torch.testing.assert_close(grey.transform(one / 255), wanted[0], rtol=1e-5, atol=1e-5)
    assert grey.transform(np.float32(one / 255)).dtype == grey.transform(one / 255).dtype == torch.float32
    several = draw.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    wanted = colour.preprocessing.forward(torch.from_numpy(several).permute(0, 3, 1, 2))
    torch.testing.assert_close(colour.transform(several), wanted)
    torch.testing.assert_close(colour.transform(several.transpose(0, 3, 1, 2)), wanted)
    torch.testing.assert_close(colour.transform(several[0]), wanted[0])
    large = draw.integers(0, 256, (40, 32, 3), dtype=np.uint8)
    assert torch.equal(colour.transform(large), colour.transform(Image.fromarray(large)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 9, 9), np.uint8), r"the array is of \(5, 9, 9\), but images of the set are of \(8, 8, 1\) or"),
        (np.zeros((9, 9)), r"\(9, 9\).* or \(8, 8\), several"),
        (np.zeros((8, 8), np.int64), "pixels are of torch.int64; give uint8, or floating point from 0 to 1"),
        (16 * np.ones((8, 8)), "are from 0 to 1, these from 16 to 16; divide them"),
        (-np.ones((8, 8)), "these from -1 to -1"),
        (torch.full((1, 8, 8), float("nan")), "these from nan to nan"),
        ([[1]], "the image is a list; give a PIL image, a tensor or a numpy array"),
    ],
)
def test_images_that_cannot_be_brought_into_the_space_of_the_set(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_set().transform(image)


def test_a_set_in_a_line(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    said = "DistilledDataset(small: 10 images, 1x8x8, 10 classes, soft labels, 5 epochs to train)"
    assert repr(dataset) == said
    assert {"train", "loader", "recipe", "decoded"} <= set(dir(dataset))
    assert not [name for name in dir(dataset) if name.startswith("_")]
    assert set(raydd.__all__) == set(dir(raydd)) and all(hasattr(raydd, name) for name in dir(raydd))
