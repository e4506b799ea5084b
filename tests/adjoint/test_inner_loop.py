"""The adjoint of the inner loop against one graph through all of its steps, in one process and in several."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from raydd import networks
from raydd.adjoint.compiled_steps import WrittenSteps
from raydd.adjoint.convnet import ConvNetSteps
from raydd.adjoint.inner_loop import (
    DifferentiatedSteps,
    FrozenRows,
    InnerGradients,
    InnerLoop,
    InnerStep,
    PiecewiseSteps,
    Steps,
    adjoint,
    unroll,
)
from raydd.core.distributed import shard
from raydd.core.keyed_random import Key, seeded
from raydd.methods.trajectory.matching import matching_loss
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.training.dsa import DSA, Augmentation, Operation
from tests.reference import matching
from tests.support.children import output, running
from tests.support.tiny import NETWORK, Results, on_workers, randn, relative_error

KEY = Key.root(0)
GROUPS: tuple[Operation, ...] = DSA().strategy
NUM_IMAGES, NUM_CLASSES, SHAPE = 20, 4, (3, 8, 8)
reference_network = partial(matching.convnet, width=NETWORK.width, depth=NETWORK.depth, num_classes=NUM_CLASSES)

soft_and_hard = pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])


def flat_network() -> FlatNetwork:
    with seeded(KEY):
        return FlatNetwork(networks.build(NETWORK, SHAPE, NUM_CLASSES).double())


@dataclass(frozen=True)
class Problem:
    """Everything that an inner loop starts from."""

    soft: bool
    steps: int
    batch_size: int = 7
    augmentation: Augmentation = DSA()
    curvature: bool = True
    last_steps: int | None = None
    matched_fraction: float = 1.0
    num_frozen: int = 0
    """How many of the images, the first ones, are not learned."""

    @property
    def images(self) -> Tensor:
        return randn(1, NUM_IMAGES, *SHAPE)

    @property
    def labels(self) -> Tensor:
        return randn(2, NUM_IMAGES, NUM_CLASSES) if self.soft else torch.arange(NUM_IMAGES) % NUM_CLASSES

    @property
    def lr(self) -> Tensor:
        return torch.tensor(0.1, dtype=torch.float64)

    @property
    def start(self) -> Tensor:
        return flat_network().flat() + 0.05 * randn(3, flat_network().size)

    @property
    def target(self) -> Tensor:
        return self.start + 0.05 * randn(4, flat_network().size)

    @property
    def batches(self) -> list[Tensor]:
        """Chunks of shuffled rows, a short one in each round; every image comes again in every round."""
        generator, batches = torch.Generator().manual_seed(5), []
        while len(batches) < self.steps:
            batches += torch.randperm(NUM_IMAGES, generator=generator).split(self.batch_size)
        return batches[: self.steps]

    def loop(self) -> InnerLoop:
        """With this worker's share of every batch."""
        steps = []
        for t, batch in enumerate(self.batches):
            index, key = shard(batch), KEY.child(t)
            of_frozen, learned = index[index < self.num_frozen], index[index >= self.num_frozen]
            frozen = FrozenRows(
                self.images[: self.num_frozen],
                self.labels[: self.num_frozen],
                of_frozen,
                self.augmentation.draw(key, of_frozen),
            )
            draw, rows = self.augmentation.draw(key, learned), learned - self.num_frozen
            steps.append(InnerStep(rows, len(batch), draw, frozen if self.num_frozen else None))
        loss = soft_cross_entropy if self.soft else hard_cross_entropy
        return InnerLoop(
            DifferentiatedSteps(flat_network(), loss), steps, curvature=self.curvature, last_steps=self.last_steps
        )

    def arguments(self) -> tuple[Any, ...]:
        """What a reference takes."""
        draws = [self.augmentation.draw(KEY.child(t), batch) for t, batch in enumerate(self.batches)]
        batches = [batch.tolist() for batch in self.batches]
        return reference_network, self.start, self.target, self.lr, self.images, self.labels, batches, draws

    def solve(self, steps: Steps | None = None) -> tuple[Tensor, InnerGradients]:
        """The product's loss and gradients; by other steps, if given."""
        loop, images, labels = self.loop(), self.images[self.num_frozen :], self.labels[self.num_frozen :]
        loop = loop if steps is None else replace(loop, steps=steps)
        trajectory = unroll(loop, self.start, self.lr, images, labels)
        loss, cotangent = matching_loss(trajectory.params[-1], self.target, self.start, self.matched_fraction)
        return loss, adjoint(loop, trajectory, self.lr, images, labels, cotangent)

    def reference(self) -> Results:
        """Loss and gradients from one graph."""
        network, start, target, lr, images, labels, *draws = self.arguments()
        leaves = {"images": images, "lr": lr} | ({"labels": labels} if self.soft else {})
        for leaf in leaves.values():
            leaf.requires_grad_()
        sizes = [p.numel() for p in flat_network().module.parameters()]
        mask = matching.deep_mask(sizes, max(self.matched_fraction, 1 / sum(sizes)))
        loss = matching.unrolled_loss(network, start, target, lr, images, labels, *draws, self.last_steps, mask)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        learned = {name: gradient[self.num_frozen :] for name, gradient in gradients.items() if gradient.ndim}
        return {"loss": loss.detach(), **gradients, **learned}


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_pieces_of_a_batch_add_up(rows: int, soft: bool) -> None:
    for problem in (Problem(soft, steps=3), Problem(soft, steps=3, num_frozen=9)):
        found = problem.solve(PiecewiseSteps(problem.loop().steps, rows))
        assert_same(as_results(*found), problem.reference())


