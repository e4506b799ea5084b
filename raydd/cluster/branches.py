"""Branches of the graph beside the work that is under way: what one task makes, while resources are free.

Actors, jobs and trials take all that a cluster holds, so two of them gain nothing beside each other. A job of a few
workers, or a task, leaves something: an observer is trained and real images are chosen while a set is distilled.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import ray

from raydd.cluster import runtime, tasks
from raydd.cluster.progress import relayed
from raydd.cluster.waiting import SECONDS, one_share
from raydd.core.progress import WAITING, Numbers, Progress, Work
from raydd.ingredients.base import Ingredient
from raydd.ingredients.order import Name, name_of
from raydd.pipeline.runs.inputs import RunInputs

_LOOK_SECONDS: Final = 2.0
_log = logging.getLogger(__name__)


class Branches:
    """Ingredients that are made beside others. What goes wrong with one stops nothing before its turn comes."""

    def __init__(self) -> None:
        """None is under way."""
        self._under_way: dict[Name, _Branch] = {}

    def wait_for(self, wanted: Sequence[Ingredient[Any]]) -> list[Ingredient[Any]]:
        """Wait for those of these that are under way; returns what is left to make."""
        waited = {name: branch for name in map(name_of, wanted) if (branch := self._under_way.pop(name, None))}
        try:
            for branch in waited.values():
                while branch.is_alive():  # in short spells, as signals are heeded between them
                    branch.join(SECONDS)
        except BaseException:
            self._under_way |= waited
            self.cancel()
            raise
        return [one for one in wanted if not (name_of(one) in waited and one.is_made())]

    @contextmanager
    def offered(self, run: RunInputs, others: Sequence[Ingredient[Any]], progress: Progress) -> Iterator[Progress]:
        """While the block's work goes on, begin what of `others` one task makes, as soon as all is there that it needs.

        On leaving, those under way go on; on an error they are cancelled, and go on another time from what they kept.

        Args:
            run: whose ingredients they are.
            others: they may need each other, and what the block makes.
            progress: is told of them.

        Yields:
            What the block's work is to tell: nothing begins before it has the place that it needs.
        """
        candidates = [one for one in others if one.spread == "task" and name_of(one) not in self._under_way]
        placed, over = _Placed(progress), threading.Event()
        beginner = threading.Thread(target=self._begin, args=(run, candidates, progress, placed, over), daemon=True)
        if candidates:
            beginner.start()
        try:
            yield placed
        except BaseException:
            over.set()
            self._leave(beginner)
            self.cancel()
            raise
        over.set()
        self._leave(beginner)

    def cancel(self) -> None:
        """Stop those under way."""
        for branch in self._under_way.values():
            branch.over.set()
        for branch in self._under_way.values():
            branch.join()
        self._under_way.clear()

    def _begin(
        self,
        run: RunInputs,
        candidates: list[Ingredient[Any]],
        progress: Progress,
        placed: "_Placed",
        over: threading.Event,
    ) -> None:
        """Look now and then what can be begun; what cannot be looked at is met, and told, at its turn."""
        try:
            share = runtime.share_resources(run.config.cluster, 1)
            while candidates and not over.wait(_LOOK_SECONDS):
                if placed.is_at_work.is_set() and _are_free(share):
                    self._begin_one(run, candidates, progress)
        except Exception as error:
            _log.warning("nothing more is begun beside other work: %s", error)

    def _begin_one(self, run: RunInputs, candidates: list[Ingredient[Any]], progress: Progress) -> None:
        able = (one for one in candidates if all(needed.is_made() for needed in one.needs()))
        if (ingredient := next(able, None)) is not None:
            candidates.remove(ingredient)
            branch = self._under_way[name_of(ingredient)] = _Branch(run, ingredient, progress)
            branch.start()

    def _leave(self, beginner: threading.Thread) -> None:
        if beginner.ident is not None:
            beginner.join()


class _Branch(threading.Thread):
    """One ingredient, made by a task that is waited for here."""

    def __init__(self, run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
        super().__init__(daemon=True)
        self._run, self._ingredient, self._progress = run, ingredient, progress
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._make()
        except Exception as error:
            _log.warning("%s failed beside other work, and is made at its turn: %s", self._ingredient.named, error)

    def _make(self) -> None:
        run, cluster = self._run, self._run.config.cluster
        lookout = one_share(cluster, runtime.share_resources(cluster, 1), self._progress)
        self._ingredient.begin()
        with relayed(self._progress) as posted:
            task = tasks.send(run, self._ingredient, posted)
            while not ray.wait([task], timeout=SECONDS)[0]:
                if self.over.is_set():
                    ray.cancel(task, force=True)
                    return
                lookout.is_met()
            ray.get(task)
        self._ingredient.finish()


class _Placed:
    """Passes progress on, and notes that there is some."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.is_at_work = threading.Event()

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if task != WAITING:
            self.is_at_work.set()
        self._progress.update(task, done, total, note, numbers)


def _are_free(share: dict[str, float]) -> bool:
    """Whether nobody has what a task takes."""
    free = ray.available_resources()
    return all(free.get(name, 0.0) >= amount for name, amount in share.items())
