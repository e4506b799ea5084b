"""What a finished run took, as rates: from its metrics, its records and its log of events.

A run on GPUs whose cluster.num_workers is `auto` does not say on how many: it counts as one on a single GPU.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raydd.config import RunConfig
from raydd.core.errors import ArtefactError
from raydd.core.progress import Work
from raydd.data import DataFacts
from raydd.evaluation import records
from raydd.evaluation.students.trials import Trial
from raydd.plan import students
from raydd.plan.distill import stage_cost
from raydd.plan.experts import pack_size, trajectories
from raydd.plan.jobs import part_of
from raydd.plan.rates import LegKind, Rates, leg_kind
from raydd.storage import Folder
from raydd.storage.event_log import EVENTS, METRICS
from raydd.training.cost import training


def rates_of(folder: Folder, config: RunConfig, facts: DataFacts) -> Rates:
    """The FLOP/s of one GPU, or process, of each kind of work of which a run tells how long it took.

    Args:
        folder: the run's.
        config: what is in it.
        facts: the size of its data.

    Raises:
        ArtefactError: it tells nothing of any work, or what it tells cannot be read.
    """
    run = _Finished(folder, config, facts)
    taken = {
        "experts": run.experts(),
        "teacher": run.teacher(),
        "distill": run.distilling(),
    }
    kinds = run.students()
    taken["evaluate"] = _Taken.sum(kinds.values())
    rates = {work: found.rate for work, found in taken.items() if found.seconds}
    if not rates:
        raise ArtefactError(f"{folder.uri}: tells of no work how long it took; name a run that is finished")
    return Rates(
        flops_per_second=rates,
        sources=dict.fromkeys(rates, folder.uri),
        students={kind: found.rate for kind, found in kinds.items() if found.seconds},
    )


@dataclass(frozen=True)
class _Taken:
    """Work on one GPU and its time."""

    flops: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.flops / self.seconds

    @classmethod
    def sum(cls, parts: Any) -> "_Taken":
        found = list(parts)
        return cls(sum(part.flops for part in found), sum(part.seconds for part in found))


@dataclass(frozen=True)
class _Finished:
    folder: Folder
    config: RunConfig
    facts: DataFacts

    def experts(self) -> _Taken:
        """From one epoch of each to its last; several in a pack share its time."""
        if "experts" not in self.config.method.made_first:
            return _Taken()
        config = self.config.experts
        flops = trajectories(self.config, self.facts, 0, 0).flops
        beside = pack_size(self.config, config.count) * self._on_one_gpu(config.count)
        epoch = beside * flops / config.count / config.training.epochs
        return _Taken.sum(_Taken(epoch * epochs, seconds) for epochs, seconds in self._worked("expert"))

    def teacher(self) -> _Taken:
        """From its first epoch to its last."""
        if "teacher" not in self.config.method.made_first or self.config.teacher.weights is not None:
            return _Taken()
        recipe, num_images = self.config.teacher.training, self.facts.num_train
        flops = training(self.config.teacher_network, recipe, self.facts, num_images, 0).flops
        epoch = flops / recipe.epochs * part_of(min(recipe.batch_size, num_images), self._workers())
        return _Taken.sum(_Taken(epoch * epochs, seconds) for epochs, seconds in self._worked("teacher"))

    def distilling(self) -> _Taken:
        """All outer iterations that are in the metrics, whether of a stage or of a pack of class groups."""
        return _Taken.sum(self._stage(number) for number in range(self.config.stages.count))

    def students(self) -> dict[LegKind, _Taken]:
        """Every training of a student that succeeded, by its kind."""
        legs: defaultdict[tuple[Any, ...], list[Trial]] = defaultdict(list)
        for trial in students.trials_of(self.config, self.facts):
            for leg in trial.legs():
                legs[leg_kind(leg)].append(leg)
        flops = {
            kind: sum(students.training_on(self.config, self.facts, leg).flops for leg in alike) / len(alike)
            for kind, alike in legs.items()
        }
        epochs = {kind: alike[0].recipe.epochs for kind, alike in legs.items()}
        taken: defaultdict[LegKind, list[_Taken]] = defaultdict(list)
        names = ("subject", "labels", "mode", "budget", "stage", "network", "augmentation")
        beside = self._on_one_gpu(sum(map(len, legs.values())))
        for row in records.read(self.folder / "results").to_pylist():
            kind = tuple(str(row[name]) for name in names)
            if row["status"] == "ok" and kind in flops:
                longer = row["epochs"] / epochs[kind]  # where they were searched for
                taken[kind].append(_Taken(beside * flops[kind] * longer, row["seconds"]))
        return {kind: _Taken.sum(found) for kind, found in taken.items()}

    def _stage(self, number: int) -> _Taken:
        """A file of the metrics has the iterations of the stage, or of one pack of what is dealt."""
        cost, files = stage_cost(self.config, self.facts, number), self._metrics()
        iterations = max(1, self.config.methods[number].iterations)
        shared = [portion for portion in cost.portions if portion.divided == "shared"]
        flops = sum(part_of(portion.count, self._workers()) * portion.flops for portion in shared) / iterations
        found = [self._iterations(name, flops) for name in files if name == f"distill-{number:03d}.jsonl" and shared]
        for portion in cost.portions:
            if portion.divided == "dealt":
                flops = portion.flops / math.ceil(portion.count / portion.at_once) / iterations
                packs = [name for name in files if name.startswith(f"recover-{number:03d}-")]
                found += [self._iterations(name, flops) for name in packs]
        return _Taken.sum(found)

    def _iterations(self, name: str, flops: float) -> _Taken:
        """All that a metrics file tells of, each of so many FLOPs."""
        with self._reading(name):
            seconds = [float(row["seconds"]) for row in self._rows(name)]
        return _Taken(flops * len(seconds), sum(seconds))

    def _worked(self, kind: str) -> list[tuple[float, float]]:
        """Units and seconds of pieces of work of a kind, from when they were first heard of to their end."""
        found: list[tuple[float, float]] = []
        began: dict[str, float] = {}
        with self._reading(EVENTS):
            for row in self._rows(EVENTS) if EVENTS in self._metrics() else ():
                event, task = row["event"], row.get("task", "")
                if Work.titled(task).kind != kind:
                    continue
                if event == "work_began":
                    began[task] = float(row["done"])
                elif event == "work_resumed":
                    began.pop(task, None)
                elif event == "work_ended" and (first := began.pop(task, row["total"])) < row["total"]:
                    found.append((float(row["total"]) - first, float(row["seconds"])))
        return found

    def _metrics(self) -> list[str]:
        return (self.folder / METRICS).files()

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / METRICS).read(name).decode().splitlines()]

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Say which file of the metrics is not as it was written."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            where = (self.folder / METRICS).uri
            raise ArtefactError(f"{where}/{name}: damaged ({error!r}); name another run") from error

    def _workers(self) -> int:
        """That shared a batch."""
        asked = self.config.cluster.num_workers
        return 1 if asked == "auto" else asked

    def _on_one_gpu(self, count: int) -> int:
        """How many processes of so many shared a GPU, and its time."""
        devices = records.read(self.folder / "results")["device"].unique().to_pylist()
        if all(device == "cpu" for device in devices):
            return 1
        return max(1, min(self.config.cluster.experts_per_gpu, math.ceil(count / self._workers())))
