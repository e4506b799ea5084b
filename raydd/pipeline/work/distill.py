"""Distilling one stage, as every worker does it: alone, or together through `torch.distributed`.

All is idempotent: what is finished is found, what is not is picked up.
"""

from dataclasses import asdict, replace
from typing import Any, cast

import torch

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress, Work
from raydd.methods import Method
from raydd.methods.decoupled.family import GroupMethod
from raydd.methods.outer_loop import StageRecord, run_stage
from raydd.pipeline.runs.run import versions
from raydd.pipeline.runs.stage import Stage, has_set
from raydd.pipeline.work import auto
from raydd.sets.synthetic import SyntheticSet, by_class
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, Rhythm, is_first_worker


def match(stage: Stage, progress: Progress, interruption: Interruption) -> None:
    """Distil a stage whose steps all workers take together, from its newest checkpoint where there is one.

    Raises:
        Interrupted: it was broken off; what was under way is saved.
    """
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


def missing_packs(stage: Stage) -> list[tuple[int, ...]]:
    """The packs of class groups that are not finished; finished groups of theirs stay as they are.

    Which groups go together depends on their numbers alone, not on what is finished.
    """
    packs = torch.arange(stage.num_groups).split(stage.run.config.cluster.groups_at_once)
    groups = (tuple(pack.tolist()) for pack in packs)
    return [pack for pack in groups if not all(map(stage.has_group, pack))]


def recover(stage: Stage, groups: tuple[int, ...], progress: Progress, interruption: Interruption) -> None:
    """Recover a pack of class groups and write each.

    Raises:
        Interrupted: it was broken off; what was under way is saved.
    """
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
                described(stage, part).save(folder, stage.key)
    checkpoints.delete()


def join(stage: Stage) -> None:
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
        described(stage, made).save(folder, stage.key)


def described(stage: Stage, made: SyntheticSet) -> SyntheticSet:
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
