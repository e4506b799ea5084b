"""`raydd bench matching`: one outer iteration by the adjoint against a plain unroll that keeps one graph of all steps.

Letters: B batch, T inner steps, P flat parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydd import networks
from raydd.adjoint.compiled_steps import WrittenSteps
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerLoop, InnerStep, adjoint, unroll
from raydd.bench.comparison import compare, here
from raydd.core import keyed_random, process
from raydd.core.keyed_random import Key
from raydd.methods.trajectory.matching import inner_gradient, matching_loss
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.training.dsa import DSA

KEY = Key.root(0)
SHAPE, NUM_CLASSES = (3, 32, 32), 10


@dataclass(frozen=True, kw_only=True)
class MatchingBench:
    """What is measured: 32x32 colour images, ten classes, the ConvNet of depth 3, DSA on both sides."""

    width: int = 32
    synthetic_steps: int = 20
    """T."""
    batch_size: int = 100
    """B, the whole synthetic set."""
    hard_labels: bool = False
    """MTT's classes instead of DATM's learned logits, on both sides."""
    gradient: str = "exact"
    """As `method.gradient`; the plain side is always exact."""
    compile: bool = True
    """As `cluster.compile`."""
    kept_steps: int = 10
    """As `cluster.kept_steps`."""
    threads: int = 1
    pairs: int = 7
    """Timed pairs; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure; see `compare`. `gradient_error` is the relative difference of the images' gradients."""
        process.set_up(self.threads)
        measured = compare(MatchingProblem, self, compiled=self.compile, threads=self.threads, pairs=self.pairs)
        problem = MatchingProblem(self)
        plain = problem.plain()
        return {**measured, "gradient_error": float((problem.ours() - plain).norm() / plain.norm())}


class MatchingProblem:
    """Random images, labels and a segment of the size asked for."""

    def __init__(self, bench: MatchingBench) -> None:
        """Draw everything from fixed keys."""
        device = here()
        config = NetworkConfig(width=bench.width)
        with keyed_random.seeded(KEY):
            network = FlatNetwork(networks.build(config, SHAPE, NUM_CLASSES).to(device))
            self.images = torch.randn(bench.batch_size, *SHAPE).to(device)
            self.labels = torch.randn(bench.batch_size, NUM_CLASSES).to(device)
            if bench.hard_labels:
                self.labels = self.labels.argmax(1)
            self.start = network.flat()
            self.target = self.start + 0.01 * torch.randn(network.size).to(device)
        self.lr = torch.tensor(0.01, device=device)
        rows = torch.arange(bench.batch_size, device=device)
        draws = (DSA().draw(KEY.child(t), rows) for t in range(bench.synthetic_steps))
        steps = [InnerStep(rows, bench.batch_size, draw) for draw in draws]
        self.network = network
        compiled = WrittenSteps.of(network, config, SHAPE, bench.batch_size) if bench.compile else None
        self.loss = hard_cross_entropy if bench.hard_labels else soft_cross_entropy
        ways = compiled or DifferentiatedSteps(network, self.loss)
        self.loop = InnerLoop(ways, steps, bench.kept_steps, *inner_gradient(bench.gradient))

    def ours(self) -> Tensor:
        """The product's way; returns the gradient of the images."""
        trajectory = unroll(self.loop, self.start, self.lr, self.images, self.labels)
        _, cotangent = matching_loss(trajectory.params[-1], self.target, self.start)
        return adjoint(self.loop, trajectory, self.lr, self.images, self.labels, cotangent).images

    def plain(self) -> Tensor:
        """One graph through all steps, as the papers' code has it."""
        images, lr = (t.clone().requires_grad_() for t in (self.images, self.lr))
        labels = self.labels.clone().requires_grad_(self.labels.is_floating_point())
        theta = self.start.clone().requires_grad_()
        for step in self.loop.batches:
            logits = self.network(theta, step.augment(images[step.index]))
            loss = self.loss(logits, labels[step.index]) / step.batch_size
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - lr * gradient
        loss, _ = matching_loss(theta, self.target, self.start)
        return torch.autograd.grad(loss, [images, lr, *([labels] if labels.requires_grad else [])])[0]
