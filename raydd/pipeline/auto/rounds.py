"""A round: candidates that are made side by side, each a run of its own in one process.

They are pieces of an ingredient, so that this process, or trials of Ray Tune, make them as they make anything else.
What a piece has come to is written down beside the runs; one that is there is never made again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from raydd.config import RunConfig
from raydd.core.errors import ConfigError, RunError
from raydd.core.interruption import Interruption
from raydd.core.progress import RUN, TESTED, Numbers, Progress, Work
from raydd.data import prepared
from raydd.evaluation.record import Subject
from raydd.evaluation.students.trials import SETS
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.pipeline import compare, execution
from raydd.pipeline.auto.portfolio import Candidate
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder

Measured = Mapping[Subject, tuple[float | None, float | None]]
"""The mean held-out and the mean test accuracy of the students of each training set."""


@dataclass(frozen=True, kw_only=True)
class CandidateOutcome:
    """What a candidate has come to."""

    candidate: Candidate
    seconds: float
    error: str
    """Why it could not be made; empty where it was."""
    accuracies: Measured

    @property
    def held_out(self) -> float | None:
        """Of its set."""
        return next((self.accuracies[subject][0] for subject in SETS if subject in self.accuracies), None)

    @property
    def test(self) -> float | None:
        """Of its set."""
        return next((self.accuracies[subject][1] for subject in SETS if subject in self.accuracies), None)

    def of(self, subject: Subject) -> tuple[float | None, float | None]:
        """Held-out and test accuracy of another training set that was measured beside it."""
        return self.accuracies.get(subject, (None, None))


@dataclass(frozen=True)
class CandidateRound(Ingredient[list[CandidateOutcome]]):
    """Some candidates, each a piece."""

    round_name: str
    tried: tuple[Candidate, ...]
    outcomes: Folder
    """Where it is written down what each has come to."""
    shared_data: Folder
    """Where the prepared data are, which all candidates have in common."""

    kind = "auto"

    @property
    def title(self) -> str:  # type: ignore[override]
        """What progress calls the work."""
        return f"candidates {self.round_name}"

    @property
    def spread(self) -> Spread:
        """As trials, each of which says what it has come to."""
        return "trials"

    def key(self) -> str:
        """It is no artefact."""
        return self.round_name

    def is_made(self) -> bool:
        """Whether all candidates have been made."""
        return not self.pieces()

    def pieces(self) -> Sequence[int]:
        """Those that are not made yet."""
        return [number for number, one in enumerate(self.tried) if not self.outcomes.has(self._file(one))]

    def name_of(self, piece: int) -> str:
        """The candidate."""
        return self.tried[piece].name

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> Mapping[str, float]:
        """Make a candidate's run; one that cannot be made is out."""
        one, began, error = self.tried[piece], time.perf_counter(), ""
        try:
            self._lend_data(Run.of(one.config))
            execution.execute(one.config, LocalExecutor(), _OfCandidate(progress, one.name))
        except (RunError, ConfigError) as problem:
            error = str(problem)
        (Folder.at(one.config.out) / "work" / "data").delete_all()
        said = {"seconds": round(time.perf_counter() - began, 1), "error": error}
        self.outcomes.write(self._file(one), json.dumps(said).encode())
        held_out = None if error else outcome(one, 0.0, "").held_out
        return {} if held_out is None else {"validation_accuracy": held_out}

    def open(self) -> list[CandidateOutcome]:
        """What all have come to."""
        found = []
        for one in self.tried:
            said = json.loads(self.outcomes.read(self._file(one)))
            found.append(outcome(one, said["seconds"], said["error"]))
        return found

    def _file(self, one: Candidate) -> str:
        return f"{self.round_name}-{one.name}.json"

    def _lend_data(self, run: Run) -> None:
        """Copy the prepared data for the time of the run, so that images are decoded once."""
        if prepared.open_saved(run.work / "data", run.data_key) is None:
            there = prepared.open_saved(self.shared_data, run.data_key)
            if there is not None:
                prepared.save(there, run.work / "data", run.data_key)


def outcome(one: Candidate, seconds: float, error: str) -> CandidateOutcome:
    """What is known of a candidate that was made."""
    found: dict[Subject, list[tuple[float | None, float | None]]] = {}
    for row in compare.look(one.config).records.to_pylist() if not error else ():
        if row["status"] == "ok":
            found.setdefault(row["subject"], []).append((row["validation_accuracy"], row["test_accuracy"]))
    means: dict[Subject, tuple[float | None, float | None]] = {
        subject: (_mean([pair[0] for pair in pairs]), _mean([pair[1] for pair in pairs]))
        for subject, pairs in found.items()
    }
    problem = error or ("" if any(subject in means for subject in SETS) else "its students could not be trained")
    return CandidateOutcome(candidate=one, seconds=seconds, error=problem, accuracies=means)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


class _OfCandidate:
    """Tells a progress of the work of one among several."""

    def __init__(self, shown: Progress, name: str) -> None:
        self._shown, self._name = shown, name

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Say whose it is."""
        if task == RUN:
            return
        if task.kind == TESTED:
            work = Work(TESTED, task.label, f"{self._name}: {task.about}")
        else:
            work = Work(task.kind, f"{task.label} of {self._name}".lstrip(), task.about)
        self._shown.update(work, done, total, note, numbers)


def config_of(made: CandidateOutcome) -> RunConfig:
    """The config of a candidate, with absolute paths and the depth of its networks."""
    return Run.of(made.candidate.config).config
