"""How fast this machine does what a run is made of, found by doing a little of it.

Every kind of work is a step or a prediction, of at most as many images as the run gives it: as many as take a moment,
and the larger the faster. So it takes seconds, and is right to a third or so; what compiling saves it does not know.

Letters: B batch, C H W.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydd import networks
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerLoop, InnerStep, adjoint, unroll
from raydd.config import RunConfig
from raydd.core import keyed_random, process
from raydd.core.keyed_random import Key
from raydd.data import DataFacts
from raydd.evaluation.students.trials import Trial
from raydd.methods.decoupled.family import RecoverConfig
from raydd.methods.decoupled.moments import bn_loss, measuring
from raydd.methods.trajectory.matching import MatchingConfig, inner_gradient
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.plan.cost import PREDICT_BATCH, gradient_step, matching_step, predicting, recover_step
from raydd.plan.rates import LegKind, Rates, leg_kind
from raydd.plan.sizes import num_synthetic
from raydd.plan.students import num_trained_on, trials_of
from raydd.training.loop import Training, predict
from raydd.training.recipe import Recipe

KEY: Final = Key.root(0)
MOMENT: Final = 0.15
"""Seconds that are enough to time."""
FEWEST: Final = 2
"""Images with which to begin; batch norms cannot do with one."""

MeasuredWork = Callable[[], object]


def measure(config: RunConfig, facts: DataFacts, works: Sequence[str], device: torch.device) -> Rates:
    """The FLOP/s of one process, or GPU, at these kinds of work.

    Args:
        config: the run.
        facts: the dataset's size.
        works: as in `jobs.works_of`.
        device: where to do it.
    """
    process.set_up(config.cluster.threads_per_worker)
    bench = _Bench(config, facts, device)
    kinds = bench.students() if "evaluate" in works else {}
    rates = {work: bench.rate(work) for work in works if work != "evaluate"}
    if kinds:
        rates["evaluate"] = next(iter(kinds.values()))
    return Rates(flops_per_second=rates, sources=dict.fromkeys(rates, "measured here"), students=kinds)


class _Bench:
    """Random images of the dataset's size."""

    def __init__(self, config: RunConfig, facts: DataFacts, device: torch.device) -> None:
        self.config, self.facts, self.device = config, facts, device

    def rate(self, work: str) -> float:
        """Of one kind of work, but for that of students."""
        config = self.config
        match work:
            case "experts":
                return self._training(config.network, config.experts.training, self.facts.num_train)
            case "teacher":
                return self._training(config.teacher_network, config.teacher.training, self.facts.num_train)
            case "forgetting":
                assert config.stages.filter is not None
                return self._training(config.network, config.stages.filter.scoring, self.facts.num_train)
            case "distill":
                return self._distilling()
            case _:
                return self._predicting(config.teacher_network)

    def students(self) -> dict[LegKind, float]:
        """Of each kind of training; those of equal networks and batches are measured once."""
        found: dict[tuple[str, int, int], float] = {}
        rates: dict[LegKind, float] = {}
        for leg in (leg for trial in trials_of(self.config, self.facts) for leg in trial.legs()):
            num_images = num_trained_on(self.config, self.facts, leg)
            like = (leg.network.label, min(leg.recipe.batch_size, num_images), leg.recipe.passes)
            if like not in found:
                found[like] = self._student(leg, num_images)
            rates[leg_kind(leg)] = found[like]
        return rates

    def _student(self, leg: Trial, num_images: int) -> float:
        recipe = replace(leg.recipe, views=None, lr=leg.recipe.lr or 1e-3)
        return self._training(leg.network, recipe, num_images)

    def _training(self, network: NetworkConfig, recipe: Recipe, num_images: int) -> float:
        def make(rows: int) -> MeasuredWork:
            shown = replace(recipe, batch_size=rows)
            training = Training([self._network(network)], self._images(rows), self._labels(rows), shown, [KEY])
            return lambda: training.run_epoch(0)

        return _rate(
            make,
            min(recipe.batch_size, num_images),
            lambda rows: recipe.passes * gradient_step(network, self.facts, rows).flops,
        )

    def _predicting(self, network: NetworkConfig) -> float:
        def make(rows: int) -> MeasuredWork:
            module, images = self._network(network).eval(), self._images(rows)
            return lambda: predict(module, images)

        return _rate(make, PREDICT_BATCH, predicting(network, self.facts).flops_of)

    def _distilling(self) -> float:
        """By what the method's iterations mostly are: inner steps, images on their way through a teacher, gradients."""
        config, method = self.config, self.config.method
        if isinstance(method, MatchingConfig):
            return self._matching(method)
        if isinstance(method, RecoverConfig):
            return self._recovering(method)
        if method.works_on == "teacher":
            return self._predicting(config.teacher_network)
        return self._training(config.network, Recipe(batch_size=256, lr=1e-3), self.facts.num_train)

    def _matching(self, method: MatchingConfig) -> float:
        soft, (curvature, _) = method.has_soft_labels, inner_gradient(method.gradient)
        flat = FlatNetwork(self._network(self.config.network))
        steps = DifferentiatedSteps(flat, soft_cross_entropy if soft else hard_cross_entropy)

        def make(rows: int) -> MeasuredWork:
            images, index = self._images(rows), torch.arange(rows, device=self.device)
            labels = F.one_hot(self._labels(rows), self.facts.num_classes).float() if soft else self._labels(rows)
            loop = InnerLoop(steps, [InnerStep(index, rows, lambda images_BCHW: images_BCHW)], curvature=curvature)
            theta, lr = flat.flat(), torch.tensor(0.01, device=self.device)
            return lambda: adjoint(loop, unroll(loop, theta, lr, images, labels), lr, images, labels, theta)

        images = num_synthetic(self.config, self.facts)
        return _rate(
            make,
            min(method.synthetic_batch_size or images, images),
            lambda rows: matching_step(self.config.network, self.facts, rows, soft, curvature).flops,
        )

    def _recovering(self, method: RecoverConfig) -> float:
        network = self.config.teacher_network
        module = self._network(network).eval().requires_grad_(False)
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]

        def make(rows: int) -> MeasuredWork:
            images, labels = self._images(rows).requires_grad_(), self._labels(rows)
            averages = torch.full((1, rows), 1 / rows, dtype=torch.float64, device=self.device)

            def step() -> None:
                with measuring(norms, averages) as distances:
                    loss = F.cross_entropy(module(images), labels).double()
                torch.autograd.grad(loss + bn_loss(distances, 1.0).sum(), images)

            return step

        return _rate(
            make,
            len(method.rows(0, self.facts.num_classes).labels),
            lambda rows: recover_step(network, self.facts, rows, 1, torch.float32).flops,
        )

    def _network(self, network: NetworkConfig) -> nn.Module:
        with keyed_random.seeded(KEY):
            return networks.build(network, self.facts.shape, self.facts.num_classes).to(self.device)

    def _images(self, rows: int) -> Tensor:
        with keyed_random.seeded(KEY):
            return torch.randn(rows, *self.facts.shape).to(self.device)

    def _labels(self, rows: int) -> Tensor:
        return torch.arange(rows, device=self.device) % self.facts.num_classes


def _rate(make: Callable[[int], MeasuredWork], most: int, flops: Callable[[int], float]) -> float:
    """FLOP/s of work on ever more images, until it takes a moment or these are all.

    Args:
        make: sets up the work on so many images.
        most: images.
        flops: of the work on so many.
    """
    rows = min(FEWEST, most)
    while True:
        seconds = _seconds(make(rows))
        if seconds >= MOMENT or rows >= most:
            return flops(rows) / seconds
        rows = min(2 * rows if seconds > MOMENT / 8 else 8 * rows, most)


def _seconds(work: MeasuredWork) -> float:
    """What it takes when it is done again, on average over a moment."""
    work()
    _settle()
    began, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - began < MOMENT:
        work()
        _settle()
        times += 1
    return (time.perf_counter() - began) / times


def _settle() -> None:
    """Wait until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
