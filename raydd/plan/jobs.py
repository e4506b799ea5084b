"""The jobs of a run on N GPUs, and which of them wait for which, as the executor on Ray deals them out.

Experts, parts of the ranking, epochs of labels and students are worked off by actors or trials, as many on a GPU as
`cluster.experts_per_gpu` says where there are enough of them. Teacher and distilling hold `cluster.num_workers` GPUs:
they share the rows of a batch, or the classes that are compared, and sum what they find; class groups, networks of a
pool and trajectories of later stages are dealt by number. Students that go through the stages train beside later stages
on GPUs that are left.

The rows of a batch are taken to cost the same however few a GPU has of them, and jobs on one GPU to share its time.
Left out are the start of Ray and of its processes, reading and writing, and the report.

Letters: B batch, K classes, P parameters, T inner steps, W workers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from raydd import networks
from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.evaluation.students.trials import LabelStore, Trial, alike
from raydd.ingredients.ranking import PART
from raydd.methods import DCConfig, DSAConfig, IDCConfig
from raydd.methods.trajectory.matching import MatchingConfig, inner_gradient
from raydd.networks.config import NetworkConfig
from raydd.plan import condensation, decoupled, stages, students, trajectories
from raydd.plan.cost import network_size, predicting, training
from raydd.plan.rates import Rates
from raydd.plan.simulation import SimulatedJob
from raydd.plan.sizes import num_synthetic, set_bytes

EXCHANGE = ", all-reduce"
"""Follows the name of a part whose workers sum what they have found."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What lies between GPUs."""

    bytes_per_second: float = 1e10
    """Of the slowest of it; the default is a network of 100 Gbit/s in use at four fifths."""
    hop_seconds: float = 2e-5
    """Until a message is there."""

    def all_reduce(self, size: float, workers: int) -> float:
        """Seconds to sum so many bytes over workers: each travels twice but for its share, in a tree there and back.

        Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
        """
        if workers == 1:
            return 0.0
        hops = 2 * math.ceil(math.log2(workers))
        return 2 * (workers - 1) / workers * size / self.bytes_per_second + hops * self.hop_seconds


def works_of(config: RunConfig) -> list[str]:
    """The kinds of work whose rates `jobs_of` asks for."""
    own = {"trajectories": ["experts"], "teacher": ["teacher"], "data": list[str]()}[config.method.works_on]
    if config.method.uses_ranking:
        own.append("rank")
    if config.stages.filter is not None and config.stages.filter.needs_scores:
        own.append("forgetting")
    if config.uses_pool(config.stages.count - 1):
        own.append("transition")
    if config.method.name != "imported":
        own.append("distill")
    if config.method.works_on == "teacher" and "replayed" in config.evaluate.regimes(config.method):
        own.append("relabel")
    return [*own, "evaluate"]


def jobs_of(config: RunConfig, facts: DataFacts, rates: Rates, gpus: int, link: Link) -> tuple[SimulatedJob, ...]:
    """All jobs of a run, in the order in which they are come to, but for the preparation of the data."""
    made = _Jobs(config, facts, rates, gpus, link)
    if config.method.works_on == "trajectories":
        made.experts()
    if config.method.works_on == "teacher":
        made.teacher()
    if config.method.uses_ranking:
        made.rank()
    if config.stages.filter is not None and config.stages.filter.needs_scores:
        made.alone("forgetting", stages.forgetting(config, facts).flops)
    made.distill()
    made.evaluate()
    return tuple(made.jobs)


