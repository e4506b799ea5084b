"""The executor on Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

from raydd.cluster import (
    actors,
    ranking,
    runtime,
    shared_folders,
    streaming,
    tasks,
    trackers,
    train,
    tune_trials,
    waiting,
)
from raydd.cluster.branches import Branches
from raydd.cluster.gauges import Gauges
from raydd.core import process
from raydd.core.progress import Progress
from raydd.ingredients.base import Ingredient, Spread
from raydd.pipeline import memory
from raydd.pipeline.runs.inputs import RunInputs

_LEAVES_FREE: Final = ("train", "task")
"""Beside what others are made; everything else takes all that the cluster holds."""


class RayExecutor:
    """Spreads the work over a Ray cluster, or over this machine where there is none.

    Connects when it is first needed, and disconnects at the end of the `with` block.
    """

    reader = staticmethod(streaming.read)
    """Decodes images that are streamed: by Ray Data, in whichever process they are asked for."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._connection = ExitStack()
        self._connected = False
        self._branches = Branches()

    def __enter__(self) -> "RayExecutor":
        """Begin; Ray is not touched."""
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnect where this executor connected."""
        self._branches.cancel()
        self._connection.close()

    def check(self, run: RunInputs, progress: Progress) -> None:
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
            if len(runtime.alive()) == 1:
                memory.require(run)

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        """Make all pieces of ingredients, spread as they say; beside a job or a task others, as resources are free."""
        with self._at_work():
            left = self._branches.wait_for(wanted)
            beside = others if any(ingredient.spread in _LEAVES_FREE for ingredient in left) else ()
            with self._branches.offered(run, beside, progress) as told:
                _make(run, left, told)

    def observers(self, run: RunInputs) -> AbstractContextManager[Sequence[Progress]]:
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


def _make(run: RunInputs, wanted: Sequence[Ingredient[Any]], progress: Progress) -> None:
    if wanted and wanted[0].spread == "train":
        train.make(run, wanted, progress)
        return
    for ingredient in wanted:
        ingredient.begin()
        _SPREAD[ingredient.spread](run, ingredient, progress)
        ingredient.finish()


def _here(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
    """Make all pieces in this process."""
    process.set_up(run.config.cluster.threads_per_worker)
    for piece in ingredient.pieces():
        ingredient.make(piece, progress)


_SPREAD: Mapping[Spread, Callable[[RunInputs, Ingredient[Any], Progress], None]] = {
    "here": _here,
    "task": tasks.make,
    "actors": actors.make,
    "data": ranking.make,
    "trials": tune_trials.make,
}


@contextmanager
def _measured(name: str) -> Iterator[Sequence[Progress]]:
    gauges = Gauges(name)
    try:
        yield (gauges,)
    finally:
        gauges.close()
