"""The jobs of a run on N GPUs, and which of them wait for which, as the executor on Ray deals them out.

Experts, parts of the ranking, epochs of labels and students are worked off by actors or trials, as many on a GPU as
`cluster.experts_per_gpu` says where there are enough of them. Teacher and distilling hold `cluster.num_workers` GPUs:
they share the rows of a batch, or the classes that are compared, and sum what they find; class groups, networks of a
pool and trajectories of later stages are dealt by number. Students that go through the stages train beside later stages
on GPUs that are left.

The rows of a batch are taken to cost the same however few a GPU has of them, and jobs on one GPU to share its time.
Left out are the start of Ray and of its processes, reading and writing, and the report.

Letters: W workers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.evaluation.students.trials import LabelStore, Trial, alike
from raydd.ingredients.ranking import PART
from raydd.plan import experts, stages, students, teacher
from raydd.plan.distill import stage_cost
from raydd.plan.made_first import made_first, stated
from raydd.plan.rates import Rates
from raydd.plan.simulation import SimulatedJob
from raydd.training.cost import Exchange, gradient_messages, training

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


def works_of(config: RunConfig, facts: DataFacts) -> list[str]:
    """The kinds of work whose rates `jobs_of` asks for."""
    works = [step.work for step in made_first(config, facts) if step.flops]
    if config.stages.filter is not None and config.stages.filter.needs_scores:
        works.append("forgetting")
    if config.uses_pool(config.stages.count - 1):
        works.append("transition")
    if any(stage_cost(config, facts, stage).portions for stage in range(config.stages.count)):
        works.append("distill")
    if "replayed" in config.evaluate.regimes(config.method):
        works.append("relabel")
    return [*works, "evaluate"]


def jobs_of(config: RunConfig, facts: DataFacts, rates: Rates, gpus: int, link: Link) -> tuple[SimulatedJob, ...]:
    """All jobs of a run, in the order in which they are come to, but for the preparation of the data."""
    made = _Jobs(config, facts, rates, gpus, link)
    for kind in config.method.made_first:
        made.first(kind)
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

    def first(self, kind: str) -> None:
        """An ingredient that is made first."""
        known = {"experts": self.experts, "teacher": self.teacher, "ranking": self.rank}
        if kind in known:
            known[kind]()
        elif (cost := stated(self.config, self.facts).get(kind)) is not None:
            self.pool(kind, [self.rates.seconds(kind, cost.flops / cost.pieces)] * cost.pieces)

    def experts(self) -> None:
        """Packs of experts."""
        count = self.config.experts.count
        flops = experts.trajectories(self.config, self.facts, 0, 0).flops
        sizes = _pieces(count, experts.pack_size(self.config, count))
        self.pool("experts", [self.rates.seconds("experts", flops * size / count) for size in sizes], count)

    def teacher(self) -> None:
        """Its epochs, then its test; or that alone, where it is taken over."""
        config, facts, recipe = self.config, self.facts, self.config.teacher.training
        flops = teacher.teacher(config, facts).flops
        if config.teacher.weights is None:
            network = config.teacher_network
            trained = training(network, recipe, facts, facts.num_train, 0).flops
            exchange = self._exchange([Exchange(recipe.steps(facts.num_train), gradient_messages(network, facts))])
            share = part_of(min(recipe.batch_size, facts.num_train), self.workers)
            self.shared("teacher", self.rates.seconds("teacher", trained), share, exchange)
            flops -= trained
        self.alone("teacher", flops)

    def rank(self) -> None:
        """The parts of the training images."""
        flops, whole = teacher.rank(self.config, self.facts).flops, self.facts.num_train
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
                flops = experts.trajectories(self.config, self.facts, stage, 0).flops
                self.dealt("experts of later stages", self._networks("experts", flops))
            self._distill(stage)
            finished.append(self.done)
        self._beside(chained, finished)

    def evaluate(self) -> None:
        """Labels and the choice of real images first, then students, without what they have been through."""
        config, facts = self.config, self.facts
        trials = students.trials_of(config, facts)
        if stores := LabelStore.needed(trials, config.evaluate.label_epochs):
            flops, epochs = teacher.relabel(config, facts).flops, sum(store.epochs for store in stores)
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
        """The images of a stage, as its method states how the work is divided."""
        cost = stage_cost(self.config, self.facts, stage)
        for portion in cost.portions:
            seconds = self.rates.seconds("distill", portion.flops)
            if portion.divided == "shared":
                exchange = cost.units * self._exchange(portion.exchanges)
                self.shared("distill", seconds, part_of(portion.count, self.workers), exchange)
            elif portion.divided == "dealt":
                packs = _pieces(portion.count, portion.at_once)
                flops = (portion.flops * pack / portion.count for pack in packs)
                self.dealt("distill", [self.rates.seconds("distill", each) for each in flops])
            else:
                self.alone("distill", portion.flops)

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
        sizes = _pieces(count, experts.pack_size(self.config, count))
        return [self.rates.seconds(work, flops * size / count) for size in sizes]

    def _exchange(self, exchanges: Iterable[Exchange]) -> float:
        """Seconds that workers wait for each other's sums."""
        return sum(
            one.times * sum(count * self.link.all_reduce(size, self.workers) for count, size in one.messages)
            for one in exchanges
        )

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