@dataclass
class _Jobs:
    """The jobs so far."""

    config: RunConfig
    facts: DataFacts
    rates: Rates
    gpus: int
    link: Link
    jobs: list[SimulatedJob] = field(default_factory=list)
    done: tuple[int, ...] = ()
    """What has to be finished before the next job begins."""

    @property
    def workers(self) -> int:
        """W."""
        asked = self.config.cluster.num_workers
        return self.gpus if asked == "auto" else min(asked, self.gpus)

    def alone(self, work: str, flops: float) -> None:
        """What one process does."""
        self._then([SimulatedJob(part=work, seconds=self.rates.seconds(work, flops), after=self.done)])

    def pool(self, part: str, seconds: Sequence[float], count: int | None = None) -> None:
        """What actors or trials work off; they are `count`, so that this many want room on the GPUs."""
        per_machine = self._share(len(seconds) if count is None else count)
        self._then([SimulatedJob(part=part, seconds=one, after=self.done, per_machine=per_machine) for one in seconds])

    def shared(self, part: str, seconds: float, share: float, exchange: float) -> None:
        """What all workers do together.

        Args:
            part: what it is.
            seconds: of one worker alone.
            share: of the work, what the worker with the most has.
            exchange: seconds that workers wait for each other's sums.
        """
        for name, taken in ((part, seconds * share), (part + EXCHANGE, exchange)):
            if taken:
                held = (0, self.workers)
                self._then([SimulatedJob(part=name, seconds=taken, after=self.done, machines=self.workers, among=held)])

    def dealt(self, part: str, seconds: Sequence[float]) -> None:
        """What is dealt to the workers by number, and is waited for."""
        shares = [sum(seconds[rank :: self.workers]) for rank in range(self.workers)]
        jobs = [
            SimulatedJob(part=part, seconds=one, after=self.done, among=(r, r + 1))
            for r, one in enumerate(shares)
            if one
        ]
        self._then(jobs)

    def experts(self) -> None:
        """Packs of experts."""
        count = self.config.experts.count
        flops = trajectories.experts(stages.alone(self.config, self.facts, 0), self.facts, 0).flops
        sizes = _pieces(count, trajectories.pack_size(self.config, count))
        self.pool("experts", [self.rates.seconds("experts", flops * size / count) for size in sizes], count)

    def teacher(self) -> None:
        """Its epochs, then its test; or that alone, where it is taken over."""
        config, facts, recipe = self.config, self.facts, self.config.teacher.training
        flops = decoupled.teacher(config, facts).flops
        if config.teacher.weights is None:
            network = config.teacher_network
            trained = training(network, recipe, facts, facts.num_train, 0).flops
            exchange = recipe.steps(facts.num_train) * self._gradient_exchange(network)
            share = part_of(min(recipe.batch_size, facts.num_train), self.workers)
            self.shared("teacher", self.rates.seconds("teacher", trained), share, exchange)
            flops -= trained
        self.alone("teacher", flops)

    def rank(self) -> None:
        """The parts of the training images."""
        flops, whole = decoupled.rank(self.config, self.facts).flops, self.facts.num_train
        self.pool("rank", [self.rates.seconds("rank", flops * part / whole) for part in _pieces(whole, PART)])

    def distill(self) -> None:
        """The stages one after the other, and beside them students that go through those that are finished."""
        chained = [trial for trial in students.trials_of(self.config, self.facts) if trial.mode != "single_shot"]
        finished: list[tuple[int, ...]] = []
        for stage in range(self.config.stages.count):
            if self.config.uses_pool(stage):
                flops = stages.transition_stage(self.config, self.facts, stage).flops
                self.dealt("transition", self._networks("transition", flops))
            if self.config.uses_trajectories(stage):
                flops = trajectories.experts(stages.alone(self.config, self.facts, stage), self.facts, 0).flops
                self.dealt("experts of later stages", self._networks("experts", flops))
            self._distill(stage)
            finished.append(self.done)
        self._beside(chained, finished)

    def evaluate(self) -> None:
        """Labels and the choice of real images first, then students, without what they have been through."""
        config, facts = self.config, self.facts
        trials = students.trials_of(config, facts)
        if stores := LabelStore.needed(trials, config.evaluate.label_epochs):
            flops, epochs = decoupled.relabel(config, facts).flops, sum(store.epochs for store in stores)
            for store in stores:
                self.pool("relabel", [self.rates.seconds("relabel", flops / epochs)] * store.epochs)
        chosen = sum(step.flops for step in students.selecting(config, facts, trials))
        if chosen:
            self.alone("select", chosen)
        legs = [leg for trial in trials for leg in trial.legs()]
        trained = sum(students.training_on(config, facts, leg).flops for leg in legs)
        looking = (students.evaluate(config, facts).flops - chosen - trained) / len(trials)
        size = 1 if config.cluster.pack == "auto" else config.cluster.pack
        packs = [group[first : first + size] for group in alike(trials) for first in range(0, len(group), size)]
        seconds = [sum(self._student(trial.legs()[-1], looking) for trial in pack) for pack in packs]
        self.pool("evaluate", seconds, len(trials))

    def _distill(self, stage: int) -> None:
        """The images of a stage."""
        like, step = stages.alone(self.config, self.facts, stage), stages.distill_stage(self.config, self.facts, stage)
        method = like.method
        if isinstance(method, MatchingConfig):
            self._match(like, step.flops, stages.num_frozen(self.config, self.facts, stage))
        elif method.works_on == "teacher":
            packs = _pieces(step.units, self.config.cluster.groups_at_once)
            self.dealt("distill", [self.rates.seconds("distill", step.flops * pack / step.units) for pack in packs])
        elif method.name != "imported":
            self._condense(like, step.flops)

    def _match(self, like: RunConfig, flops: int, frozen: int) -> None:
        """Outer iterations, with two all-reduces of P floats for an inner step; every worker reads the start itself."""
        method, facts = like.matching, self.facts
        images, soft = num_synthetic(like, facts), method.has_soft_labels
        start = soft * predicting(like.network, facts).flops_of(like.experts.count * images)
        self.alone("distill", start)
        curvature, last = inner_gradient(method.gradient)
        size = 4 * network_size(like.network, facts)[0]
        back = min(last or method.synthetic_steps, method.synthetic_steps)
        exchange = method.synthetic_steps * self.link.all_reduce(size, self.workers)
        exchange += back * self.link.all_reduce(size * curvature, self.workers)
        exchange += self.link.all_reduce(set_bytes(like, facts), self.workers)
        share = part_of(min(method.synthetic_batch_size or images, images + frozen), self.workers)
        self.shared("distill", self.rates.seconds("distill", flops - start), share, method.iterations * exchange)

    def _condense(self, like: RunConfig, flops: int) -> None:
        """Comparisons of classes, and between them steps of the networks."""
        method, facts = like.method, self.facts
        share = 1.0 if method.name == "dm" and like.network.has_batch_norm else part_of(facts.num_classes, self.workers)
        exchange, trained = self.link.all_reduce(set_bytes(like, facts), self.workers), 0.0
        if isinstance(method, DCConfig | DSAConfig | IDCConfig):
            shown = condensation.num_compared(method) * facts.num_classes
            rounds, recipe, seen = condensation.between(method, facts, shown)
            one = training(like.network, recipe, facts, seen, 0).flops
            trained, steps = method.iterations * (rounds - 1) * one, (rounds - 1) * recipe.steps(seen)
            exchange = rounds * exchange + steps * self._gradient_exchange(like.network)
            rows = part_of(min(recipe.batch_size, seen), self.workers)
            self.shared("distill", self.rates.seconds("distill", trained), rows, 0.0)
        compared = self.rates.seconds("distill", flops - trained)
        self.shared("distill", compared, share, method.iterations * exchange)

    def _beside(self, chained: Sequence[Trial], finished: Sequence[tuple[int, ...]]) -> None:
        """Students of finished stages: on GPUs that distilling leaves, or after it where it leaves none."""
        room = (self.workers, self.gpus) if self.workers < self.gpus else None
        share = self._share(len(chained))
        flying: list[int] = []
        for trial in chained:
            before: tuple[int, ...] = ()
            for leg in trial.legs()[:-1]:
                after = (*before, *(finished[leg.stage] if room else self.done))
                job = SimulatedJob(
                    part="evaluate", seconds=self._student(leg), after=after, per_machine=share, among=room
                )
                before = (self._add(job),)
            flying += before
        if flying:
            self._gate([*self.done, *flying])

    def _student(self, leg: Trial, looking: float = 0.0) -> float:
        """Seconds of a training of a student."""
        flops = students.training_on(self.config, self.facts, leg).flops
        return self.rates.seconds("evaluate", flops + looking, leg)

    def _networks(self, work: str, flops: float) -> list[float]:
        """Seconds of the packs of a pool."""
        count = self.config.stages.pool_size
        sizes = _pieces(count, trajectories.pack_size(self.config, count))
        return [self.rates.seconds(work, flops * size / count) for size in sizes]

    def _gradient_exchange(self, network: NetworkConfig) -> float:
        """Seconds of one step of a network whose batches are shared: its gradients, and two sums for a batch norm."""
        size = 4 * network_size(network, self.facts)[0]
        norms = _batch_norms(network, self.facts)
        return self.link.all_reduce(size, self.workers) + 2 * norms * self.link.all_reduce(0, self.workers)

    def _share(self, count: int) -> int:
        """How many of `count` processes fit on a GPU; see `cluster.runtime.share_resources`."""
        return max(1, min(self.config.cluster.experts_per_gpu, math.ceil(count / self.gpus)))

    def _then(self, jobs: Iterable[SimulatedJob]) -> None:
        """Jobs that wait for the ones before them, and are all waited for."""
        numbers = [self._add(job) for job in jobs]
        if len(numbers) == 1:
            self.done = tuple(numbers)
        elif numbers:
            self._gate(numbers)

    def _gate(self, numbers: Iterable[int]) -> None:
        self.done = (self._add(SimulatedJob(part="", seconds=0.0, after=tuple(numbers), machines=0)),)

    def _add(self, job: SimulatedJob) -> int:
        self.jobs.append(job)
        return len(self.jobs) - 1


def part_of(count: int, workers: int) -> float:
    """Of so many rows or classes, the part of the worker that has most of them."""
    return math.ceil(count / workers) / count


def _pieces(count: int, size: int) -> list[int]:
    """So many things in groups of a size, the last one of what is left."""
    return [min(size, count - first) for first in range(0, count, size)]


def _batch_norms(network: NetworkConfig, facts: DataFacts) -> int:
    """How many layers of a network sum over the whole batch."""
    with torch.device("meta"):
        module = networks.build(network, facts.shape, facts.num_classes)
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
