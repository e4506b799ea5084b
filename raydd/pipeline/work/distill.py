"""Distilling, stage by stage, as every worker does it: alone, or together through `torch.distributed`.

All is idempotent: what is finished is found, what is not is picked up. Whatever is dealt out goes by number, not by
what is left, and whoever needs what others make waits until it is there.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import torch
import torch.distributed as dist

from raydd.core.errors import RunError
from raydd.core.interruption import Interruption
from raydd.core.progress import Progress, Work
from raydd.ingredients import experts
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.methods import Method
from raydd.methods.decoupled.family import GroupMethod
from raydd.methods.outer_loop import StageRecord, run_stage
from raydd.pipeline.runs.run import Run, versions
from raydd.pipeline.runs.stage import Stage, has_set
from raydd.pipeline.work import auto, transitions
from raydd.sets.synthetic import KIND as SYNTHETIC
from raydd.sets.synthetic import SyntheticSet, by_class
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, Rhythm, is_first_worker

POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class DistilledSet(Ingredient[SyntheticSet]):
    """The distilled set: workers walk the stages together, and the union of all stages is the set."""

    run: Run

    kind = SYNTHETIC
    title = "distill"

    @property
    def spread(self) -> Spread:
        """One job, whose workers share every synthetic batch, or deal out class groups."""
        return "train"

    @property
    def every_worker_tells(self) -> bool:
        """Whether workers do different things: they recover class groups of their own."""
        return any(stage.has_groups for stage in self.run.stages)

    def key(self) -> str:
        """Of the union of all stages."""
        return self.run.synthetic_key

    def is_made(self) -> bool:
        """Whether it is finished, and its average where there has to be one."""
        return self.run.has_synthetic()

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """What the method needs, and the scores that a filter of real images goes by."""
        scores = self.run.scores
        return (*self.run.made_first.values(), *(() if scores is None else (scores,)))

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        """Walk the stages.

        Raises:
            Interrupted: it was broken off; what was under way is saved.
        """
        for stage in self.run.stages:
            if not stage.is_finished:
                _prepare(self.run, stage, progress)
                _distill(stage, progress, interruption)

    def finish(self) -> None:
        """Write the union of all stages."""
        run = self.run
        for stage in run.stages:
            if stage.has_groups and not stage.is_finished:
                _join(stage)
        for name in run.sets:
            if not run.has_set(run.folder / name):
                _described(run.last_stage, run.last_stage.union(name)).save(run.folder / name, run.synthetic_key)

    def open(self) -> SyntheticSet:
        """The set."""
        return SyntheticSet.load(self.run.synthetic)


def _prepare(run: Run, stage: Stage, progress: Progress) -> None:
    """Have everything there that a stage begins with."""
    if stage.uses_pool:
        for needed in run.stages[1 : stage.number + 1]:
            _make_pool(run, needed, progress)
    filtered = stage.filtered
    if filtered is not None:
        what = f"the real data of stage {stage.number}"
        _settle(lambda: True, filtered.choose, lambda: filtered.is_chosen, what)
    if stage.uses_trajectories:
        _make_trajectories(stage, progress)


def _make_pool(run: Run, stage: Stage, progress: Progress) -> None:
    """Train the networks in which a stage begins."""
    if stage.pool.is_finished:
        return
    for numbers in _dealt(stage):
        transitions.pass_on(run, stage, numbers, progress)
    what = f"the networks of stage {stage.number}"
    _settle(lambda: not stage.pool.missing(), stage.pool.publish, lambda: stage.pool.is_finished, what)


def _make_trajectories(stage: Stage, progress: Progress) -> None:
    """Train trajectories from there."""
    if stage.has_trajectories:
        return
    for numbers in _dealt(stage):
        transitions.train_experts(stage, numbers, progress)
    what = f"the trajectories of stage {stage.number}"
    _settle(lambda: not stage.missing_trajectories(), stage.publish_trajectories, lambda: stage.has_trajectories, what)


def _distill(stage: Stage, progress: Progress, interruption: Interruption) -> None:
    """Distil one stage, in one piece or by class groups."""
    what = f"the images of stage {stage.number}"
    if stage.has_groups:
        _recover_groups(stage, progress, interruption)
        if stage.number < stage.config.count - 1:
            _settle(lambda: stage.has_all_groups, lambda: _join(stage), lambda: stage.is_finished, what)
        return
    _match(stage, progress, interruption)
    _wait_for(lambda: stage.is_finished, what)
    if is_first_worker() and stage.uses_trajectories and not stage.config.keep_trajectories:
        stage.trajectories.folder.delete_all()


def _match(stage: Stage, progress: Progress, interruption: Interruption) -> None:
    """Distil a stage whose steps all workers take together, from its newest checkpoint where there is one."""
    run, task = stage.run, stage.task()
    if stage.method.unrolls:
        task = replace(task, compiled=auto.compiles_matching(stage), rows_at_once=auto.rows_at_once(stage))
    method = stage.method.build(task, stage.start(), stage.draws)
    checkpoints = Checkpoints(run.work / "checkpoints", f"stage-{stage.number:03d}-{stage.key}")
    _save(stage, stage.folder / "init", method.result())
    work = Work("distil", "" if run.config.stages.count == 1 else f"stage {stage.number}")
    _iterate(stage, method, checkpoints, f"distill-{stage.number:03d}.jsonl", progress, interruption, work, shared=True)
    found = {"synthetic": method.result(), "ema": method.averaged(), "revised": method.revised()}
    for name, made in found.items():
        if made is not None:
            _save(stage, stage.folder / name, made)
    if is_first_worker():
        checkpoints.delete()


def _recover_groups(stage: Stage, progress: Progress, interruption: Interruption) -> None:
    """Recover this worker's share of the class groups, a pack at a time; finished ones stay as they are.

    Who has what, and which groups go together, depends on their numbers alone, not on what is finished.
    """
    packs = torch.arange(stage.num_groups).split(stage.run.config.cluster.groups_at_once)
    for pack in packs[_first() :: _workers()]:
        groups = tuple(pack.tolist())
        if not all(map(stage.has_group, groups)):
            _recover(stage, groups, progress, interruption)


def _recover(stage: Stage, groups: tuple[int, ...], progress: Progress, interruption: Interruption) -> None:
    """Recover a pack of class groups and write each."""
    run, task = stage.run, replace(stage.task(), groups=groups)
    method = cast(GroupMethod, stage.method.build(task, stage.start(), stage.draws))
    starts = method.results()
    name = f"{stage.number:03d}-{groups[0]:05d}"
    checkpoints = Checkpoints(run.work / "checkpoints", f"groups-{name}-{len(groups)}-{stage.key}")
    work = Work("recover", f"{groups[0] + 1}-{groups[-1] + 1} of {stage.num_groups} groups")
    _iterate(stage, method, checkpoints, f"recover-{name}.jsonl", progress, interruption, work, shared=False)
    for group, start, result in zip(groups, starts, method.results(), strict=True):
        for kind, part in (("init", start), ("synthetic", result)):
            folder = stage.group(group) / kind
            if not has_set(folder, stage.key):
                _described(stage, part).save(folder, stage.key)
    checkpoints.delete()


def _join(stage: Stage) -> None:
    """Put the class groups of a stage together."""
    for name in ("init", "synthetic"):
        parts = [SyntheticSet.load(stage.group(number) / name) for number in range(stage.num_groups)]
        _save(stage, stage.folder / name, by_class(parts))


def _iterate(
    stage: Stage,
    method: Method,
    checkpoints: Checkpoints,
    metrics_file: str,
    progress: Progress,
    interruption: Interruption,
    work: Work,
    *,
    shared: bool,
) -> None:
    """`run_stage` with what the config says; `work` is what progress is told of."""
    run_stage(
        method,
        stage.method.iterations,
        StageRecord(checkpoints, Rhythm(stage.run.config.cluster.checkpoint_seconds), stage.run.metrics, metrics_file),
        progress,
        interruption,
        task=work,
        shared=shared,
    )


def _save(stage: Stage, folder: Folder, made: SyntheticSet) -> None:
    """Write a set of this stage, as the first worker, unless it is there."""
    if is_first_worker() and not has_set(folder, stage.key):
        _described(stage, made).save(folder, stage.key)


def _described(stage: Stage, made: SyntheticSet) -> SyntheticSet:
    """A method's set with its card filled in."""
    config, data = stage.run.config, stage.run.data
    recipe = config.evaluate.recipe_for(config.network, config.images_per_class, data.num_classes, data.name)
    card: dict[str, Any] = {
        "dataset": data.name,
        "dataset_fingerprint": data.fingerprint,
        "method": asdict(stage.method),
        "network": config.network.label,
        "recipe": asdict(recipe),
        "run": config.name,
        "seeds": {"distill": config.seed, "experts": config.experts_seed},
        "versions": versions(),
    }
    return replace(made, card={**made.card, **card, **stage.card()})


def _dealt(stage: Stage) -> list[list[int]]:
    """This worker's share of the networks of a pool, in groups that train side by side."""
    return experts.packs(range(stage.config.pool_size), auto.agreed_pack(stage.run))[_first() :: _workers()]


def _settle(complete: Callable[[], bool], publish: Callable[[], None], finished: Callable[[], bool], what: str) -> None:
    """Wait until all workers have made their share, have the first one publish it, and wait for that."""
    if is_first_worker() and not finished():
        _wait_for(complete, what)
        publish()
    _wait_for(finished, what)


def _wait_for(ready: Callable[[], bool], what: str) -> None:
    """Wait for what other workers make; with a worker that dies, all are stopped.

    Raises:
        RunError: it is not there, and there are no others.
    """
    while not ready():
        if _workers() == 1:
            raise RunError(f"{what}: not all there after they were made; was something deleted meanwhile? run again")
        time.sleep(POLL_SECONDS)


def _first() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
