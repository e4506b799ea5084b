"""The graph of a run's ingredients: what each step makes, and all that it needs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress, step
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.expert_trajectories import ExpertCurves
from raydd.ingredients.order import name_of
from raydd.pipeline.runs.run import Run
from raydd.pipeline.runs.size import planned_flops
from raydd.pipeline.time_left import TellingTimeLeft, TimeLeft
from raydd.pipeline.work.distilled_set import DistilledSet
from raydd.pipeline.work.probes import ProbeAnswers
from raydd.pipeline.work.students import StudentRecords


@dataclass(frozen=True)
class WrittenReport(Ingredient[None]):
    """The page of a run and its preview: made anew whenever they are asked for."""

    run: Run

    kind = "report"
    title = "report"

    @property
    def spread(self) -> Spread:
        """It takes a second."""
        return "here"

    def key(self) -> str:
        """Nobody asks: it is never reused."""
        return ""

    @property
    def uses_data(self) -> bool:
        """What is shown lies in the run's folder."""
        return False

    def is_made(self) -> bool:
        """What is there may be of yesterday."""
        return False

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Write it. The figures' library is loaded here: it would keep every worker waiting."""
        from raydd import report

        report.write(self.run.folder, planned_flops(self.run))

    def open(self) -> None:
        """It is for people."""


def target(run: Run, name: str) -> Ingredient[Any]:
    """What a step makes."""
    match name:
        case "experts":
            return ExpertCurves(run, run.experts)
        case "teacher":
            return run.teacher
        case "rank":
            return run.ranking
        case "distill":
            return DistilledSet(run, run)
        case "evaluate":
            return StudentRecords(run, run)
        case "probe":
            return ProbeAnswers(run, run)
        case _:
            return WrittenReport(run, run)


class NumberedSteps:
    """The ingredients of a graph by number, so that progress tells which of how many is being made."""

    def __init__(self, graph: Iterable[Ingredient[Any]], left: TimeLeft | None, whole: Progress) -> None:
        """Count all of them, made or not.

        Args:
            graph: all.
            left: takes note of how far they are; None where nothing is planned.
            whole: is told how long the run still takes.
        """
        counted = list(graph)
        self._left, self._whole = left, whole
        self._works = {
            name_of(ingredient): step(number, len(counted), ingredient.named)
            for number, ingredient in enumerate(counted, start=1)
        }

    @contextmanager
    def under_way(self, ingredients: Sequence[Ingredient[Any]], progress: Progress) -> Iterator[Progress]:
        """Tell that ingredients are being made, and then that they are; nothing of those that were not counted.

        Yields:
            What is to be told of their pieces.
        """
        works = [self._works[name] for name in map(name_of, ingredients) if name in self._works]
        for work in works[:1]:
            progress.update(work, 0, 1)
        if self._left is None:
            yield progress
        else:
            self._left.begin([name_of(one) for one in ingredients], sum(one.num_missing() for one in ingredients))
            yield TellingTimeLeft(progress, self._left, self._whole)
            self._left.end()
        for work in works:
            progress.update(work, 1, 1)
