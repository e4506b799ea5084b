"""The epoch loop against SGD by hand, its schedule, and exact continuation."""

import copy
import math
from dataclasses import replace

import pytest
import tiny
import torch
from reference import matching
from tiny import CLASSES, randn
from torch import Tensor, nn

from raydd import networks, random
from raydd.errors import ConfigError, RunError
from raydd.networks import NetworkConfig
from raydd.random import Key, seeded
from raydd.training import Recipe, Training, accuracy, predict

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
    return Training(module(network), images(), targets(soft), recipe, KEY)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collects the orders in which the epochs visit the images."""
    drawn: list[Tensor] = []
    draw = random.permutation

    def permutation(key: Key, n: int) -> Tensor:
        drawn.append(draw(key, n))
        return drawn[-1]

    monkeypatch.setattr(random, "permutation", permutation)
    return drawn


class ByHand:
    """The same training on given orders."""

    def __init__(self, recipe: Recipe, soft: bool) -> None:
        self.recipe, self.images, self.targets = recipe, images(), targets(soft)
        self.theta = flat(module())
        self.velocity = torch.zeros_like(self.theta)

    def run_epoch(self, order: Tensor, lr: float) -> tuple[float, float]:
        """Mean loss and accuracy over the epoch."""
        loss_sum = correct = 0.0
        for at in range(0, NUM_IMAGES, self.recipe.batch_size):
            rows = order[at : at + self.recipe.batch_size].tolist()
            theta, labels = self.theta.clone().requires_grad_(), self.targets[rows]
            logits = tiny.network(theta, self.images[rows])
            loss = matching.mean_loss(logits, labels)
            (gradient,) = torch.autograd.grad(loss, theta)
            matching.sgd([self.theta], [gradient], [self.velocity], lr, self.recipe.momentum, self.recipe.weight_decay)
            loss_sum += float(loss.detach()) * len(rows)
            classes = labels.argmax(1) if labels.is_floating_point() else labels
            correct += sum(int(row.argmax()) == int(c) for row, c in zip(logits, classes, strict=True))
        return loss_sum / NUM_IMAGES, correct / NUM_IMAGES


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize(
    "recipe",
    [RECIPE, replace(RECIPE, momentum=0.0, weight_decay=0.0), replace(RECIPE, batch_size=50)],
    ids=["momentum and decay", "plain", "one batch"],
)
def test_epochs_are_sgd_by_hand(recipe: Recipe, soft: bool, orders: list[Tensor]) -> None:
    product, by_hand = training(recipe, soft), ByHand(recipe, soft)
    for epoch in range(3):
        result = product.run_epoch(epoch)
        loss, share = by_hand.run_epoch(orders[epoch], 0.05)
        torch.testing.assert_close(flat(product.module), by_hand.theta, rtol=1e-11, atol=1e-12)
        assert result.loss == pytest.approx(loss, rel=1e-6)
        assert result.accuracy == pytest.approx(share)
    assert all(order.sort().values.tolist() == list(range(NUM_IMAGES)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_step_schedule_is_a_tenth_with_a_fresh_optimiser(orders: list[Tensor]) -> None:
    recipe = replace(RECIPE, epochs=7, schedule="step")
    assert recipe.decay_epoch == 5
    product, by_hand = training(recipe), ByHand(recipe, soft=True)
    for epoch in range(7):
        if epoch == 5:
            by_hand.velocity.zero_()
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05 if epoch < 5 else 0.005)
        torch.testing.assert_close(flat(product.module), by_hand.theta, rtol=1e-10, atol=1e-11)


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
        torch.testing.assert_close(flat(product.module), by_hand.theta, rtol=1e-10, atol=1e-11)


def test_constant_schedule_never_decays(orders: list[Tensor]) -> None:
    product, by_hand = training(), ByHand(RECIPE, soft=True)
    for epoch in range(5):
        product.run_epoch(epoch)
        by_hand.run_epoch(orders[epoch], 0.05)
    torch.testing.assert_close(flat(product.module), by_hand.theta, rtol=1e-10, atol=1e-11)


def test_augmentation_is_drawn_for_every_step() -> None:
    plain, augmented = training(), training(replace(RECIPE, augmentation="dsa"))
    again = training(replace(RECIPE, augmentation="dsa"))
    for product in (plain, augmented, again):
        product.run_epoch(0)
    assert not torch.equal(flat(plain.module), flat(augmented.module))
    assert torch.equal(flat(again.module), flat(augmented.module))


@pytest.mark.parametrize("schedule", ["constant", "step"])
@pytest.mark.parametrize("network", [tiny.NETWORK, replace(tiny.NETWORK, norm="batch")], ids=["instance", "batch"])
def test_exact_continuation_from_every_epoch(schedule: str, network: NetworkConfig) -> None:
    recipe = replace(RECIPE, epochs=7, schedule=schedule, augmentation="dsa")
    whole = training(recipe, network=network)
    states = [whole.state_dict()]
    for epoch in range(7):
        whole.run_epoch(epoch)
        states.append(whole.state_dict())
    for first in (0, 3, 5, 6):  # under `step` the decayed epochs are 5 and 6
        resumed = training(recipe, network=network)
        with torch.no_grad():
            for parameter in resumed.module.parameters():
                parameter.zero_()
        resumed.load_state_dict(states[first])
        for epoch in range(first, 7):
            resumed.run_epoch(epoch)
        state = resumed.state_dict()
        assert state.keys() == states[-1].keys()
        assert all(torch.equal(state[name], value) for name, value in states[-1].items()), f"from epoch {first}"


def test_going_back_to_the_start_forgets_the_momenta() -> None:
    product = training()
    start = product.state_dict()
    product.run_epoch(0)
    after = product.state_dict()
    product.run_epoch(1)
    product.load_state_dict(start)
    product.run_epoch(0)
    assert all(torch.equal(value, after[name]) for name, value in product.state_dict().items())


def test_state_is_a_copy() -> None:
    product = training()
    product.run_epoch(0)
    state = product.state_dict()
    assert any(name.startswith("momentum.") for name in state)
    before = copy.deepcopy(state)
    product.run_epoch(1)
    product.load_state_dict(state)
    product.run_epoch(1)
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(RunError, match=r"training loss is (nan|inf) in epoch 0 \(step size 1e\+300\)"):
        training(replace(RECIPE, lr=1e300)).run_epoch(0)


def test_step_size_of_the_recipe_before_that_of_the_set() -> None:
    arguments = module(), images(), targets(True)
    assert Training(*arguments, RECIPE, KEY, lr=7.0).lr == 0.05
    assert Training(*arguments, replace(RECIPE, lr=None), KEY, lr=7.0).lr == 7.0
    with pytest.raises(ConfigError, match="^lr: this set has learned no step size"):
        Training(*arguments, replace(RECIPE, lr=None), KEY)


def test_steps_count_the_smaller_last_batch() -> None:
    assert RECIPE.steps(20) == 5 * 3
    assert RECIPE.steps(24) == 5 * 3
    assert RECIPE.steps(1) == 5


@pytest.mark.parametrize(
    "field, value",
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("lr", math.inf), ("augmentation", "blur")],
)
def test_what_cannot_be_trained_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: .*{value}"):
        replace(RECIPE, **{field: value})


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
