"""The adjoint of the inner loop against one graph through all of its steps, in one process and in several."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from children import output, running
from reference import matching
from tiny import NETWORK, Results, on_workers, randn, relative_error
from torch import Tensor

from raydd import networks
from raydd.augment import DSA, Augmentation, Group
from raydd.functional import (
    FlatNetwork,
    InnerGradients,
    InnerLoop,
    InnerStep,
    Trajectory,
    adjoint,
    hard_cross_entropy,
    shard,
    soft_cross_entropy,
    unroll,
)
from raydd.methods.matching import matching_loss
from raydd.random import Key, seeded

KEY = Key.root(0)
GROUPS: tuple[Group, ...] = DSA().strategy
NUM_IMAGES, NUM_CLASSES, SHAPE = 20, 4, (3, 8, 8)
reference_network = partial(matching.convnet, width=NETWORK.width, depth=NETWORK.depth, num_classes=NUM_CLASSES)


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
            index = shard(batch)
            steps.append(InnerStep(index, len(batch), self.augmentation.draw(KEY.child(t), index)))
        return InnerLoop(flat_network(), soft_cross_entropy if self.soft else hard_cross_entropy, steps)

    def solve(self) -> tuple[Tensor, InnerGradients]:
        """The product's loss and gradients."""
        loop, images, labels = self.loop(), self.images, self.labels
        trajectory = unroll(loop, self.start, self.lr, images, labels)
        loss, cotangent = matching_loss(trajectory.params[-1], self.target, self.start)
        return loss, adjoint(loop, trajectory, self.lr, images, labels, cotangent)

    def reference(self) -> Results:
        """Loss and gradients from one graph."""
        leaves = {"images": self.images, "lr": self.lr} | ({"labels": self.labels} if self.soft else {})
        for leaf in leaves.values():
            leaf.requires_grad_()
        loss = matching.unrolled_loss(
            reference_network,
            self.start,
            self.target,
            leaves["lr"],
            leaves["images"],
            leaves.get("labels", self.labels),
            [batch.tolist() for batch in self.batches],
            [self.augmentation.draw(KEY.child(t), batch) for t, batch in enumerate(self.batches)],
        )
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return {"loss": loss.detach(), **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize("kept_graphs", [1, 2, 3, 9])
def test_kept_graphs_change_nothing_but_rounding(kept_graphs: int) -> None:
    problem = Problem(soft=True, steps=3)
    loop, inputs = problem.loop(), (problem.start, problem.lr, problem.images, problem.labels)
    again = [(loop, unroll(loop, *inputs)) for loop in (loop, replace(loop, kept_graphs=kept_graphs))]
    assert [len(trajectory.graphs) for _, trajectory in again] == [0, min(kept_graphs, 3)]
    plain, kept = (adjoint(loop, trajectory, *inputs[1:], problem.target) for loop, trajectory in again)
    for name in ("images", "labels", "lr"):
        assert relative_error(getattr(kept, name), getattr(plain, name)) < 1e-12, name


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


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
def test_losses_are_sums_over_the_batch(soft: bool) -> None:
    logits = 3 * randn(0, 7, 4)
    labels = 3 * randn(1, 7, 4) if soft else torch.arange(7) % 4
    found = (soft_cross_entropy if soft else hard_cross_entropy)(logits, labels)
    torch.testing.assert_close(found, 7 * matching.mean_loss(logits, labels), rtol=1e-13, atol=0)


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("steps", [1, 7, 15])
@pytest.mark.parametrize("group", GROUPS)
def test_adjoint_is_the_gradient_of_the_full_unroll(group: Group, steps: int, soft: bool) -> None:
    problem = Problem(soft, steps, augmentation=DSA(strategy=(group,)))
    assert_same(as_results(*problem.solve()), problem.reference())


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
    trajectory = unroll(loop, problem.start, problem.lr, problem.images, problem.labels)
    gradients = adjoint(loop, trajectory, problem.lr, problem.images, problem.labels, direction)
    wanted = matching.label_gradient(reference_network, problem.start, direction, augmented, problem.labels[batch])
    assert gradients.labels is not None
    assert relative_error(gradients.labels[batch], -problem.lr * wanted) < 1e-12


def test_label_gradients_sum_to_zero_over_classes() -> None:
    _, gradients = Problem(soft=True, steps=15).solve()
    assert gradients.labels is not None
    assert gradients.labels.abs().max() > 0
    assert gradients.labels.sum(1).abs().max() < 1e-13 * gradients.labels.abs().max()


@pytest.mark.parametrize("steps", [1, 7])
def test_a_constant_cotangent_gives_tesla(steps: int) -> None:
    """TESLA is the recursion without its curvature term, and so exact for one step only."""
    problem = Problem(soft=False, steps=steps)
    loop, images, labels, lr = problem.loop(), problem.images, problem.labels, problem.lr
    trajectory = unroll(loop, problem.start, lr, images, labels)
    _, cotangent = matching_loss(trajectory.params[-1], problem.target, problem.start)
    single = [
        adjoint(
            InnerLoop(loop.network, loop.loss, [step]),
            Trajectory(trajectory.params[t : t + 2]),
            lr,
            images,
            labels,
            cotangent,
        )
        for t, step in enumerate(loop.steps)
    ]
    by_images, by_lr = sum(g.images for g in single), sum(g.lr for g in single)
    wanted_images, wanted_lr = matching.tesla(
        reference_network,
        problem.start,
        problem.target,
        lr,
        images.clone().requires_grad_(),
        labels,
        [batch.tolist() for batch in problem.batches],
        [step.augment for step in loop.steps],
    )
    assert relative_error(by_images, wanted_images) < 1e-12
    assert relative_error(by_lr, wanted_lr) < 1e-12
    _, exact = problem.solve()
    if steps == 1:
        assert relative_error(exact.images, wanted_images) < 1e-12
        assert relative_error(exact.lr, wanted_lr) < 1e-12
    else:
        assert relative_error(exact.images, wanted_images) > 0.01
        assert relative_error(exact.lr, wanted_lr) > 0.01


SHARDED = {
    "soft": Problem(soft=True, steps=7),
    "hard": Problem(soft=False, steps=7),
    "fewer rows than workers": Problem(soft=True, steps=12, batch_size=2),
}


def solve_sharded() -> Results:
    found = {}
    for name, problem in SHARDED.items():
        found |= {f"{name}/{what}": value for what, value in as_results(*problem.solve()).items()}
        found[f"{name}/smallest share"] = torch.tensor(min(len(step.index) for step in problem.loop().steps))
    return found


@pytest.mark.parametrize("world", [3, 2, 1])  # all three processes start at once
def test_sharded_over_workers(world: int) -> None:
    results = on_workers(world, solve_sharded)
    for name, problem in SHARDED.items():
        wanted = problem.reference()
        for found in results:
            assert_same({what: found[f"{name}/{what}"] for what in wanted}, wanted)
    for name in SHARDED.keys() - {"fewer rows than workers"}:
        assert min(int(found[f"{name}/smallest share"]) for found in results) > 0
    if world == 3:
        assert min(int(found["fewer rows than workers/smallest share"]) for found in results) == 0


MEMORY = """
import sys, torch
from torch import nn
from raydd.functional import FlatNetwork, InnerLoop, InnerStep, adjoint, soft_cross_entropy, unroll

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
    loop = InnerLoop(network, soft_cross_entropy, [InnerStep(torch.arange(10), 10, lambda x: x.flip(3))] * steps)
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


def test_memory_grows_by_the_stored_parameters_alone() -> None:
    size, growth = peak_growth("adjoint")
    assert growth <= 30 * size * 4 + ALLOWANCE_BYTES


@pytest.mark.slow
def test_memory_of_a_full_unroll_grows_by_hundreds_of_megabytes() -> None:
    """What the test above would find without the adjoint."""
    _, growth = peak_growth("unroll")
    assert growth > 15 * ALLOWANCE_BYTES
