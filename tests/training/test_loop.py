"""The epoch loop against SGD by hand, its schedule, and exact continuation."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key, seeded
from raydd.networks.config import NetworkConfig
from raydd.training import optimizers
from raydd.training.loop import Training, accuracy, predict
from raydd.training.optimizers import LrSchedule, lr_factor
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.reference import matching
from tests.reference.gsam import gsam_direction
from tests.support import tiny
from tests.support.tiny import CLASSES, Results, randn

KEY = Key.root(3)
NUM_IMAGES = 20
RECIPE = Recipe(epochs=5, lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=8, augmentation="none")


def module(network: NetworkConfig = tiny.NETWORK) -> nn.Module:
    with seeded(KEY):
        return networks.build(network, (1, 8, 8), len(CLASSES)).double()


def images() -> Tensor:
    return randn(1, NUM_IMAGES, 1, 8, 8)


def targets(soft: bool) -> Tensor:
    return randn(2, NUM_IMAGES, len(CLASSES)) if soft else torch.arange(NUM_IMAGES) % len(CLASSES)


def training(recipe: Recipe = RECIPE, soft: bool = True, network: NetworkConfig = tiny.NETWORK) -> Training:
    return Training([module(network)], images(), targets(soft), recipe, [KEY])


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collects the orders in which the epochs visit the images."""
    drawn: list[Tensor] = []
    draw = keyed_random.permutation

    def permutation(key: Key, n: int, device: torch.device) -> Tensor:
        drawn.append(draw(key, n, device))
        return drawn[-1]

    monkeypatch.setattr(keyed_random, "permutation", permutation)
    return drawn


