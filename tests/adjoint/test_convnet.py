"""The ConvNet's written-out equations against automatic differentiation, in float64."""

from dataclasses import replace

import pytest
import torch

from raydd import networks
from raydd.adjoint.compiled_steps import WrittenSteps
from raydd.adjoint.convnet import ConvNetSteps
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerBatch, InnerLoop, InnerStep, adjoint, unroll
from raydd.core.keyed_random import Key, seeded
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.networks.traits import Shape
from tests.support.tiny import randn
from tests.support.tiny import relative_error as relative

CLASSES = 10
WEIGHTS = torch.tensor([1.0, 1.0, 0.5, 2.0, 0.0], dtype=torch.float64) / 5
"""Of five images; the last only fills the batch."""


def network_of(config: NetworkConfig, shape: Shape) -> FlatNetwork:
    with seeded(Key.root(0)):
        return FlatNetwork(networks.build(config, shape, CLASSES).double())


@pytest.mark.parametrize(
    "shape, depth, width",
    [((3, 32, 32), 3, 8), ((1, 28, 28), 3, 5), ((1, 8, 8), 2, 4), ((3, 16, 32), 2, 9), ((9, 8, 8), 1, 3)],
)
def test_gradient_and_derivative_are_those_of_autograd(shape: Shape, depth: int, width: int) -> None:
    config = NetworkConfig(width=width, depth=depth)
    network = network_of(config, shape)
    steps = ConvNetSteps.of(network, config, shape)
    assert steps is not None
    params = (network.flat() + 0.1 * randn(0, network.size)).requires_grad_()
    images = randn(1, len(WEIGHTS), *shape).requires_grad_()
    targets = randn(2, len(WEIGHTS), CLASSES).softmax(1).requires_grad_()
    direction = randn(3, network.size)
    loss = -(WEIGHTS * (targets * network(params, images).log_softmax(1)).sum(1)).sum()
    (gradient,) = torch.autograd.grad(loss, params, create_graph=True)
    value = gradient @ direction
    by_params, by_images, by_targets = torch.autograd.grad(value, (params, images, targets))

    with torch.no_grad():
        gradient_found, kept = steps.gradient(params, images, targets, WEIGHTS)
        again = steps.derivative(params, images, targets, WEIGHTS, direction, kept=kept)
        found = steps.derivative(params, images, targets, WEIGHTS, direction)
        assert relative(gradient_found, gradient.detach()) < 1e-13
    assert relative(found.value, value.detach()) < 1e-12
    assert relative(found.by_params, by_params) < 1e-13
    assert relative(found.by_images, by_images) < 1e-13
    # targets that keep their sum: a constant added to all classes of an image means nothing
    by_targets = by_targets - (targets * by_targets).sum(1, keepdim=True)
    assert relative(found.by_targets - (targets * found.by_targets).sum(1, keepdim=True), by_targets) < 1e-13
    assert not found.by_images[-1].any()
    for ours, kept_ones in zip(found, again, strict=True):
        assert relative(kept_ones, ours) < 1e-14
    assert sum(t.numel() for part in kept for t in part) == len(WEIGHTS) * steps.kept_values


@pytest.mark.parametrize(
    "config, shape",
    [
        (NetworkConfig(width=4, norm="none"), (3, 32, 32)),
        (NetworkConfig(width=4, norm="batch"), (3, 32, 32)),
        (NetworkConfig(width=4, depth=2), (3, 30, 30)),
        (NetworkConfig(name="mlp"), (3, 32, 32)),
    ],
)
def test_other_networks_are_left_to_autograd(config: NetworkConfig, shape: Shape) -> None:
    assert ConvNetSteps.of(network_of(config, shape), config, shape) is None


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("curvature", [True, False])
@pytest.mark.parametrize("kept_steps", [0, 2, 9])
def test_the_adjoint_is_the_same_by_either(soft: bool, curvature: bool, kept_steps: int) -> None:
    """Ragged batches too, which are filled up to one shape."""
    config, shape = NetworkConfig(width=4, depth=2), (3, 8, 8)
    network = network_of(config, shape)
    images, labels = randn(1, 7, *shape), randn(2, 7, CLASSES) if soft else torch.arange(7)
    batches = [torch.tensor(rows) for rows in ([6], [0, 2, 4], [1, 5, 3], [2, 0])]
    steps = [InnerStep(rows, len(rows), lambda x: x.flip(3) * 0.9) for rows in batches]
    equations = ConvNetSteps.of(network, config, shape)
    assert equations is not None
    differentiated = DifferentiatedSteps(network, soft_cross_entropy if soft else hard_cross_entropy)
    loop = InnerLoop(differentiated, steps, curvature=curvature)
    written = replace(loop, steps=WrittenSteps(equations, 3, compiled=False), kept_steps=kept_steps)
    start, lr, cotangent = network.flat(), torch.tensor(0.1, dtype=torch.float64), randn(3, network.size)

    found, wanted = (
        adjoint(own, unroll(own, start, lr, images, labels), lr, images, labels, cotangent) for own in (written, loop)
    )
    assert relative(found.images, wanted.images) < 1e-12
    assert relative(found.lr, wanted.lr) < 1e-12
    if soft:
        assert found.labels is not None and wanted.labels is not None
        assert relative(found.labels, wanted.labels) < 1e-12
    else:
        assert found.labels is None


@pytest.mark.slow
def test_compiled_steps_are_the_same_steps() -> None:
    config, shape = NetworkConfig(width=4, depth=1), (3, 8, 8)
    with seeded(Key.root(0)):
        network = FlatNetwork(networks.build(config, shape, CLASSES))
    steps = WrittenSteps.of(network, config, shape, rows=4)
    assert steps is not None
    equations = ConvNetSteps.of(network, config, shape)
    assert equations is not None
    eager = WrittenSteps(equations, 4, compiled=False)
    params, cotangent = network.flat(), randn(3, network.size).float()
    batch, labels = randn(1, 3, *shape).float(), randn(2, 3, CLASSES).float()
    for own in (InnerBatch(batch, labels, 3), InnerBatch(batch, labels.argmax(1), 3)):
        (gradient, kept), (wanted_gradient, _) = (which.gradient(params, own) for which in (steps, eager))
        assert relative(gradient, wanted_gradient) < 1e-5
        found, wanted = (
            steps.pull_back(params, own, cotangent, True, kept),
            eager.pull_back(params, own, cotangent, True),
        )
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or theirs is None or relative(ours, theirs) < 1e-5
