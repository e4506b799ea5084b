"""The graph of a run's ingredients: what each step makes, and all that it needs."""

from dataclasses import dataclass
from typing import Any

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.expert_trajectories import ExpertCurves
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.probes import ProbeAnswers
from raydd.pipeline.work.stages import DistilledSet
from raydd.pipeline.work.students import StudentRecords


@dataclass(frozen=True)
class WrittenReport(Ingredient[None]):
    """The page of a run and its preview: made anew whenever they are asked for."""

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

        report.write(self.kitchen.folder)

    def open(self) -> None:
        """It is for people."""


def target(run: Run, step: str) -> Ingredient[Any]:
    """What a step makes."""
    match step:
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
            return WrittenReport(run)