class ByHand:
    """The same training on given orders."""

    def __init__(self, recipe: Recipe, soft: bool = True) -> None:
        self.recipe, self.images, self.targets = recipe, images(), targets(soft)
        self.theta = flat(module())
        self.velocity = torch.zeros_like(self.theta)

    def run_epoch(self, order: Tensor, lr: float) -> tuple[float, float]:
        """Mean loss and accuracy over the epoch."""
        loss_sum = correct = 0.0
        for at in range(0, NUM_IMAGES, self.recipe.batch_size):
            rows = order[at : at + self.recipe.batch_size].tolist()
            labels, batch = self.targets[rows], self.images[rows]
            logits = tiny.network(self.theta, batch)
            heat = self.recipe.temperature if labels.is_floating_point() else 1
            gradient, loss = self.gradient(
                lambda theta, x=batch, y=labels, t=heat: matching.mean_loss(
                    tiny.network(theta, x) / t, y / t if t != 1 else y
                )
            )
            self.update(gradient, lr)
            loss_sum += float(loss) * len(rows)
            classes = labels.argmax(1) if labels.is_floating_point() else labels
            correct += sum(int(row.argmax()) == int(c) for row, c in zip(logits, classes, strict=True))
        return loss_sum / NUM_IMAGES, correct / NUM_IMAGES

    def update(self, gradient: Tensor, lr: float) -> None:
        matching.sgd([self.theta], [gradient], [self.velocity], lr, self.recipe.momentum, self.recipe.weight_decay)

    def gradient(self, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What a step descends by [P], and the loss."""
        theta = self.theta.clone().requires_grad_()
        value = loss(theta)
        return torch.autograd.grad(value, theta)[0], value.detach()


class AdamWByHand(ByHand):
    """The same with AdamW's step, without decay of biases and norms."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        decayed = [float(p.ndim > 1 or recipe.decays_all) for p in module().parameters()]
        self.decayed = torch.cat(
            [torch.full((p.numel(),), own) for p, own in zip(module().parameters(), decayed, strict=True)]
        ).double()
        self.mean, self.square, self.steps = torch.zeros_like(self.theta), torch.zeros_like(self.theta), 0

    def update(self, gradient: Tensor, lr: float) -> None:
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        step = self.mean / (1 - 0.9**self.steps) / ((self.square / (1 - 0.999**self.steps)) ** 0.5 + 1e-8)
        self.theta = self.theta - lr * (step + self.recipe.weight_decay * self.decayed * self.theta)


class GSAMByHand(ByHand):
    """The same with GSAM's step, tensor by tensor."""

    def gradient(self, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        shapes = [parameter.shape for parameter in module().parameters()]
        weights = [w.view(s) for w, s in zip(self.theta.split([s.numel() for s in shapes]), shapes, strict=True)]
        recipe = self.recipe
        direction, value = gsam_direction(
            lambda tensors: loss(torch.cat([t.flatten() for t in tensors])),
            weights,
            recipe.gsam_rho,
            recipe.gsam_alpha,
            recipe.gsam_adaptive,
        )
        return torch.cat([d.flatten() for d in direction]), value


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        replace(RECIPE, momentum=0.0, weight_decay=0.0),
        replace(RECIPE, batch_size=50),
        replace(RECIPE, temperature=20.0),
    ],
    ids=["momentum and decay", "plain", "one batch", "temperature"],
)
def test_epochs_are_sgd_by_hand(recipe: Recipe, soft: bool, orders: list[Tensor]) -> None:
    product, by_hand = training(recipe, soft), ByHand(recipe, soft)
    for epoch in range(3):
        (result,) = product.run_epoch(epoch)
        loss, share = by_hand.run_epoch(orders[epoch], 0.05)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-11, atol=1e-12)
        assert result.loss == pytest.approx(loss, rel=1e-6)
        assert result.accuracy == pytest.approx(share)
    assert all(order.sort().values.tolist() == list(range(NUM_IMAGES)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


ADAMW = {"optimizer": "adamw", "momentum": 0.0, "weight_decay": 0.3}


@pytest.mark.parametrize("decays_all", [False, True])
def test_adamw_is_the_step_by_hand(decays_all: bool, orders: list[Tensor]) -> None:
    """But for the biases of convolutions, whose gradient before a norm is rounding alone: AdamW scales it up."""
    recipe = replace(RECIPE, **ADAMW, temperature=2.0, decays_all=decays_all)
    product, by_hand = training(recipe), AdamWByHand(recipe)
    felt = torch.cat([torch.full((p.numel(),), "conv.bias" not in name) for name, p in module().named_parameters()])
    for epoch in range(4):
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05)
        torch.testing.assert_close(flat(product.modules[0])[felt], by_hand.theta[felt], rtol=1e-9, atol=1e-10)


def test_decay_of_all_parameters_is_torchs_without_groups() -> None:
    """SRe2L's code for CIFAR: `AdamW(net.parameters(), lr, weight_decay)`."""
    own, theirs = (list(module().parameters()) for _ in range(2))
    ours = optimizers.build("adamw", own, 0.01, 0.0, 0.3, stacked=False, decays_all=True)
    plain = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.3)
    for number in range(3):
        for place, (a, b) in enumerate(zip(own, theirs, strict=True)):
            a.grad = randn(10 * number + place, *a.shape)
            b.grad = a.grad.clone()
        ours.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))


@pytest.mark.parametrize("members", [1, 2])
def test_norms_that_take_every_batch_in_twice(members: int, orders: list[Tensor]) -> None:
    """As in the code of RDED and DELT, whose students go through a batch once more: 0.19 is 1 - 0.9^2."""
    network, recipe = replace(tiny.NETWORK, norm="batch"), replace(RECIPE, batch_size=NUM_IMAGES)
    modules = [module(network) for _ in range(members)]
    twice = module(network).train()
    keys = [KEY.child(member) for member in range(members)]
    Training(modules, images(), targets(True), replace(recipe, norm_momentum=0.19), keys).run_epoch(0)
    for _ in range(2):
        twice(images())
    for own in modules:
        for (name, ours), theirs in zip(own.named_buffers(), twice.buffers(), strict=True):
            if "running" in name:
                torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=name)


GSAM = {"gsam_rho": 0.05, "gsam_alpha": 0.3}


