"""Epochs for training loops of one's own: the batches of `train`, and what comes of them."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raydd
from raydd import data as datasets
from raydd import networks
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, seeded
from raydd.data import DataConfig
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.api.test_api import SMALL, real_digits
from tests.support import ROOT
from tests.support.small import raydd as command

RECIPES = {
    "augmented": Recipe(epochs=4, lr=0.05, momentum=0.9, weight_decay=5e-4, batch_size=16),
    "cutmix": Recipe(epochs=4, lr=0.05, batch_size=16, cutmix=0.5, augmentation="crop+flip", temperature=3.0),
    "views": Recipe(epochs=4, lr=0.01, batch_size=16, optimizer="adamw", temperature=4.0, views=ViewsConfig()),
    "adamw": Recipe(epochs=4, lr=0.01, batch_size=16, optimizer="adamw", schedule="cosine", warmup_epochs=1),
    "balanced": Recipe(epochs=4, lr=0.05, batch_size=7, sampling="class_balanced", augmentation="none"),
}


def set_of(name: str, soft: bool) -> raydd.DistilledDataset:
    return raydd.DistilledDataset(real_digits(RECIPES[name], 2, soft))


def network_of(seed: int) -> nn.Module:
    with seeded(Key.root(seed)):
        return networks.build(SMALL, (1, 8, 8), 10)


def loop_of_the_readme() -> str:
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (loop,) = (block for block in found if "dataset.loader(" in block)
    return str(loop)


def run_loop(dataset: raydd.DistilledDataset, network: nn.Module, data: object) -> float:
    """The README's loop, word for word; returns the accuracy that it prints."""
    printed: list[float] = []
    names: dict[str, Any] = {"dataset": dataset, "network": network, "print": printed.append, "data": data}
    exec(loop_of_the_readme().replace('"runs/quickstart"', "data"), names)
    (reached,) = printed
    return reached


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_loop_of_the_readme_takes_the_steps_of_train(name: str, soft: bool) -> None:
    dataset, ours, theirs = set_of(name, soft), network_of(0), network_of(0)
    reached = run_loop(dataset, ours, DataConfig())
    dataset.train(theirs)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert reached == pytest.approx(dataset.accuracy(theirs, DataConfig()), abs=0.01)


