"""How fast this machine does what a run is made of, found by doing a little of it.

Every kind of work is a step or a prediction, of at most as many images as the run gives it: as many as take a moment,
and the larger the faster. So it takes seconds, and is right to a third or so; what compiling saves it does not know.
"""

import json
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import torch

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core import process
from raydd.data import DataFacts
from raydd.evaluation.students.trials import Trial
from raydd.networks.config import NetworkConfig
from raydd.plan.distill import stage_cost
from raydd.plan.made_first import stated
from raydd.plan.rates import LegKind, Rates, leg_kind
from raydd.plan.students import num_trained_on, trials_of
from raydd.storage import content_key
from raydd.training.cost import PREDICT_BATCH, WorkSample, gradient_step, predicting
from raydd.training.loop import Training, predict
from raydd.training.recipe import Recipe
from raydd.training.stand_in import STAND_IN_KEY, network_on, random_images, some_labels

MOMENT: Final = 0.15
"""Seconds that are enough to time."""
FEWEST: Final = 2
"""Images with which to begin; batch norms cannot do with one."""
_OF_NO_STEP: Final = ("epochs", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "temperature")
"""What of a recipe changes nothing about the time of a step."""

MeasuredWork = Callable[[], object]


def measure(
    config: RunConfig,
    facts: DataFacts,
    works: Sequence[str],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    known: MutableMapping[str, float] | None = None,
    only_known: bool = False,
) -> Rates:
    """The FLOP/s of one process, or GPU, at these kinds of work.

    Args:
        config: the run.
        facts: the dataset's size.
        works: as in `jobs.works_of`.
        device: where to do it.
        clock: in seconds; that of the process leaves out what others take of its processors.
        known: FLOP/s of work that was measured before, by its key; what is measured now is added.
        only_known: measure nothing.

    Raises:
        LookupError: nothing is to be measured, and a kind of work is not known.
    """
    if not only_known:
        process.set_up(config.cluster.threads_per_worker)
    bench = _Bench(config, facts, device, clock, {} if known is None else known, only_known)
    kinds = bench.students() if "evaluate" in works else {}
    rates = {work: bench.rate(work) for work in works if work != "evaluate"}
    if kinds:
        rates["evaluate"] = next(iter(kinds.values()))
    return Rates(flops_per_second=rates, sources=dict.fromkeys(rates, "measured here"), students=kinds)


class _Bench:
    """Random images of the dataset's size."""

    def __init__(
        self,
        config: RunConfig,
        facts: DataFacts,
        device: torch.device,
        clock: Callable[[], float],
        known: MutableMapping[str, float],
        only_known: bool,
    ) -> None:
        self.config, self.facts, self.device, self.clock = config, facts, device, clock
        self.known, self.only_known = known, only_known

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
            case "select":
                return self._training(config.network, config.evaluate.selector, self.facts.num_train)
            case "distill":
                return self._distilling()
            case _ if (own := stated(config, self.facts).get(work)) is not None and own.sample is not None:
                return self._sampled(work, own.sample)
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
            shown, module = replace(recipe, batch_size=rows), network_on(network, self.facts, self.device)
            images, labels = (of(self.facts, rows, self.device) for of in (random_images, some_labels))
            training = Training([module], images, labels, shown, [STAND_IN_KEY])
            return lambda: training.run_epoch(0)

        most = min(recipe.batch_size, num_images)
        step = {name: value for name, value in recipe.identity().items() if name not in _OF_NO_STEP}
        return self._once(
            {"training": asdict(network), "recipe": step, "most": most},
            lambda: self._rate(make, most, lambda rows: recipe.passes * gradient_step(network, self.facts, rows).flops),
        )

    def _predicting(self, network: NetworkConfig) -> float:
        def make(rows: int) -> MeasuredWork:
            module, images = (
                network_on(network, self.facts, self.device).eval(),
                random_images(self.facts, rows, self.device),
            )
            return lambda: predict(module, images)

        flops = predicting(network, self.facts).flops_of
        return self._once({"predicting": asdict(network)}, lambda: self._rate(make, PREDICT_BATCH, flops))

    def _distilling(self) -> float:
        """By what the method's iterations mostly are, as it states; by default a prediction, or a training."""
        sample = stage_cost(self.config, self.facts, 0).sample
        if sample is not None:
            return self._sampled("distill", sample)
        if "teacher" in self.config.method.made_first:
            return self._predicting(self.config.teacher_network)
        return self._training(self.config.network, Recipe(batch_size=256, lr=1e-3), self.facts.num_train)

    def _sampled(self, work: str, sample: WorkSample) -> float:
        """Of what a method states: whatever of the config its sample may go by is in the key."""
        plain = configs.to_mapping(self.config)
        parts = {name: plain[name] for name in ("method", "network", "teacher", "experts", "stages")}
        plain["method"].pop("iterations", None)
        return self._once(
            {"sample": work, "most": sample.most, "num_train": self.facts.num_train, **parts},
            lambda: self._rate(lambda rows: sample.make(rows, self.device), sample.most, sample.flops),
        )

    def _once(self, identity: dict[str, Any], measured: Callable[[], float]) -> float:
        """What is known of this work on such images, or what is measured now."""
        images = {"shape": list(self.facts.shape), "num_classes": self.facts.num_classes}
        key = content_key(json.loads(json.dumps({**identity, **images}, default=str)))
        if key not in self.known:
            if self.only_known:
                raise LookupError(key)
            self.known[key] = measured()
        return self.known[key]

    def _rate(self, make: Callable[[int], MeasuredWork], most: int, flops: Callable[[int], float]) -> float:
        """FLOP/s of work on ever more images, until it takes a moment or these are all.

        Args:
            make: sets up the work on so many images.
            most: images.
            flops: of the work on so many.
        """
        rows = min(FEWEST, most)
        while True:
            seconds = self._seconds(make(rows))
            if seconds >= MOMENT or rows >= most:
                return flops(rows) / seconds
            rows = min(2 * rows if seconds > MOMENT / 8 else 8 * rows, most)

    def _seconds(self, work: MeasuredWork) -> float:
        """What it takes when it is done again, on average over a moment."""
        work()
        _settle()
        began, times = self.clock(), 0
        while times == 0 or self.clock() - began < MOMENT:
            work()
            _settle()
            times += 1
        return (self.clock() - began) / times


def _settle() -> None:
    """Wait until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