@pytest.mark.parametrize(
    "changes",
    [GSAM, {**GSAM, "gsam_adaptive": False}, {**GSAM, "gsam_alpha": 0.0}, {**GSAM, "gsam_rho": 0.0}],
    ids=["adaptive", "not adaptive", "perturbed alone", "orthogonal part alone"],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gsam_is_the_step_by_hand(changes: dict[str, float], momentum: float, orders: list[Tensor]) -> None:
    recipe = replace(RECIPE, momentum=momentum, **changes)
    product, by_hand, plain = training(recipe), GSAMByHand(recipe), training(replace(RECIPE, momentum=momentum))
    for epoch in range(2):
        (result,) = product.run_epoch(epoch)
        loss, share = by_hand.run_epoch(orders[epoch], 0.05)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-12)
        assert result.loss == pytest.approx(loss, rel=1e-6) and result.accuracy == pytest.approx(share)
    orders.clear()
    plain.run_epoch(0)
    plain.run_epoch(1)
    gap = float((flat(product.modules[0]) - flat(plain.modules[0])).abs().max())
    assert gap > 1e-4 or changes["gsam_rho"] == 0


def test_gsam_of_nothing_is_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training()
    plain.run_epoch(0)
    assert not RECIPE.is_gsam
    monkeypatch.setattr(Recipe, "is_gsam", True)
    forced = training()
    forced.run_epoch(0)
    assert torch.equal(flat(forced.modules[0]), flat(plain.modules[0]))


def test_gsams_second_look_leaves_the_running_statistics_alone() -> None:
    """After one step they are those of the first look, which plain SGD takes as well; the parameters are not."""
    network, once = replace(tiny.NETWORK, norm="batch"), replace(RECIPE, batch_size=NUM_IMAGES)
    plain, sharp = training(once, network=network), training(replace(once, **GSAM), network=network)
    for product in (plain, sharp):
        product.run_epoch(0)
    buffers = [dict(product.modules[0].named_buffers()) for product in (plain, sharp)]
    assert len(buffers[0]) == 3 * tiny.NETWORK.depth
    assert all(torch.equal(buffers[1][name], tensor) for name, tensor in buffers[0].items())
    assert not torch.equal(flat(plain.modules[0]), flat(sharp.modules[0]))


def test_keys_of_plain_trainings_do_not_know_gsam() -> None:
    fields = "epochs lr momentum weight_decay batch_size schedule augmentation"
    assert list(RECIPE.identity()) == fields.split() == list(replace(RECIPE, gsam_adaptive=False).identity())
    later = {"optimizer": "adamw", "temperature": 4.0, "warmup_epochs": 2, "cutmix": 0.5}
    later |= {"views": ViewsConfig(mix="mixup")}
    for name, value in later.items():
        recipe = replace(RECIPE, momentum=0.0, **{name: value})
        added = value.identity() if isinstance(value, ViewsConfig) else value
        assert recipe.identity() == {**replace(RECIPE, momentum=0.0).identity(), name: added}
    sharp = replace(RECIPE, gsam_alpha=0.3)
    assert sharp.identity() == {**RECIPE.identity(), "gsam_rho": 0.0, "gsam_alpha": 0.3, "gsam_adaptive": True}


@pytest.mark.parametrize("batch_size", [8, 50])
@pytest.mark.parametrize("network", [tiny.NETWORK, replace(tiny.NETWORK, norm="batch")], ids=["instance", "batch"])
@pytest.mark.parametrize("changes", [{}, GSAM, {"momentum": 0.0}], ids=["momentum", "gsam", "plain"])
def test_packed_networks_train_as_if_alone(changes: dict[str, float], network: NetworkConfig, batch_size: int) -> None:
    recipe = replace(RECIPE, epochs=1, schedule="step", augmentation="dsa", batch_size=batch_size, **changes)
    assert recipe.decay_epoch == 2
    keys = [KEY.child(number) for number in range(3)]
    alone, members = [], []
    for key in keys:
        for made in (alone, members):
            with seeded(key):
                made.append(networks.build(network, (1, 8, 8), len(CLASSES)).double())
    separate = [Training([m], images(), targets(False), recipe, [k]) for m, k in zip(alone, keys, strict=True)]
    pack = Training(members, images(), targets(False), recipe, keys)
    for epoch in range(3):
        wanted = [training.run_epoch(epoch)[0] for training in separate]
        for found, result in zip(pack.run_epoch(epoch), wanted, strict=True):
            assert found.loss == pytest.approx(result.loss, rel=1e-6) and found.accuracy == result.accuracy
        if epoch == 1:
            states = pack.state_dicts()
            pack = Training([copy.deepcopy(m) for m in members], images(), targets(False), recipe, keys)
            for member in pack.modules:
                torch.nn.init.zeros_(next(member.parameters()))
            pack.load_state_dicts(states)
        for training, state in zip(separate, pack.state_dicts(), strict=True):
            expected = training.state_dicts()[0]
            assert state.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(state[name], tensor, rtol=1e-10, atol=1e-12, msg=name)


