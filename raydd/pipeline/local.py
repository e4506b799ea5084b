"""The executor without Ray: the same work, one thing after the other, in this process."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from raydd import experts
from raydd.errors import ConfigError, ResourceError
from raydd.evaluation.probing import Question
from raydd.evaluation.trials import LabelStore, Trial
from raydd.pipeline import choices, distilling, evaluating, jobs, probing
from raydd.pipeline.run import Run
from raydd.pipeline.teaching import Relabelling
from raydd.progress import Progress


class LocalExecutor:
    """Runs everything here."""

    def check(self, run: Run, progress: Progress) -> None:
        """Refuse what needs several processes."""
        workers = run.config.cluster.num_workers
        if workers not in ("auto", 1):
            raise ResourceError(f"cluster.num_workers: {workers} workers need Ray; leave out --no-ray or ask for 1")

    def experts(self, run: Run, numbers: Sequence[int], progress: Progress) -> None:
        """Train these experts, pack by pack."""
        jobs.set_up(run)
        for group in experts.packs(numbers, choices.pack(run)):
            jobs.train_experts(run, group, progress)

    def teacher(self, run: Run, progress: Progress) -> None:
        """Train the teacher, or take it over."""
        jobs.set_up(run)
        jobs.teach(run, progress)

    def rank(self, run: Run, progress: Progress) -> None:
        """Rank the training images by the teacher."""
        jobs.set_up(run)
        jobs.rank(run, progress)

    def score(self, run: Run, progress: Progress) -> None:
        """Score the training images by how often they are forgotten."""
        jobs.set_up(run)
        jobs.score(run, progress)

    def distill(self, run: Run, progress: Progress) -> None:
        """Distil every stage."""
        jobs.set_up(run)
        distilling.distill(run, progress)

    def relabel(self, run: Run, store: LabelStore, progress: Progress) -> None:
        """Label the distilled set, epoch by epoch."""
        jobs.set_up(run)
        Relabelling(run, store).finish(progress)

    def observe(self, run: Run, progress: Progress) -> None:
        """Train the network that looks at images."""
        jobs.set_up(run)
        jobs.observe(run, progress)

    def select(self, run: Run, progress: Progress) -> None:
        """Choose real images to compare with by what a network sees in them."""
        jobs.set_up(run)
        jobs.select(run, progress)

    def evaluate(self, run: Run, trials: Sequence[Trial], progress: Progress) -> None:
        """Train these students, pack by pack."""
        jobs.set_up(run)
        for pack in choices.student_packs(run, trials):
            evaluating.evaluate(run, pack, progress)

    def probe(self, run: Run, questions: Sequence[Question], progress: Progress) -> None:
        """Answer these questions, one after the other."""
        jobs.set_up(run)
        for preparation in probing.unprepared(run, questions):
            probing.prepare(run, preparation, progress)
        for question in questions:
            probing.answer(run, question, progress)

    def observers(self, run: Run) -> AbstractContextManager[Sequence[Progress]]:
        """Nobody; refuse trackers that are told by Ray Tune."""
        if of_tune := [tracker for tracker in run.config.cluster.trackers if tracker != "tensorboard"]:
            raise ConfigError("cluster.trackers", f"{of_tune[0]} needs Ray: leave out --no-ray, or {of_tune[0]}")
        return nullcontext(())
