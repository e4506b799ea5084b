"""The executor without Ray: the same work, one thing after the other, in this process."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from raydd.core.errors import ConfigError, ResourceError
from raydd.core.progress import Progress
from raydd.evaluation.probes.probe import Question
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.ingredients import experts
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto, distill, probes, real_data, students
from raydd.pipeline.work.teacher_labels import Relabelling


class LocalExecutor:
    """Runs everything here."""

    def check(self, run: Run, progress: Progress) -> None:
        """Refuse what needs several processes."""
        workers = run.config.cluster.num_workers
        if workers not in ("auto", 1):
            raise ResourceError(f"cluster.num_workers: {workers} workers need Ray; leave out --no-ray or ask for 1")

    def experts(self, run: Run, numbers: Sequence[int], progress: Progress) -> None:
        """Train these experts, pack by pack."""
        real_data.set_up(run)
        for group in experts.packs(numbers, auto.pack(run)):
            real_data.train_experts(run, group, progress)

    def teacher(self, run: Run, progress: Progress) -> None:
        """Train the teacher, or take it over."""
        real_data.set_up(run)
        real_data.teach(run, progress)

    def rank(self, run: Run, progress: Progress) -> None:
        """Rank the training images by the teacher."""
        real_data.set_up(run)
        real_data.rank(run, progress)

    def score(self, run: Run, progress: Progress) -> None:
        """Score the training images by how often they are forgotten."""
        real_data.set_up(run)
        real_data.score(run, progress)

    def distill(self, run: Run, progress: Progress) -> None:
        """Distil every stage."""
        real_data.set_up(run)
        distill.distill(run, progress)

    def relabel(self, run: Run, store: LabelStore, progress: Progress) -> None:
        """Label the distilled set, epoch by epoch."""
        real_data.set_up(run)
        Relabelling(run, store).finish(progress)

    def observe(self, run: Run, progress: Progress) -> None:
        """Train the network that looks at images."""
        real_data.set_up(run)
        real_data.observe(run, progress)

    def select(self, run: Run, progress: Progress) -> None:
        """Choose real images to compare with by what a network sees in them."""
        real_data.set_up(run)
        real_data.select(run, progress)

    def evaluate(self, run: Run, trials: Sequence[Trial], progress: Progress) -> None:
        """Train these students, pack by pack."""
        real_data.set_up(run)
        for pack in auto.student_packs(run, trials):
            students.evaluate(run, pack, progress)

    def probe(self, run: Run, questions: Sequence[Question], progress: Progress) -> None:
        """Answer these questions, one after the other."""
        real_data.set_up(run)
        for preparation in probes.unprepared(run, questions):
            probes.prepare(run, preparation, progress)
        for question in questions:
            probes.answer(run, question, progress)

    def observers(self, run: Run) -> AbstractContextManager[Sequence[Progress]]:
        """Nobody; refuse trackers that are told by Ray Tune."""
        if of_tune := [tracker for tracker in run.config.cluster.trackers if tracker != "tensorboard"]:
            raise ConfigError("cluster.trackers", f"{of_tune[0]} needs Ray: leave out --no-ray, or {of_tune[0]}")
        return nullcontext(())
