"""What several runs will take on this machine: those of a comparison, or the points of a sweep."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from raydd import config as configs
from raydd.config import RunConfig
from raydd.config.sweep import described
from raydd.core import process
from raydd.core.errors import UserError
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import SWEEPS, Run
from raydd.pipeline.sweeps.points import Sweep
from raydd.plan import Plan, make_plan
from raydd.plan.machine import device_here, seconds_here, speed_here
from raydd.plan.simulation import side_by_side

_BEYOND = 8
"""How many times more memory than there is a step of a whole batch may take, where one of two images is to be timed."""
_OF_NO_SET = ("name", "out", "cluster", "evaluate", "sweep")
_FIRST: Mapping[str, tuple[str, ...]] = {
    "experts": ("experts", "network"),
    "teacher": ("teacher", "network"),
    "rank": ("teacher", "network", "ranking"),
}
"""What of a config determines an ingredient that points of a sweep share, beside the data and the seed."""


@dataclass(frozen=True, kw_only=True)
class RunOutlook:
    """What one run will take."""

    name: str
    plan: Plan
    seconds: Mapping[str, float]
    """By part, on the critical path."""

    @property
    def total(self) -> float:
        """Of the whole, in seconds."""
        return sum(self.seconds.values())

    def part(self, *names: str) -> float:
        """Of some parts, in seconds."""
        return sum(self.seconds.get(name, 0.0) for name in names)


@dataclass(frozen=True, kw_only=True)
class SweepOutlook:
    """What a sweep will take."""

    points: tuple[RunOutlook, ...]
    """Each as one process makes it, without what it shares with points before it."""
    shared: float
    """What is made once and before the trials, in seconds."""
    trials: float
    """Of all points, as many side by side as there are processes, in seconds."""
    is_guess: bool
    """Whether points are chosen as the sweep goes, and stand here with the values of the config itself."""


def is_too_large(plan: Plan) -> bool:
    """Whether this machine could not even do a little of the work, to be timed."""
    return plan.total.peak_memory_bytes > _BEYOND * process.memory_bytes(device_here())


def of_run(name: str, config: RunConfig, plan: Plan, processes: int) -> RunOutlook:
    """What a run will take with so many processes side by side.

    Raises:
        UserError: it is too large for this machine to tell.
    """
    if is_too_large(plan):
        raise UserError(f"{name}: this machine has by far too little memory for it, and cannot tell how long it takes")
    sized = resolved(config)
    rates = speed_here(sized, plan.facts)
    return RunOutlook(name=name, plan=plan, seconds=seconds_here(sized, plan.facts, rates, processes))


def of_sweep(config: RunConfig, processes: int) -> SweepOutlook:
    """What the points of a config's sweep will take, so many at a time.

    Raises:
        UserError: a point would be refused; names it.
    """
    assert config.sweep is not None
    base = Run.of(config)
    sweep = Sweep(base, base.folder / SWEEPS / config.sweep.name(config.seed), "planned")
    known = config.sweep.points(config.seed)
    made: set[str] = set()
    points, shared = [], 0.0
    for number, values in enumerate(known or [{}] * config.sweep.num_samples):
        chosen = sweep.point(number, values).config
        run = sweep.run(chosen)
        title = f"{number}: {described(values)}" if known else str(number)
        alone = of_run(title, run.config, make_plan(run.config, run.facts), 1)
        first = {part: spent for part, spent in alone.seconds.items() if part in _FIRST}
        shared += sum(spent for part, spent in first.items() if _identity(chosen, part) not in made)
        is_there = bool(known) and _identity(chosen, None) in made
        made |= {_identity(chosen, part) for part in (*first, None)}
        own = {part: spent for part, spent in alone.seconds.items() if part not in first}
        if is_there:
            own.pop("distill", None)
        points.append(replace(alone, seconds=own))
    trials = side_by_side([one.total for one in points], processes)
    return SweepOutlook(points=tuple(points), shared=shared, trials=trials, is_guess=not known)


def _identity(config: RunConfig, part: str | None) -> str:
    """What determines an ingredient, or, for None, the set."""
    plain = configs.to_mapping(config)
    if part is None:
        said = {name: value for name, value in plain.items() if name not in _OF_NO_SET}
    else:
        said = {name: plain[name] for name in ("data", "seed", *_FIRST[part])}
    return f"{part}: {json.dumps(said, sort_keys=True)}"
