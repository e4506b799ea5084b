"""The executor on Ray."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from raydd.cluster import (
    experts,
    probes,
    ranking,
    runtime,
    shared_folders,
    streaming,
    students,
    tasks,
    trackers,
    train,
    view_labels,
    waiting,
)
from raydd.cluster.gauges import Gauges
from raydd.core.progress import Progress
from raydd.evaluation.probes.probe import Question
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import real_data


class RayExecutor:
    """Spreads the work over a Ray cluster, or over this machine where there is none.

    Connects when it is first needed, and disconnects at the end of the `with` block.
    """

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._connection = ExitStack()
        self._connected = False

    def __enter__(self) -> "RayExecutor":
        """Begin; Ray is not touched."""
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnect where this executor connected."""
        self._connection.close()

    def check(self, run: Run, progress: Progress) -> None:
        """Refuse a run that asks for more than the cluster has or will have, or whose folders its nodes do not see."""
        cluster = run.config.cluster
        with self._at_work():
            for field, bundle, count in (
                ("cluster.num_workers", runtime.worker_resources(cluster), runtime.fewest_workers(cluster)),
                ("cluster.threads_per_worker", runtime.share_resources(cluster, 1), 1),
            ):
                if waiting.require(bundle, count, field, cluster.wait_seconds, progress):
                    self._connection.callback(waiting.ask_for_nothing)
            shared_folders.require(run)

    def experts(self, run: Run, numbers: Sequence[int], progress: Progress) -> None:
        """Train these experts on a pool of actors."""
        with self._at_work():
            experts.train_experts(_reading(run), numbers, progress)

    def teacher(self, run: Run, progress: Progress) -> None:
        """Train the teacher as one Ray Train job; one that is taken over from a file needs none."""
        with self._at_work():
            if run.config.teacher.weights is None:
                train.teach(_reading(run), progress)
            else:
                real_data.teach(_reading(run), progress)

    def rank(self, run: Run, progress: Progress) -> None:
        """Rank the training images on a pool of actors, or by Ray Data."""
        with self._at_work():
            ranking.rank(_reading(run), progress)

    def score(self, run: Run, progress: Progress) -> None:
        """Score the training images in a task of its own."""
        with self._at_work():
            tasks.score(_reading(run), progress)

    def distill(self, run: Run, progress: Progress) -> None:
        """Distil every stage as one Ray Train job."""
        with self._at_work():
            train.distill(_reading(run), progress)

    def relabel(self, run: Run, store: LabelStore, progress: Progress) -> None:
        """Label the distilled set on a pool of actors."""
        with self._at_work():
            view_labels.relabel(_reading(run), store, progress)

    def observe(self, run: Run, progress: Progress) -> None:
        """Train the network that looks at images in a task of its own."""
        with self._at_work():
            tasks.observe(_reading(run), progress)

    def select(self, run: Run, progress: Progress) -> None:
        """Choose real images to compare with in a task of its own."""
        with self._at_work():
            tasks.select(_reading(run), progress)

    def evaluate(self, run: Run, trials: Sequence[Trial], progress: Progress) -> None:
        """Train these students as Ray Tune trials."""
        with self._at_work():
            students.evaluate(_reading(run), trials, progress)

    def probe(self, run: Run, questions: Sequence[Question], progress: Progress) -> None:
        """Answer these questions on a pool of actors."""
        with self._at_work():
            probes.answer(_reading(run), questions, progress)

    def observers(self, run: Run) -> AbstractContextManager[Sequence[Progress]]:
        """Prometheus; refuse trackers that would fail later."""
        trackers.check(run)
        return _measured(run.config.name)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Connected to Ray, whose errors become ours."""
        if not self._connected:
            self._connection.enter_context(runtime.session())
            self._connected = True
        with runtime.explained():
            yield


def _reading(run: Run) -> Run:
    """The run, whose processes have Ray Data decode what is streamed."""
    return replace(run, reader=streaming.read)


@contextmanager
def _measured(name: str) -> Iterator[Sequence[Progress]]:
    gauges = Gauges(name)
    try:
        yield (gauges,)
    finally:
        gauges.close()
