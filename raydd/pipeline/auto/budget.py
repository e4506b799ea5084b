"""What the whole will take, and how much work fits into the time that there is.

A plan is priced before anything is done, from the speed that was measured; time is kept by planning less work, never by
a clock that stops it.

Letters: P processes side by side.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.data import DataFacts
from raydd.pipeline.auto.portfolio import Candidate, Wanted, candidates
from raydd.pipeline.auto.settings import EFFORTS, Settings
from raydd.plan.jobs import Link, jobs_of
from raydd.plan.rates import Rates
from raydd.plan.simulation import side_by_side

SHARE = 0.7
"""Of the time that there is, what is planned to be used: measured speeds are right to a third or so."""
_WORTH = 1.0
"""The effort below which larger images are not worth their time."""
_FIRST = ("experts", "teacher", "rank")
_ROUNDS = 4
"""Times that processes are started: for experts, for a teacher, for trials, and for finishing."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast this machine is."""

    rates: Mapping[str, Rates]
    """Of one process, by candidate, with the processor to itself."""
    availability: float
    """The part of a processor that a process gets."""
    processes: int
    """P."""
    start_seconds: float
    """Until a process can work."""
    round_seconds: float
    """Of every round of trials besides: starting the processes."""
    run_seconds: float
    """Of every run besides, however little is done in it."""

    def seconds(self, name: str, config: RunConfig, facts: DataFacts) -> Mapping[str, float]:
        """What one process takes for each part of a candidate's run."""
        parts: defaultdict[str, float] = defaultdict(float)
        for job in jobs_of(config, facts, self.rates[name], 1, Link()):
            parts[job.part] += job.seconds / self.availability
        return dict(parts)


@dataclass(frozen=True, kw_only=True)
class Price:
    """Seconds of everything that is planned."""

    shared: float
    """What candidates have in common: experts, teacher, ranking."""
    trials: float
    finishing: float
    """Whichever is finished: the dearest of them."""
    overhead: float
    by_candidate: Mapping[str, float]
    """Of one process, on each candidate's trial."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.shared + self.trials + self.finishing + self.overhead


def num_finalists(processes: int) -> int:
    """How many candidates are finished beside each other."""
    return min(2, processes)


def price(tried: Sequence[Candidate], finished: Sequence[Candidate], facts: DataFacts, speed: Speed) -> Price:
    """What trying and finishing take."""
    parts = {one.name: speed.seconds(one.name, one.config, facts) for one in tried}
    alone = {name: speed.run_seconds + _after_shared(found) for name, found in parts.items()}
    last = {one.name: speed.run_seconds + _after_shared(speed.seconds(one.name, one.config, facts)) for one in finished}
    ordinary = sorted((last[one.name] for one in finished if not one.is_reference), reverse=True)
    references = [last[one.name] for one in finished if one.is_reference]
    actors = max(1, min([speed.processes, *(one.config.experts.count for one in tried if one.name == "datm")]))
    return Price(
        shared=max(found.get("experts", 0.0) for found in parts.values()) / actors
        + max(found.get("teacher", 0.0) for found in parts.values())
        + max(found.get("rank", 0.0) for found in parts.values()),
        trials=side_by_side(list(alone.values()), speed.processes),
        finishing=side_by_side([*ordinary[: num_finalists(speed.processes)], *references], speed.processes),
        overhead=speed.start_seconds + _ROUNDS * speed.round_seconds,
        by_candidate=alone,
    )


def _after_shared(parts: Mapping[str, float]) -> float:
    """What is left of a candidate's run when there is what it has in common with others."""
    return sum(seconds for part, seconds in parts.items() if part not in _FIRST)


@dataclass(frozen=True, kw_only=True)
class PricedPlan:
    """How much work, on images of which size."""

    side: int
    effort: float
    price: Price


def fit_into(
    seconds: float,
    spent: float,
    sides: Sequence[int],
    settings_of: Callable[[int, float], tuple[Wanted, Settings]],
    speed: Speed,
) -> PricedPlan:
    """The largest images on which there is time for work that is worth it, and as much work as there is time for.

    Args:
        seconds: that there are.
        spent: of these, until now.
        sides: of images, the largest first.
        settings_of: what is wanted and the settings at a side and an effort.
        speed: of this machine.

    Raises:
        UserError: there is no time for the least; says how much there should be.
    """
    most = SHARE * (seconds - spent)
    for side in sides:
        efforts = [effort for effort in EFFORTS if effort >= _WORTH or side == sides[-1]]
        plans = {0: priced(side, efforts[0], settings_of, speed)}
        if plans[0].price.total > most:
            continue
        fits, fails = 0, len(efforts)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            plans[middle] = priced(side, efforts[middle], settings_of, speed)
            fits, fails = (middle, fails) if plans[middle].price.total <= most else (fits, middle)
        return plans[fits]
    least = priced(sides[-1], EFFORTS[0], settings_of, speed).price.total / SHARE + spent
    raise UserError(
        f"--hours: {seconds / 3600:.3g} are too few; the least that can be done with these images takes "
        f"{math.ceil(1e3 * least / 3600) / 1e3:g} here"
    )


def priced(
    side: int, effort: float, settings_of: Callable[[int, float], tuple[Wanted, Settings]], speed: Speed
) -> PricedPlan:
    """A plan with its price."""
    wanted, settings = settings_of(side, effort)
    tried, finished = (
        [sized(one, side) for one in candidates(wanted, chosen)]
        for chosen in (settings, replace(settings, is_last=True))
    )
    return PricedPlan(side=side, effort=effort, price=price(tried, finished, settings.facts, speed))


def sized(one: Candidate, side: int) -> Candidate:
    """A candidate with the depth of its network, for which nothing is looked up."""
    return replace(one, config=replace(one.config, network=one.config.network.sized(side)))