def test_packed_networks_take_adamws_steps_as_if_alone() -> None:
    recipe, unnormed = replace(RECIPE, **ADAMW, augmentation="dsa"), replace(tiny.NETWORK, norm="none")
    keys = [KEY, KEY.child("other")]
    alone, members = ([module(unnormed) for _ in keys] for _ in range(2))
    separate = [Training([m], images(), targets(True), recipe, [k]) for m, k in zip(alone, keys, strict=True)]
    pack = Training(members, images(), targets(True), recipe, keys)
    for epoch in range(3):
        pack.run_epoch(epoch)
        for training in separate:
            training.run_epoch(epoch)
        if epoch == 1:
            states = pack.state_dicts()
            pack = Training([module(unnormed) for _ in keys], images(), targets(True), recipe, keys)
            pack.load_state_dicts(states)
    for training, state in zip(separate, pack.state_dicts(), strict=True):
        expected = training.state_dicts()[0]
        assert state.keys() == expected.keys()
        assert {name.partition(".")[0] for name in state} == {"module", "step", "exp_avg", "exp_avg_sq"}
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("changes", [{}, GSAM], ids=["plain", "gsam"])
def test_a_packed_step_in_float32(changes: dict[str, float]) -> None:
    recipe = replace(RECIPE, momentum=0.0, batch_size=NUM_IMAGES, augmentation="dsa", **changes)
    keys = [KEY, KEY.child("other")]
    alone, members = ([module().float() for _ in keys] for _ in range(2))
    Training(members, images().float(), targets(False), recipe, keys).run_epoch(0)
    for network, member, key in zip(alone, members, keys, strict=True):
        Training([network], images().float(), targets(False), recipe, [key]).run_epoch(0)
        assert float((flat(network) - flat(member)).abs().max()) < 1e-5
    assert not torch.equal(flat(members[0]), flat(members[1]))


def test_step_schedule_is_a_tenth_with_a_fresh_optimiser(orders: list[Tensor]) -> None:
    recipe = replace(RECIPE, epochs=7, schedule="step")
    assert recipe.decay_epoch == 5
    product, by_hand = training(recipe), ByHand(recipe, soft=True)
    for epoch in range(7):
        if epoch == 5:
            by_hand.velocity.zero_()
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05 if epoch < 5 else 0.005)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-11)


def test_step_schedule_of_the_papers(orders: list[Tensor]) -> None:
    """Epochs 0 .. 1000, of which 502 is the first after the decay."""
    recipe = replace(RECIPE, epochs=1001, schedule="step")
    assert recipe.decay_epoch == 502
    product, by_hand = training(recipe), ByHand(recipe, soft=True)
    for number, (epoch, lr) in enumerate([(0, 0.05), (500, 0.05), (501, 0.05), (502, 0.005), (503, 0.005)]):
        if epoch == 502:
            by_hand.velocity.zero_()
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[number], lr)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-11)


def test_constant_schedule_never_decays(orders: list[Tensor]) -> None:
    product, by_hand = training(), ByHand(RECIPE, soft=True)
    for epoch in range(5):
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05)
    torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-11)


COSINE = [0.05 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)]
HALF = [0.05 * math.cos(math.pi * epoch / 20) ** 2 for epoch in range(5)]


