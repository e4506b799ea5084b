"""`raydd bench matching`: one outer iteration by the adjoint against a plain unroll that keeps one graph of all steps.

Letters: B batch, T inner steps, P flat parameters.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from raydd import networks, process, random
from raydd.augment import DSA
from raydd.functional import FlatNetwork, InnerLoop, InnerStep, adjoint, soft_cross_entropy, unroll
from raydd.methods.matching import matching_loss
from raydd.networks import NetworkConfig
from raydd.random import Key

KEY = Key.root(0)


@dataclass(frozen=True, kw_only=True)
class MatchingBench:
    """What is measured: 32x32 colour images, ten classes, soft labels, the ConvNet of depth 3, DSA on both sides."""

    width: int = 32
    synthetic_steps: int = 20
    """T."""
    batch_size: int = 100
    """B, the whole synthetic set."""
    kept_graphs: int = 6
    """As `cluster.kept_graphs`."""
    threads: int = 1
    pairs: int = 7
    """Timed pairs; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure.

        Returns:
            seconds of both sides (medians), the median of the ratios pair by pair and its extremes, peak memory of
            each side in a process of its own above what it takes once everything is set up, and the relative error of
            the image gradient between the two.
        """
        process.set_up(self.threads)
        problem = _Problem(self)
        ours, plain = problem.adjoint(), problem.plain()
        pairs = [(_seconds(problem.adjoint), _seconds(problem.plain)) for _ in range(self.pairs)]
        ratios = sorted(a / b for a, b in pairs)
        memory = {side: self._peak_bytes(side) for side in ("adjoint", "plain")}
        return {
            "adjoint_seconds": median(a for a, _ in pairs),
            "plain_seconds": median(b for _, b in pairs),
            "time_ratio": median(ratios),
            "time_ratio_min": ratios[0],
            "time_ratio_max": ratios[-1],
            "adjoint_peak_bytes": memory["adjoint"],
            "plain_peak_bytes": memory["plain"],
            "memory_ratio": memory["adjoint"] / memory["plain"],
            "gradient_error": float((ours - plain).norm() / plain.norm()),
        }

    def _peak_bytes(self, side: str) -> int:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_peak_of, (self, side))


class _Problem:
    """Random images, labels and a segment of the size asked for."""

    def __init__(self, bench: MatchingBench) -> None:
        with random.seeded(KEY):
            self.network = FlatNetwork(networks.build(NetworkConfig(width=bench.width), (3, 32, 32), 10))
            self.images, self.labels = torch.randn(bench.batch_size, 3, 32, 32), torch.randn(bench.batch_size, 10)
            self.start = self.network.flat()
            self.target = self.start + 0.01 * torch.randn_like(self.start)
        self.lr = torch.tensor(0.01)
        rows = torch.arange(bench.batch_size)
        draws = (DSA().draw(KEY.child(t), rows) for t in range(bench.synthetic_steps))
        steps = [InnerStep(rows, bench.batch_size, draw) for draw in draws]
        self.loop = InnerLoop(self.network, soft_cross_entropy, steps, bench.kept_graphs)

    def adjoint(self) -> Tensor:
        """The product's way; returns the gradient of the images."""
        trajectory = unroll(self.loop, self.start, self.lr, self.images, self.labels)
        _, cotangent = matching_loss(trajectory.params[-1], self.target, self.start)
        return adjoint(self.loop, trajectory, self.lr, self.images, self.labels, cotangent).images

    def plain(self) -> Tensor:
        """One graph through all steps, as the papers' code has it."""
        images, labels, lr = (t.clone().requires_grad_() for t in (self.images, self.labels, self.lr))
        theta = self.start.clone().requires_grad_()
        for step in self.loop.steps:
            logits = self.network(theta, step.augment(images[step.index]))
            loss = soft_cross_entropy(logits, labels[step.index]) / step.batch_size
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - lr * gradient
        loss, _ = matching_loss(theta, self.target, self.start)
        return torch.autograd.grad(loss, [images, labels, lr])[0]


def _seconds(work: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak_of(bench: MatchingBench, side: str) -> int:
    """Peak memory of one side in this process, in bytes above what it takes before."""
    process.set_up(bench.threads)
    problem = _Problem(bench)
    before = process.peak_memory_bytes()
    getattr(problem, side)()
    return process.peak_memory_bytes() - before