def as_results(loss: Tensor, gradients: InnerGradients) -> Results:
    found = {"loss": loss, "images": gradients.images, "lr": gradients.lr}
    return found if gradients.labels is None else found | {"labels": gradients.labels}


def assert_same(found: Results, wanted: Results) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert relative_error(found[name], value) < 1e-12, name


def test_flat_network_is_the_reference_network() -> None:
    network, images = flat_network(), randn(0, 5, *SHAPE)
    theta = network.flat()
    torch.testing.assert_close(network(theta, images), network.module(images), rtol=1e-13, atol=1e-13)
    theta = theta + randn(1, len(theta))
    torch.testing.assert_close(network(theta, images), reference_network(theta, images), rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.cat([p.flatten() for p in network.unflatten(theta).values()]), theta)


@soft_and_hard
def test_losses_are_sums_over_the_batch(soft: bool) -> None:
    logits = 3 * randn(0, 7, 4)
    labels = 3 * randn(1, 7, 4) if soft else torch.arange(7) % 4
    found = (soft_cross_entropy if soft else hard_cross_entropy)(logits, labels)
    torch.testing.assert_close(found, 7 * matching.mean_loss(logits, labels), rtol=1e-13, atol=0)


@soft_and_hard
@pytest.mark.parametrize("steps", [1, 7, 15])
@pytest.mark.parametrize("group", GROUPS)
def test_adjoint_is_the_gradient_of_the_full_unroll(group: Operation, steps: int, soft: bool) -> None:
    problem = Problem(soft, steps, augmentation=DSA(strategy=(group,)))
    assert_same(as_results(*problem.solve()), problem.reference())


@soft_and_hard
@pytest.mark.parametrize("num_frozen", [1, 10, NUM_IMAGES - 1])
def test_adjoint_behind_frozen_images(num_frozen: int, soft: bool) -> None:
    """In batches of which some hold frozen or learned images only; their gradients are those of the learned alone."""
    for augmentation in (DSA(), *(DSA(strategy=(group,)) for group in GROUPS)):
        problem = Problem(soft, steps=8, batch_size=3, augmentation=augmentation, num_frozen=num_frozen)
        found = problem.solve()
        assert len(found[1].images) == NUM_IMAGES - num_frozen
        assert_same(as_results(*found), problem.reference())
    kinds = [(step.index.numel() > 0, len(step.frozen.index) > 0) for step in problem.loop().batches if step.frozen]
    assert len(kinds) == 8 and len(set(kinds)) > 1


@soft_and_hard
@pytest.mark.parametrize("num_frozen", [1, 10, NUM_IMAGES - 1])
def test_written_steps_behind_frozen_images(num_frozen: int, soft: bool) -> None:
    problem = Problem(soft, steps=8, batch_size=3, num_frozen=num_frozen)
    equations = ConvNetSteps.of(flat_network(), NETWORK, SHAPE)
    assert equations is not None
    wanted = problem.reference()
    for steps in (WrittenSteps(equations, 5, compiled=False), WrittenSteps(equations, 3, compiled=False)):
        assert_same(as_results(*problem.solve(steps)), wanted)
    assert_same(as_results(*problem.solve(PiecewiseSteps(steps, 2))), wanted)