@pytest.mark.parametrize(
    "changes, rates",
    [
        ({"schedule": "cosine"}, COSINE),
        ({"schedule": "half_cosine"}, HALF),
        ({"schedule": "cosine", "epochs": 8, "warmup_epochs": 3}, [0.0005, 0.017, 0.0335, *COSINE]),
        ({"schedule": "constant", "warmup_epochs": 1}, [0.0005, 0.05, 0.05, 0.05, 0.05]),
        ({"schedule": "step", "epochs": 9, "warmup_epochs": 2}, [0.0005, 0.02525, *[0.05] * 5, 0.005, 0.005]),
        ({"schedule": "step_kept", "epochs": 7}, [*[0.05] * 5, 0.005, 0.005]),
        ({"schedule": "two_steps", "epochs": 7}, [*[0.05] * 4, 0.01, 0.002, 0.002]),
        ({"schedule": "two_steps", "epochs": 9, "warmup_epochs": 3}, [0.0005, 0.017, 0.0335, *[0.05] * 4, 0.01, 0.002]),
    ],
    ids=[
        "cosine",
        "half cosine",
        "warm-up and cosine",
        "warm-up",
        "warm-up and step",
        "step, kept",
        "two steps",
        "warm-up and two steps",
    ],
)
def test_schedules(changes: dict[str, object], rates: list[float], orders: list[Tensor]) -> None:
    recipe = replace(RECIPE, momentum=0.0, **changes)
    product, by_hand = training(recipe), ByHand(recipe)
    assert recipe.epochs == len(rates)
    for epoch, rate in enumerate(rates):
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], rate)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "schedule, rates", [("step_kept", [1] * 5 + [0.1] * 2), ("two_steps", [1] * 4 + [0.2, 0.04, 0.04])]
)
def test_schedules_that_keep_the_momenta(schedule: LrSchedule, rates: list[float], orders: list[Tensor]) -> None:
    recipe = replace(RECIPE, epochs=7, schedule=schedule)
    product, by_hand = training(recipe), ByHand(recipe)
    for epoch, rate in enumerate(rates):
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05 * rate)
        torch.testing.assert_close(flat(product.modules[0]), by_hand.theta, rtol=1e-10, atol=1e-11)


def test_two_steps_of_idcs_training() -> None:
    """After 666 and 833 of 1000 epochs, as torch's schedule of these milestones has them."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2000 // 3, 5000 // 6], gamma=0.2)
    for epoch in range(1000):
        assert lr_factor("two_steps", epoch, 1000, 0, 501) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_schedules_of_the_papers_end_near_nothing_and_near_a_half() -> None:
    last = [lr_factor(schedule, 299, 300, 0, 151) for schedule in ("cosine", "half_cosine")]
    assert last == pytest.approx([math.sin(math.pi / 600) ** 2, 0.5 + math.sin(math.pi / 600) / 2])


def test_classes_have_no_temperature() -> None:
    cold, hot = training(soft=False), training(replace(RECIPE, temperature=20.0), soft=False)
    assert cold.run_epoch(0) == hot.run_epoch(0)
    assert torch.equal(flat(cold.modules[0]), flat(hot.modules[0]))


class Seen:
    """Views that are the images as they are, and a list of what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Key, int, Tensor]] = []

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append((key, epoch, rows))
        return images()[rows], targets(soft=True)[rows]


@pytest.mark.parametrize("members", [1, 2])
def test_views_take_the_place_of_augmented_images(members: int) -> None:
    keys = [KEY.child(number) for number in range(members)]
    recipe, seen = replace(RECIPE, views=ViewsConfig()), Seen()
    plain = Training([module() for _ in keys], images(), targets(soft=True), RECIPE, keys)
    product = Training([module() for _ in keys], torch.empty(0), targets(soft=False), recipe, keys, views=seen)
    for epoch in range(2):
        assert product.run_epoch(epoch) == plain.run_epoch(epoch)
    assert all(torch.equal(*map(flat, pair)) for pair in zip(product.modules, plain.modules, strict=True))
    assert {(key, epoch) for key, epoch, _ in seen.asked} == {(k.child("views"), e) for k in keys for e in range(2)}
    for key in keys:
        rows = torch.cat([rows for k, epoch, rows in seen.asked if (k, epoch) == (key.child("views"), 1)])
        assert rows.sort().values.tolist() == list(range(NUM_IMAGES))


def test_a_recipe_of_views_without_them_is_refused() -> None:
    with pytest.raises(ConfigError, match="^views: only students that learn from a teacher's labels"):
        training(replace(RECIPE, views=ViewsConfig()))


