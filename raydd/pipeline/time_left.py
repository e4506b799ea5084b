"""How long a run still takes, as it can be told while it is under way.

The plan says how much work each step is. The step that is under way goes on as it went, and steps to come go as fast,
for what is planned of them, as those before.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raydd.core.progress import RUN, SECONDS_LEFT, STEP, TESTED, WAITING, Numbers, Progress, Work
from raydd.data.facts import DataFacts
from raydd.ingredients.base import Ingredient
from raydd.ingredients.order import Name, name_of
from raydd.ingredients.planned import WORKS
from raydd.pipeline.runs.run import Run
from raydd.plan.jobs import works_of
from raydd.plan.machine import processes_here, seconds_here, speed_remembered
from raydd.plan.rates import Rates

_ENOUGH: Final = 0.05
"""Of a step, to tell from it how long the rest of it takes."""
_OFTEN: Final = 1.0
"""Seconds between two news of the whole run."""
_UNIT: Final = 1e9
"""FLOP/s of every kind of work where nothing is known of this machine: only how steps compare counts then."""


@dataclass(frozen=True)
class PlannedTime:
    """What is planned of steps."""

    of_step: Mapping[Name, float]
    """None has 0."""
    in_seconds: bool
    """Of this machine; otherwise only how they compare means anything."""

    @classmethod
    def of(cls, run: Run, missing: Iterable[Ingredient[Any]], facts: DataFacts, on_ray: bool) -> "PlannedTime":
        """By the speeds that are remembered of this machine, if they are.

        Args:
            run: whose plan it is.
            missing: what is to be made; what several of a kind are planned to take is shared equally.
            facts: the size of the data.
            on_ray: whether several processes work side by side.
        """
        config, listed = run.config, list(missing)
        remembered = speed_remembered(config, facts)
        rates = remembered or Rates.equal([*works_of(config, facts), "distill"], _UNIT)
        processes = processes_here(on_ray, config.cluster.threads_per_worker)
        seconds = seconds_here(config, facts, rates, processes)
        works = {name_of(one): WORKS.get(one.title, "") for one in listed}
        count = Counter(works.values())
        planned = {name: seconds.get(work, 0.0) / count[work] for name, work in works.items()}
        return cls({name: spent for name, spent in planned.items() if spent}, remembered is not None)


@dataclass
class _Current:
    """What is under way."""

    names: Sequence[Name]
    pieces: int
    began: float
    first: dict[Work, float] = field(default_factory=dict)
    """The fractions of pieces of which it was told first, if that is more than a unit: they were done before."""
    done: dict[Work, float] = field(default_factory=dict)

    @property
    def fresh(self) -> float:
        """How much of the whole step was made since it began."""
        return self.fraction(self.done) - self.fraction(self.first)

    def fraction(self, of: Mapping[Work, float]) -> float:
        """Of the whole step."""
        return min(1.0, sum(of.values()) / max(self.pieces, len(self.done), 1))


class TimeLeft:
    """Takes note of how far a run is. Threads may tell it at the same time."""

    def __init__(self, planned: PlannedTime, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is made yet."""
        self._in_seconds, self._clock = planned.in_seconds, clock
        self._left = dict(planned.of_step)
        self._current: _Current | None = None
        self._planned = self._spent = 0.0
        """What was planned of what is over, and the seconds that it took."""
        self._lock = threading.Lock()

    def begin(self, names: Sequence[Name], pieces: int) -> None:
        """Steps are being made, together of so many pieces."""
        with self._lock:
            self._current = _Current(names, pieces, self._clock())

    def moved(self, piece: Work, done: float, total: float) -> None:
        """A piece of them is so far."""
        with self._lock:
            if self._current is not None and total > 0:
                fraction = min(1.0, done / total)
                self._current.first.setdefault(piece, fraction if 1 < done < total else 0.0)
                self._current.done[piece] = fraction

    def end(self) -> None:
        """They are made."""
        with self._lock:
            if self._current is None:
                return
            if planned := self._planned_of(self._current.names):
                self._planned += planned * self._current.fresh
                self._spent += self._clock() - self._current.began
            for name in self._current.names:
                self._left.pop(name, None)
            self._current = None

    def seconds(self) -> float | None:
        """What the run still takes; None while nothing is known."""
        with self._lock:
            current, planned, spent = self._current, self._planned, self._spent
            if current is None:
                return self._at_pace(sum(self._left.values()), planned, spent)
            here, taken, fresh = self._planned_of(current.names), self._clock() - current.began, current.fresh
            rest = 1 - current.fraction(current.done)
            if fresh < _ENOUGH:
                own = self._at_pace(here * rest, planned, spent)
            else:
                own = taken * rest / fresh
                planned, spent = (planned + here * fresh, spent + taken) if here else (planned, spent)
            others = self._at_pace(sum(self._left.values()) - here, planned, spent)
            return None if own is None or others is None else own + others

    def _planned_of(self, names: Iterable[Name]) -> float:
        return sum(self._left.get(name, 0.0) for name in names)

    def _at_pace(self, planned: float, before: float, spent: float) -> float | None:
        """What work of a plan takes if it goes as what was planned before, which took so long."""
        if planned <= 0:
            return 0.0
        if before > 0 and spent > 0:
            return planned * spent / before
        return planned if self._in_seconds else None


class TellingTimeLeft:
    """Passes news on, and tells now and then how long the run still takes."""

    def __init__(self, news: Progress, left: TimeLeft, whole: Progress) -> None:
        """Pass news on to one progress, and tell the time left to another.

        Args:
            news: of pieces of work.
            left: what is known.
            whole: is told of `RUN`.
        """
        self._news, self._left, self._whole = news, left, whole
        self._began = self._told = time.monotonic()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Pass the news on."""
        if task.kind not in (STEP, TESTED) and task != WAITING:
            self._left.moved(task, done, total)
            self.tell()
        self._news.update(task, done, total, note, numbers)

    def tell(self) -> None:
        """Tell of the whole run, if it was not told of a moment ago."""
        now = time.monotonic()
        if now - self._told < _OFTEN or (seconds := self._left.seconds()) is None:
            return
        self._told, spent = now, now - self._began
        self._whole.update(RUN, 100 * spent / max(spent + seconds, spent), 100, "", {SECONDS_LEFT: seconds})