@pytest.mark.parametrize("batch_size", [1, NUM_IMAGES])
def test_adjoint_with_smallest_and_largest_batches(batch_size: int) -> None:
    problem = Problem(soft=True, steps=5, batch_size=batch_size)
    assert_same(as_results(*problem.solve()), problem.reference())


def test_images_that_no_step_visits_get_no_gradient() -> None:
    problem = Problem(soft=True, steps=2)
    visited = torch.cat(problem.batches).unique()
    rest = torch.ones(NUM_IMAGES).index_fill(0, visited, 0).bool()
    _, gradients = problem.solve()
    assert gradients.labels is not None
    assert rest.sum() == NUM_IMAGES - 14
    assert not gradients.images[rest].any() and not gradients.labels[rest].any()
    assert gradients.images[visited].flatten(1).any(1).all()


def test_inputs_stay_as_they_were() -> None:
    problem = Problem(soft=True, steps=3)
    inputs = [problem.start, problem.lr, problem.images, problem.labels, problem.target]
    before = [tensor.clone() for tensor in inputs]
    loop = problem.loop()
    trajectory = unroll(loop, inputs[0], *inputs[1:4])
    assert len(trajectory.params) == 4
    adjoint(loop, trajectory, *inputs[1:4], inputs[4])
    for tensor, copy in zip(inputs, before, strict=True):
        assert torch.equal(tensor, copy) and not tensor.requires_grad


def test_label_gradient_closed_form() -> None:
    problem = Problem(soft=True, steps=1)
    (batch,) = problem.batches
    augmented = problem.augmentation.draw(KEY.child(0), batch)(problem.images[batch])
    loop, direction = problem.loop(), randn(6, flat_network().size)
    params = unroll(loop, problem.start, problem.lr, problem.images, problem.labels)
    gradients = adjoint(loop, params, problem.lr, problem.images, problem.labels, direction)
    wanted = matching.label_gradient(reference_network, problem.start, direction, augmented, problem.labels[batch])
    assert gradients.labels is not None
    assert relative_error(gradients.labels[batch], -problem.lr * wanted) < 1e-12


def test_label_gradients_sum_to_zero_over_classes() -> None:
    _, gradients = Problem(soft=True, steps=15).solve()
    assert gradients.labels is not None
    assert gradients.labels.abs().max() > 0
    assert gradients.labels.sum(1).abs().max() < 1e-13 * gradients.labels.abs().max()


@soft_and_hard
@pytest.mark.parametrize("steps", [1, 7])
def test_tesla_is_its_closed_form(steps: int, soft: bool) -> None:
    """The recursion without its curvature term, and so exact for one step only."""
    problem = Problem(soft, steps, curvature=False)
    loss, gradients = problem.solve()
    closed = dict(zip(("images", "lr", "labels"), matching.tesla(*problem.arguments()), strict=False))
    assert_same(as_results(loss, gradients), {"loss": loss, **closed})
    exact = problem.reference()
    for name, value in closed.items():
        error = relative_error(value, exact[name])
        assert error < 1e-12 if steps == 1 else error > 0.01, name


@soft_and_hard
def test_truncated_to_the_last_step_is_that_step(soft: bool) -> None:
    problem = Problem(soft, steps=5, last_steps=1)
    loss, gradients = problem.solve()
    written_out = matching.last_step_gradients(*problem.arguments())
    wanted = dict(zip(("images", "lr", "labels"), written_out, strict=False))
    assert_same(as_results(loss, gradients), {"loss": loss, **wanted})


@soft_and_hard
@pytest.mark.parametrize("last_steps", [2, 4, 5, 9])
def test_truncated_is_the_gradient_of_the_last_steps(last_steps: int, soft: bool) -> None:
    problem = Problem(soft, steps=5, last_steps=last_steps)
    found = as_results(*problem.solve())
    assert_same(found, problem.reference())
    exact = replace(problem, last_steps=None).reference()
    for name in exact.keys() - {"loss"}:
        error = relative_error(found[name], exact[name])
        assert error < 1e-12 if last_steps >= 5 else error > 1e-4, name


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1, 1e-9])
def test_the_deep_part_of_the_parameters_is_matched(fraction: float) -> None:
    """At 0.5 the cut falls into the second convolution's weight, at 0.1 into that of the linear layer."""
    problem = Problem(soft=True, steps=3, matched_fraction=fraction)
    assert_same(as_results(*problem.solve()), problem.reference())
    if fraction == 1.0:
        loss, cotangent = matching_loss(problem.start + 1, problem.target, problem.start)
        difference = problem.start + 1 - problem.target
        distance = (problem.start - problem.target).square().sum()
        assert torch.equal(loss, difference.square().sum() / distance)
        assert torch.equal(cotangent, 2 * difference / distance)