def shared_training(norm: str, changes: dict[str, object], with_views: bool) -> Results:
    """Two epochs of batches of 9, 9 and 2 images, shared by the workers there are."""
    recipe = replace(RECIPE, augmentation="crop+flip", batch_size=9, **changes)
    views = Seen() if with_views else None
    network = module(replace(tiny.NETWORK, norm=norm))
    running = Training([network], images(), targets(soft=False), recipe, [KEY], views=views, shared=True)
    results = [running.run_epoch(epoch)[0] for epoch in range(2)]
    measured = torch.tensor([(result.loss, result.accuracy) for result in results], dtype=torch.float64)
    return {**running.state_dicts()[0], "measured": measured}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(
    "changes, with_views", [({}, False), (GSAM, False), ({"temperature": 3.0}, True)], ids=["sgd", "gsam", "views"]
)
def test_steps_that_workers_share_are_those_of_one(norm: str, changes: dict[str, object], with_views: bool) -> None:
    """Also where the last batch has fewer images than there are workers."""
    wanted = shared_training(norm, changes, with_views)
    assert any("momentum." in name for name in wanted) and wanted["measured"].isfinite().all()
    for world in (1, 2, 3):
        workers = tiny.on_workers(world, shared_training, norm, changes, with_views)
        for found in workers:
            assert found.keys() == wanted.keys()
            for name, tensor in wanted.items():
                rtol, atol = (1e-6, 1e-6) if name == "measured" else (1e-9, 1e-11)
                torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=atol, msg=f"{name} of {world}")
                assert torch.equal(found[name], workers[0][name])


def unshared_training() -> Results:
    running = training()
    running.run_epoch(0)
    if dist.is_initialized():
        dist.barrier()
    return running.state_dicts()[0]


def test_workers_that_share_nothing_train_as_if_alone() -> None:
    (found, _), wanted = tiny.on_workers(2, unshared_training), unshared_training()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_augmentation_is_drawn_for_every_step() -> None:
    plain, augmented = training(), training(replace(RECIPE, augmentation="dsa"))
    again = training(replace(RECIPE, augmentation="dsa"))
    for product in (plain, augmented, again):
        product.run_epoch(0)
    assert not torch.equal(flat(plain.modules[0]), flat(augmented.modules[0]))
    assert torch.equal(flat(again.modules[0]), flat(augmented.modules[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "constant"},
        {"schedule": "step"},
        {"schedule": "two_steps", "cutmix": 0.5},
        {**ADAMW, "schedule": "half_cosine", "warmup_epochs": 4},
    ],
    ids=["constant", "step", "two steps and cutmix", "adamw"],
)
@pytest.mark.parametrize("network", [tiny.NETWORK, replace(tiny.NETWORK, norm="batch")], ids=["instance", "batch"])
def test_exact_continuation_from_every_epoch(changes: dict[str, object], network: NetworkConfig) -> None:
    recipe = replace(RECIPE, epochs=7, augmentation="dsa", **changes)
    whole = training(recipe, network=network)
    states = [whole.state_dicts()[0]]
    for epoch in range(7):
        whole.run_epoch(epoch)
        states.append(whole.state_dicts()[0])
    for first in (0, 3, 5, 6):  # under `step` the decayed epochs are 5 and 6
        resumed = training(recipe, network=network)
        with torch.no_grad():
            for parameter in resumed.modules[0].parameters():
                parameter.zero_()
        resumed.load_state_dicts([states[first]])
        for epoch in range(first, 7):
            resumed.run_epoch(epoch)
        state = resumed.state_dicts()[0]
        assert state.keys() == states[-1].keys()
        assert all(torch.equal(state[name], value) for name, value in states[-1].items()), f"from epoch {first}"


def test_going_back_to_the_start_forgets_the_momenta() -> None:
    product = training()
    start = product.state_dicts()[0]
    product.run_epoch(0)
    after = product.state_dicts()[0]
    product.run_epoch(1)
    product.load_state_dicts([start])
    product.run_epoch(0)
    assert all(torch.equal(value, after[name]) for name, value in product.state_dicts()[0].items())


def test_state_is_a_copy() -> None:
    product = training()
    product.run_epoch(0)
    state = product.state_dicts()[0]
    assert any(name.startswith("momentum.") for name in state)
    before = copy.deepcopy(state)
    product.run_epoch(1)
    product.load_state_dicts([state])
    product.run_epoch(1)
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(RunError, match=r"training loss is (nan|inf) in epoch 0 \(step size 1e\+300\)"):
        training(replace(RECIPE, lr=1e300)).run_epoch(0)


