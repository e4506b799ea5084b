"""CutMix in training: by hand, for packs and workers, compiled, and the distribution of its draws."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.keyed_random import Key, seeded
from raydd.networks.config import NetworkConfig
from raydd.training import cutmix
from raydd.training.dsa import augmentation
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from tests.reference import cutmix as by_hand
from tests.reference import matching
from tests.support import tiny
from tests.support.tiny import CLASSES, Results, randn

KEY = Key.root(4)
NUM_IMAGES, SHAPE = 20, (1, 8, 8)
RECIPE = Recipe(epochs=3, lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=8, augmentation="crop+flip", cutmix=0.5)


def module(network: NetworkConfig = tiny.NETWORK, key: Key = KEY) -> nn.Module:
    with seeded(key):
        return networks.build(network, SHAPE, len(CLASSES)).double()


def images() -> Tensor:
    return randn(1, NUM_IMAGES, *SHAPE)


def targets(soft: bool) -> Tensor:
    return randn(2, NUM_IMAGES, len(CLASSES)) if soft else torch.arange(NUM_IMAGES) % len(CLASSES)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_epochs_are_cutmix_by_hand(share: float, soft: bool) -> None:
    recipe = replace(RECIPE, cutmix=share, temperature=2.0 if soft else 1.0)
    product = Training([module()], images(), targets(soft), recipe, [KEY])
    theta, unmixed = flat(product.modules[0]), 0
    velocity = torch.zeros_like(theta)
    for epoch in range(3):
        (result,) = product.run_epoch(epoch)
        total = correct = 0.0
        order = keyed_random.permutation(KEY.child("order", epoch), NUM_IMAGES)
        for step, rows in enumerate(order.split(8)):
            drawn = KEY.child("cutmix", epoch, step)
            coin, *place = keyed_random.uniform(drawn, torch.zeros(1, dtype=torch.int64), 4)[0].tolist()
            partners = keyed_random.permutation(drawn.child("partners"), len(rows)).tolist()
            batch = augmentation("crop+flip").draw(KEY.child("augment", epoch, step), rows)(images()[rows])
            labels, kept = targets(soft)[rows], 1.0
            if coin < share:
                batch, kept = by_hand.mixed(batch, partners, *by_hand.box(*place, 8, 8))
            unmixed += coin >= share
            own = (labels / 2).softmax(1) if soft else labels
            leaf = theta.clone().requires_grad_()
            logits = tiny.network(leaf, batch)
            value = by_hand.loss(logits / (2 if soft else 1), own, own[partners], kept)
            (gradient,) = torch.autograd.grad(value, leaf)
            matching.sgd([theta], [gradient], [velocity], 0.05, 0.9, 0.01)
            total += value.item() * len(rows)
            correct += int((logits.argmax(1) == (labels.argmax(1) if soft else labels)).sum())
        torch.testing.assert_close(flat(product.modules[0]), theta, rtol=1e-10, atol=1e-11)
        assert result.loss == pytest.approx(total / NUM_IMAGES, rel=1e-6)
        assert result.accuracy == pytest.approx(correct / NUM_IMAGES)
    assert (unmixed > 0) == (share < 1)


def test_packed_networks_are_mixed_as_if_alone() -> None:
    keys = [KEY.child(number) for number in range(3)]
    alone, members = ([module(key=key) for key in keys] for _ in range(2))
    separate = [Training([m], images(), targets(False), RECIPE, [k]) for m, k in zip(alone, keys, strict=True)]
    pack = Training(members, images(), targets(False), RECIPE, keys)
    for epoch in range(2):
        wanted = [training.run_epoch(epoch)[0] for training in separate]
        for found, result in zip(pack.run_epoch(epoch), wanted, strict=True):
            assert found.loss == pytest.approx(result.loss, rel=1e-6) and found.accuracy == result.accuracy
    for member, single in zip(members, alone, strict=True):
        torch.testing.assert_close(flat(member), flat(single), rtol=1e-10, atol=1e-12)


def shared_training() -> Results:
    """Batches of 9, 9 and 2 images, shared by the workers there are."""
    recipe = replace(RECIPE, batch_size=9, cutmix=0.8)
    network = module(replace(tiny.NETWORK, norm="batch"))
    running = Training([network], images(), targets(False), recipe, [KEY], shared=True)
    results = [running.run_epoch(epoch)[0] for epoch in range(2)]
    measured = torch.tensor([(result.loss, result.accuracy) for result in results], dtype=torch.float64)
    return {**running.state_dicts()[0], "measured": measured}


def test_steps_that_workers_share_are_those_of_one() -> None:
    wanted = shared_training()
    for world in (2, 3):
        for found in tiny.on_workers(world, shared_training):
            for name, tensor in wanted.items():
                rtol, atol = (1e-6, 1e-6) if name == "measured" else (1e-9, 1e-11)
                torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=atol, msg=f"{name} of {world}")


@pytest.mark.slow
def test_a_compiled_epoch_is_the_same_to_rounding(caplog: pytest.LogCaptureFixture) -> None:
    recipe, ends = replace(RECIPE, batch_size=NUM_IMAGES, cutmix=1.0), []
    for compiled in (True, False):
        network = module(NetworkConfig(name="mlp")).float()
        Training([network], images().float(), targets(False), recipe, [KEY], compiled=compiled).run_epoch(0)
        ends.append(flat(network))
    assert not [record for record in caplog.records if record.name == "raydd.core.compilation"]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-5


def test_draws_are_of_the_papers_distribution() -> None:
    count, height, width = 2000, 12, 16
    found = [cutmix.draw(KEY.child(number), 0.3, 5, height, width) for number in range(count)]
    mixes = [mix for mix in found if mix is not None]
    assert stats.binomtest(len(mixes), count, 0.3).pvalue > 0.001
    generator = torch.Generator().manual_seed(0)
    areas = []
    for share, row, column in torch.rand(20_000, 3, generator=generator).tolist():
        rows, columns = by_hand.box(share, row, column, height, width)
        areas.append(len(rows) * len(columns) / (height * width))
    assert stats.ks_2samp([1 - mix.kept for mix in mixes], areas).pvalue > 0.001
    assert all(mix.kept == pytest.approx(1 - float(mix.pasted.double().mean())) for mix in mixes)
    assert all(sorted(mix.partners.tolist()) == list(range(5)) for mix in mixes)
    places = torch.stack([mix.partners for mix in mixes])
    assert stats.chisquare(places[:, 0].bincount(minlength=5).tolist()).pvalue > 0.001


def test_nothing_and_everything_is_mixed() -> None:
    draws = {share: [cutmix.draw(KEY.child(i), share, 4, 8, 8) for i in range(50)] for share in (0.0, 1.0)}
    assert all(mix is None for mix in draws[0.0]) and all(mix is not None for mix in draws[1.0])