SHARDED = {
    "soft": Problem(soft=True, steps=7),
    "hard": Problem(soft=False, steps=7),
    "fewer rows than workers": Problem(soft=True, steps=12, batch_size=2),
    "truncated": Problem(soft=True, steps=4, last_steps=2),
    "tesla": Problem(soft=True, steps=4, batch_size=2, curvature=False),
    "frozen": Problem(soft=True, steps=7, num_frozen=11),
    "mostly frozen": Problem(soft=False, steps=12, batch_size=2, num_frozen=19),
}


def solve_sharded() -> Results:
    found = {}
    for name, problem in SHARDED.items():
        found |= {f"{name}/{what}": value for what, value in as_results(*problem.solve()).items()}
        found[f"{name}/smallest share"] = torch.tensor(min(len(step.index) for step in problem.loop().batches))
    return found


@pytest.mark.parametrize("world", [pytest.param(3, marks=pytest.mark.slow), 2, 1])
def test_sharded_over_workers(world: int) -> None:
    results = on_workers(world, solve_sharded)
    for name, problem in SHARDED.items():
        wanted = problem.reference() if problem.curvature else as_results(*problem.solve())
        for found in results:
            assert_same({what: found[f"{name}/{what}"] for what in wanted}, wanted)
    for name in ("soft", "hard"):
        assert min(int(found[f"{name}/smallest share"]) for found in results) > 0
    if world == 3:
        assert min(int(found["fewer rows than workers/smallest share"]) for found in results) == 0


MEMORY = """
import sys, torch
from torch import nn
from raydd.networks.flat import FlatNetwork
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerLoop, InnerStep, adjoint, unroll
from raydd.networks.losses import soft_cross_entropy

torch.set_num_threads(1)
kind = sys.argv[1]
blocks = [[nn.Conv2d(c, 32, 3, padding=1), nn.GroupNorm(32, 32), nn.ReLU(), nn.AvgPool2d(2)] for c in (3, 32, 32)]
network = FlatNetwork(nn.Sequential(*sum(blocks, []), nn.Flatten(), nn.Linear(512, 10)))
images, labels = torch.randn(10, 3, 32, 32), torch.randn(10, 10)
lr, start = torch.tensor(0.01), network.flat()
target = start + 0.01 * torch.randn(network.size)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

def run(steps):
    batches = [InnerStep(torch.arange(10), 10, lambda x: x.flip(3))] * steps
    loop = InnerLoop(DifferentiatedSteps(network, soft_cross_entropy), batches)
    if kind == "adjoint":
        trajectory = unroll(loop, start, lr, images, labels)
        adjoint(loop, trajectory, lr, images, labels, 2 * (trajectory.params[-1] - target))
        return
    theta, leaf = start.clone().requires_grad_(), images.clone().requires_grad_()
    for _ in range(steps):
        loss = soft_cross_entropy(network(theta, leaf.flip(3)), labels) / 10
        theta = theta - lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    torch.autograd.grad((theta - target).square().sum(), leaf)

run(10)
run(10)
before = peak()
run(40)
print(network.size, peak() - before)
"""


ALLOWANCE_BYTES = 12 * 2**20
"""For what the allocator keeps; the activations of one step are 9 MB."""


def peak_growth(kind: str) -> tuple[int, int]:
    """P, and by how many bytes the peak rises from 10 inner steps to 40, in a process of its own."""
    with running(MEMORY, kind) as process:
        text = output(process)
    assert process.returncode == 0, text
    size, growth = map(int, text.split())
    return size, growth


@pytest.mark.slow
def test_memory_grows_by_the_stored_parameters_alone() -> None:
    size, growth = peak_growth("adjoint")
    assert growth <= 30 * size * 4 + ALLOWANCE_BYTES


@pytest.mark.slow
def test_memory_of_a_full_unroll_grows_by_hundreds_of_megabytes() -> None:
    """What the test above would find without the adjoint."""
    _, growth = peak_growth("unroll")
    assert growth > 15 * ALLOWANCE_BYTES