def test_step_size_of_the_recipe_before_that_of_the_set() -> None:
    arguments = [module()], images(), targets(True)
    assert Training(*arguments, RECIPE.completed(7.0), [KEY]).lr == 0.05
    assert Training(*arguments, replace(RECIPE, lr=None).completed(7.0), [KEY]).lr == 7.0
    with pytest.raises(ConfigError, match="^lr: this set has learned no step size"):
        Training(*arguments, replace(RECIPE, lr=None).completed(None), [KEY])


def test_steps_count_the_smaller_last_batch() -> None:
    assert RECIPE.steps(20) == 5 * 3
    assert RECIPE.steps(24) == 5 * 3
    assert RECIPE.steps(1) == 5


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("augmentation", "blur"),
        ("gsam_rho", -0.01),
        ("gsam_rho", math.inf),
        ("gsam_alpha", -1.0),
        ("gsam_alpha", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("warmup_epochs", -1),
        ("warmup_epochs", 5),
        ("cutmix", -0.1),
        ("cutmix", 1.5),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: .*{value}"):
        replace(RECIPE, **{field: value})


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"decays_all": True}, "decays_all"), ({"norm_momentum": 0.0}, "norm_momentum"), ({"norm_momentum": 1.1}, "norm")],
)
def test_recipes_of_norms_and_decay_that_cannot_be(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Recipe(**fields)


def test_adamw_takes_nothing_of_sgds() -> None:
    with pytest.raises(ConfigError, match=r"^momentum: is SGD's, and AdamW has its own: take 0, not 0\.9"):
        replace(RECIPE, optimizer="adamw")
    with pytest.raises(ConfigError, match="^optimizer: GSAM's step is SGD's"):
        replace(RECIPE, **ADAMW, **GSAM)


def test_views_are_not_mixed_twice() -> None:
    with pytest.raises(ConfigError, match="^cutmix: views have a mix of their own"):
        replace(RECIPE, cutmix=0.5, views=ViewsConfig())


def test_what_records_call_the_optimiser() -> None:
    recipes = [RECIPE, replace(RECIPE, momentum=0.0, **GSAM), replace(RECIPE, **ADAMW)]
    assert [recipe.optimizer_name for recipe in recipes] == ["sgd-m0.9-wd0.01", "gsam-m0-wd0.01", "adamw-wd0.3"]


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_predict(norm: str, batch_size: int) -> None:
    network = module(replace(tiny.NETWORK, norm=norm))
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits = predict(network, images(), batch_size)
    assert logits.dtype == torch.float32 and logits.shape == (NUM_IMAGES, len(CLASSES)) and not logits.requires_grad
    wanted = torch.cat([_in_eval_mode(network, image[None]) for image in images()])
    torch.testing.assert_close(logits, wanted.float())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def _in_eval_mode(network: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(batch)


def test_accuracy() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0])) == 2 / 3
    assert accuracy(logits, torch.tensor([0, 1, 0])) == 0


def test_the_square_of_the_temperature_scales_steps() -> None:
    """At four times the step size and no factor SGD takes the same step as with a factor of 2 x 2."""
    moved = []
    for recipe in (
        Recipe(epochs=1, lr=0.01, temperature=2.0, squares_temperature=True, augmentation="none"),
        Recipe(epochs=1, lr=0.04, temperature=2.0, augmentation="none"),
        Recipe(epochs=1, lr=0.01, temperature=2.0, augmentation="none"),
    ):
        with keyed_random.seeded(Key.root(0)):
            module = networks.build(NetworkConfig(width=4, depth=2), (1, 8, 8), 3)
        images, targets = tiny.randn(0, 6, 1, 8, 8, dtype=torch.float32), tiny.randn(1, 6, 3, dtype=torch.float32)
        Training([module], images, targets, recipe, [Key.root(1)]).run_epoch(0)
        moved.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.allclose(moved[0], moved[1], atol=1e-6)
    assert not torch.allclose(moved[0], moved[2], atol=1e-4)
