"""Jobs on machines, played through event by event: who waits for whom, and when the last one is done.

List scheduling, first come first served: whenever something ends, every waiting job that fits is begun, in the order of
the jobs. Jobs that share a machine share its time equally.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class SimulatedJob:
    """A piece of work that is never interrupted."""

    part: str
    """Of the whole to which it belongs."""
    seconds: float
    """On machines of its own."""
    after: tuple[int, ...] = ()
    """The numbers of the jobs that have to be done before, all smaller than its own."""
    machines: int = 1
    """That it holds, whole if there are several; none if 0, as of what only waits for others."""
    per_machine: int = 1
    """How many jobs like this one fit on a machine."""
    among: tuple[int, int] | None = None
    """The first machine that it may be on and the one after the last; any by default."""


@dataclass(frozen=True)
class Span:
    """When a job was begun and when it was done, in seconds from the beginning."""

    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What came of a simulation."""

    jobs: tuple[SimulatedJob, ...]
    spans: tuple[Span, ...]
    """Of each job."""
    machines: int
    critical: tuple[int, ...]
    """Jobs that follow each other without a gap from the beginning to the end: each waited for the one before, or for
    the machine that it held."""

    @property
    def makespan(self) -> float:
        """Seconds until all is done."""
        return max((span.end for span in self.spans), default=0.0)

    def path(self) -> dict[str, float]:
        """Seconds of the critical path by part, in its order; they add up to the makespan."""
        seconds: dict[str, float] = {}
        for number in self.critical:
            span, part = self.spans[number], self.jobs[number].part
            seconds[part] = seconds.get(part, 0.0) + span.end - span.begin
        return {part: spent for part, spent in seconds.items() if spent}


def simulate(jobs: Sequence[SimulatedJob], machines: int) -> Timeline:
    """Play the jobs through on so many equal machines.

    Raises:
        ValueError: a job waits for itself or a later one, or asks for more machines than there are.
    """
    for number, job in enumerate(jobs):
        if any(other >= number for other in job.after) or job.machines > len(_allowed(job, machines)):
            raise ValueError(f"job {number} of {job.part} cannot be done on {machines} machines")
    return _Simulation(jobs, machines).run()


def side_by_side(seconds: Sequence[float], processes: int) -> float:
    """How long pieces take that are begun in this order by whichever process is free."""
    free = [0.0] * processes
    for one in seconds:
        free[free.index(min(free))] += one
    return max(free)


class _Simulation:
    """Where everything stands at a moment."""

    def __init__(self, jobs: Sequence[SimulatedJob], machines: int) -> None:
        self.jobs, self.now = tuple(jobs), 0.0
        self.free = [Fraction(1)] * machines
        self.sharing = [0] * machines
        self.left = {number: job.seconds for number, job in enumerate(jobs)}
        self.held: dict[int, list[int]] = {}
        """Machines by running job."""
        self.waits_for = [len({*job.after}) for job in jobs]
        self.followers: list[list[int]] = [[] for _ in jobs]
        for number, job in enumerate(jobs):
            for other in {*job.after}:
                self.followers[other].append(number)
        self.ready = [number for number, count in enumerate(self.waits_for) if not count]
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.cause: dict[int, int | None] = {}
        """The job whose end let a job begin."""

    def run(self) -> Timeline:
        """To the end."""
        self._begin(None)
        while self.held:
            step = min(self.left[number] * self._load(number) for number in self.held)
            self.now += step
            loads = {number: self._load(number) for number in self.held}
            for number, load in loads.items():
                self.left[number] -= step / load
            done = [number for number in loads if self.left[number] <= 1e-9 * self.jobs[number].seconds]
            for number in done:
                self._end(number)
            self._begin(done[-1])
        spans = tuple(Span(self.begun[number], self.ended[number]) for number in range(len(self.jobs)))
        return Timeline(self.jobs, spans, len(self.free), tuple(reversed([*self._backwards()])))

    def _load(self, number: int) -> int:
        """By how much a running job is slowed down."""
        return max((self.sharing[machine] for machine in self.held[number]), default=1)

    def _begin(self, cause: int | None) -> None:
        """Every waiting job that fits; one that takes no time ends at once, and others may follow it."""
        waiting: list[int] = []
        too_much: set[tuple[object, ...]] = set()
        heapq.heapify(self.ready)
        while self.ready:
            number = heapq.heappop(self.ready)
            job = self.jobs[number]
            request = (job.machines, job.per_machine, job.among)
            places = None if request in too_much else self._places(job)
            if places is None:
                too_much.add(request)
                waiting.append(number)
                continue
            self.begun[number] = self.now
            self.cause.setdefault(number, cause)
            self.held[number] = places
            for machine in places:
                self.free[machine] -= Fraction(1, job.per_machine)
                self.sharing[machine] += 1
            if not job.seconds:
                self._end(number)
                self.ready, waiting, too_much = [*self.ready, *waiting], [], set()
                heapq.heapify(self.ready)
        self.ready = waiting

    def _places(self, job: SimulatedJob) -> list[int] | None:
        """Machines with room for a job, the first ones there are; None where there are too few."""
        if not job.machines:
            return []
        share = Fraction(1, job.per_machine)
        found = [machine for machine in _allowed(job, len(self.free)) if self.free[machine] >= share]
        return found[: job.machines] if len(found) >= job.machines else None

    def _end(self, number: int) -> None:
        self.ended[number] = self.now
        for machine in self.held.pop(number):
            self.free[machine] += Fraction(1, self.jobs[number].per_machine)
            self.sharing[machine] -= 1
        for follower in self.followers[number]:
            self.waits_for[follower] -= 1
            if not self.waits_for[follower]:
                self.cause[follower] = number
                heapq.heappush(self.ready, follower)

    def _backwards(self) -> Iterator[int]:
        """From the job that ended last to the first, each begun when the next ended."""
        number = max(self.ended, key=lambda number: (self.ended[number], number), default=None)
        while number is not None:
            yield number
            begun = self.begun[number]
            cause = self.cause[number]
            number = cause if cause is None or self.ended[cause] == begun else self._ended_at(begun)

    def _ended_at(self, moment: float) -> int:
        """The job that ended at a moment at which a machine became free."""
        return next(number for number, end in self.ended.items() if end == moment and self.jobs[number].seconds)


def _allowed(job: SimulatedJob, machines: int) -> range:
    """The machines that a job may be on."""
    first, last = job.among or (0, machines)
    return range(min(first, machines), min(last, machines))
