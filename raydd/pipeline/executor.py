"""What a run asks of whoever does its work."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from raydd.core.progress import Progress
from raydd.evaluation.probes.probe import Question
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.pipeline.runs.run import Run


class Executor(Protocol):
    """Who does the work: this process alone, or Ray."""

    def check(self, run: Run, progress: Progress) -> None:
        """Refuse a run for which the resources are not there, before anything is written."""

    def experts(self, run: Run, numbers: Sequence[int], progress: Progress) -> None:
        """Train these experts."""

    def teacher(self, run: Run, progress: Progress) -> None:
        """Train the teacher, or take it over."""

    def rank(self, run: Run, progress: Progress) -> None:
        """Rank the training images by the teacher."""

    def score(self, run: Run, progress: Progress) -> None:
        """Score the training images by how often they are forgotten."""

    def distill(self, run: Run, progress: Progress) -> None:
        """Distil every stage."""

    def relabel(self, run: Run, store: LabelStore, progress: Progress) -> None:
        """Have the teacher label all epochs of a store."""

    def select(self, run: Run, progress: Progress) -> None:
        """Choose real images to compare with by what a network sees in them."""

    def observe(self, run: Run, progress: Progress) -> None:
        """Train the network that looks at real and distilled images."""

    def evaluate(self, run: Run, trials: Sequence[Trial], progress: Progress) -> None:
        """Train these students."""

    def probe(self, run: Run, questions: Sequence[Question], progress: Progress) -> None:
        """Answer these questions about training sets."""

    def observers(self, run: Run) -> AbstractContextManager[Sequence[Progress]]:
        """Who looks on besides while this executor works for a run. Refuses trackers that cannot."""
