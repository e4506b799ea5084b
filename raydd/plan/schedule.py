"""The schedule of a run on more and more GPUs: how long, why, and from where on more of them are of no use."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.plan.jobs import EXCHANGE, Link, jobs_of
from raydd.plan.rates import Rates
from raydd.plan.simulation import Timeline, simulate

WORTHWHILE = 1.1
"""The speed-up below which twice as many GPUs are of no use."""


@dataclass(frozen=True)
class Schedule:
    """A run as it would go on 1, 2, 4, ... GPUs."""

    timelines: Mapping[int, Timeline]
    """By the number of GPUs, ascending."""

    @classmethod
    def of(cls, config: RunConfig, facts: DataFacts, rates: Rates, gpus: int, link: Link) -> "Schedule":
        """Simulate the run on powers of two up to `gpus`, and on that.

        Args:
            config: the run.
            facts: the dataset's size.
            rates: of one GPU, for all of `works_of`.
            gpus: how many there are at most.
            link: what lies between them.
        """
        return cls(
            {count: simulate(jobs_of(config, facts, rates, count, link), count) for count in sorted(_doubled(gpus))}
        )

    @property
    def gpus(self) -> int:
        """How many there are at most."""
        return max(self.timelines)

    @property
    def whole(self) -> Timeline:
        """With all of them."""
        return self.timelines[self.gpus]

    def speed_up(self, gpus: int) -> float:
        """How much faster than on one GPU."""
        seconds = self.timelines[gpus].makespan
        return self.timelines[1].makespan / seconds if seconds else 1.0

    def efficiency(self, gpus: int) -> float:
        """The speed-up that each GPU contributes."""
        return self.speed_up(gpus) / gpus

    @cached_property
    def stops_at(self) -> int | None:
        """The number of GPUs that is not worth doubling; None where all are."""
        counts = list(self.timelines)
        doubled = [(count, 2 * count) for count in counts if 2 * count in counts]
        gains = ((few, self.speed_up(many) / self.speed_up(few)) for few, many in doubled)
        return next((few for few, gain in gains if gain < WORTHWHILE), None)

    def limit(self, gpus: int) -> str:
        """What takes most of the time on so many GPUs, and why more of them would not shorten it."""
        timeline = self.timelines[gpus]
        path = timeline.path()
        part = max(path, key=path.__getitem__, default="")
        if not part:
            return "there is nothing to do"
        share = f"{part} takes {path[part] / timeline.makespan:.0%} of the time"
        return f"{share}: {_reason(timeline, part)}"


def _reason(timeline: Timeline, part: str) -> str:
    """Why a part does not get shorter."""
    pieces = [job for job in timeline.jobs if job.part == part]
    workers, longest = max(job.machines for job in pieces), max(job.seconds for job in pieces)
    if part.endswith(EXCHANGE):
        return f"{workers} workers wait for each other's sums; a smaller cluster.num_workers waits less"
    if workers > 1:
        return f"{workers} workers share every step"
    if len(pieces) == 1:
        return "it is in one piece"
    return f"it is in {len(pieces)} pieces, the longest of which takes {longest:.3g} s"


def _doubled(gpus: int) -> set[int]:
    """1, 2, 4, ... up to a number, and that."""
    return {2**power for power in range(gpus.bit_length())} | {gpus}
