"""Students beside distilling: while one stage is distilled, those of finished ones train where resources are free."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.core import process
from raydd.core.progress import Progress
from raydd.evaluation.students.trials import Trial
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import students

_SECONDS = 2.0


@contextmanager
def students_beside(run: Run, progress: Progress) -> Iterator[None]:
    """While this is open, students that go through the stages are trained as far as stages are finished.

    They ask for resources as anybody does, and wait while there are none. What goes wrong with them stops nothing: the
    evaluation comes to it again. On leaving, those that are under way are waited for, or cancelled on an error or where
    no node is left that holds one.
    """
    chained = [trial for trial in run.trials() if trial.mode != "single_shot"]
    if not chained:
        yield
        return
    with relayed(progress) as posted:
        watcher = _Watcher(run, chained, posted)
        watcher.start()
        try:
            yield
        except BaseException:
            watcher.leave()
            watcher.cancel()
            raise
        watcher.leave()
        watcher.wait()


class _Watcher(threading.Thread):
    """Sends every student through each stage but the last once it is finished, one stage after the other."""

    def __init__(self, run: Run, chained: list[Trial], posted: BoardProgress) -> None:
        super().__init__(daemon=True)
        self._run, self._chained, self._posted = run, chained, posted
        self._share = share = runtime.share_resources(run.config.cluster, len(chained))
        self._task = ray.remote(num_cpus=share["CPU"], num_gpus=share.get("GPU", 0), max_retries=0)(_train)
        self._flying: dict[int, ray.ObjectRef] = {}
        self._over = threading.Event()

    def run(self) -> None:
        for stage in self._run.stages[:-1]:
            while not stage.is_finished:
                if self._over.wait(_SECONDS):
                    return
            for number, trial in enumerate(self._chained):
                so_far = replace(trial, stage=stage.number)
                named = self._task.options(name=so_far.title)
                self._flying[number] = named.remote(self._run, so_far, self._posted, self._flying.get(number))

    def leave(self) -> None:
        """Send nobody any more."""
        self._over.set()
        self.join()

    def wait(self) -> None:
        """Wait for those under way, however they end, as long as the cluster has a place for one."""
        flying = list(self._flying.values())
        while flying and runtime.how_many_fit(self._share):
            flying = ray.wait(flying, num_returns=len(flying), timeout=_SECONDS)[1]
        self.cancel()

    def cancel(self) -> None:
        """Stop those under way."""
        for task in self._flying.values():
            ray.cancel(task, force=True)


def _train(run: Run, trial: Trial, progress: BoardProgress, before: None) -> None:
    """Train one student; `before` is what its training on the stage before returned."""
    process.set_up(run.config.cluster.threads_per_worker)
    students.evaluate(run, [trial], progress)