@pytest.mark.parametrize("name", ["augmented", "adamw"])
def test_the_optimizer_is_torchs_with_the_recipes_values(name: str) -> None:
    dataset, network = set_of(name, soft=False), network_of(0)
    optimizer, recipe, hooked = dataset.optimizer(network), RECIPES[name], []
    assert type(optimizer) is (torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {dataset.lr_at(0)}
    assert optimizer.param_groups[0]["weight_decay"] == recipe.weight_decay
    assert optimizer.param_groups[0].get("momentum", 0.0) == recipe.momentum
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    assert hooked == [1]


def test_every_pass_goes_through_all_images_in_another_order() -> None:
    recipe = Recipe(epochs=2, lr=0.1, batch_size=8, augmentation="none")
    dataset = raydd.DistilledDataset(real_digits(recipe, 2))
    loader = dataset.loader()
    first, second = (list(loader) for _ in range(2))
    assert len(loader) == len(first) == 3 and [len(labels) for _, labels in first] == [8, 8, 4]
    orders = [[place_of(image, dataset) for images, _ in batches for image in images] for batches in (first, second)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    for images, labels in first:
        places = [place_of(image, dataset) for image in images]
        assert torch.equal(labels, dataset.decoded.labels[places]) and labels.dtype == torch.int64


def place_of(image: Tensor, dataset: raydd.DistilledDataset) -> int:
    return int((dataset.decoded.images == image).flatten(1).all(1).nonzero()[0])


@pytest.mark.parametrize("name", RECIPES)
def test_draws_are_those_of_seed_and_epoch(name: str) -> None:
    dataset = set_of(name, soft=False)
    loader = dataset.loader(seed=5)
    passes = [list(loader) for _ in range(3)]
    again = dataset.loader(seed=5)
    again.epoch = 1
    assert same(list(again), passes[1]) and same(list(again), passes[2]) and not same(passes[0], passes[1])
    assert not same(list(dataset.loader(seed=6)), passes[0])
    one, other = iter(loader), iter(loader)
    beside = [*zip(one, other, strict=True)]
    again.epoch = 3
    assert same([left for left, _ in beside], list(again)) and same([right for _, right in beside], list(again))


def same(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(some, others, strict=True))


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("name", RECIPES)
def test_without_augmentation_images_are_those_of_the_set(name: str, soft: bool) -> None:
    dataset = set_of(name, soft)
    loader = dataset.loader(batch_size=5, augment=False)
    assert len(loader) == 4
    for images, labels in loader:
        places = [place_of(image, dataset) for image in images]
        assert len(images) == 5 and torch.equal(labels, dataset.decoded.targets[places])
    seen = torch.cat([images for images, _ in dataset.loader()])
    own = [bool((dataset.decoded.images == image).flatten(1).all(1).any()) for image in seen]
    assert seen.shape == (20, 1, 8, 8) and (all(own) if name == "balanced" else sum(own) < 15)


def test_mixed_images_have_the_labels_of_the_mixture() -> None:
    recipe = replace(RECIPES["cutmix"], cutmix=1.0, augmentation="none", batch_size=20)
    for soft, temperature in ((False, 1.0), (True, 3.0)):
        dataset = raydd.DistilledDataset(real_digits(recipe, 2, soft))
        ((images, labels),) = dataset.loader()
        shares = (labels / temperature).softmax(1)
        torch.testing.assert_close(shares.sum(1), torch.ones(20))
        ((plain, own),) = dataset.loader(augment=False)
        changed = (images != plain).flatten(1).any(1)
        assert int(changed.sum()) > 0
        whole = nn.functional.one_hot(own, 10).float() if not soft else (own / temperature).softmax(1)
        kept = (shares * whole).sum(1) / (whole * whole).sum(1)
        assert len({round(float(part), 2) for part in kept[changed]}) <= 3


def test_a_batch_size_that_is_none() -> None:
    with pytest.raises(ConfigError, match="^batch_size: must be at least 1, is 0"):
        set_of("augmented", False).loader(batch_size=0)
    assert len(set_of("augmented", False).loader(batch_size=1)) == 20
    assert "in batches of 16, augmentation dsa, next epoch 0" in repr(set_of("augmented", False).loader())


def test_the_loader_reaches_what_train_reaches_where_plain_batches_do_not() -> None:
    """Two digits of each class, which networks learn by heart where nothing augments them."""
    recipe = Recipe(epochs=60, lr=0.05, momentum=0.9, batch_size=20, schedule="step", augmentation="crop_scale_rotate")
    dataset, reached, wanted = raydd.DistilledDataset(real_digits(recipe, 2)), [], []
    test = datasets.load(DataConfig(), Key.root(0)).test
    for seed in range(3):
        ours, theirs = network_of(seed), network_of(seed)
        reached.append(run_loop(dataset, ours, (test.images, test.labels)))
        theirs_measured = dataset.train(theirs, data=(test.images, test.labels))
        wanted.append(theirs_measured.test_accuracy or 0.0)
    assert abs(fmean(reached) - fmean(wanted)) < stdev(wanted)


@pytest.mark.slow
def test_the_loop_of_the_readme_reaches_what_train_reaches_on_the_quickstart(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command("distill", ROOT / "configs" / "quickstart.yaml", "--no-ray", "--quiet", "--out", out) == 0
    dataset, reached, wanted = raydd.load(out), [], []
    for seed in range(5):
        config = NetworkConfig(width=32, depth=2)
        with seeded(Key.root(seed)):
            ours = networks.build(config, dataset.shape, 10)
        with seeded(Key.root(seed)):
            theirs = networks.build(config, dataset.shape, 10)
        reached.append(run_loop(dataset, ours, out))
        wanted.append(dataset.train(theirs, seed=seed, data=out).test_accuracy or 0.0)
    assert fmean(wanted) > 0.85 and abs(fmean(reached) - fmean(wanted)) < stdev(wanted), (reached, wanted)
