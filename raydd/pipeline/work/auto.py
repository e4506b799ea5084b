"""What `auto` means in `cluster`.

It is decided from the plan and the machine and not by a clock, so that a resumed run goes on as it began.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Final

import torch.distributed as dist

from raydd import networks
from raydd.adjoint.compiled_steps import SAVED_FRACTION
from raydd.config.stages import StagesConfig
from raydd.core import compilation, process
from raydd.core.keyed_random import Key
from raydd.evaluation.students.trials import Trial, alike
from raydd.methods.trajectory.cost import matching_step
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs.run import Run
from raydd.pipeline.runs.stage import Stage
from raydd.plan import make_plan
from raydd.training import stacked
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from raydd.training.stacked import MEASURED_STEPS

SOME_LR: Final = 1e-3
"""What steps are measured with where the step size is learned: it does not matter."""


def student_packs(run: Run, trials: Sequence[Trial]) -> list[list[Trial]]:
    """The students in groups that a process trains side by side; see `pack`."""
    size = cache(lambda network, recipe: _student_pack(run, network, recipe))
    return [
        group[first : first + count]
        for group in alike(trials)
        for count in [size(group[0].network, group[0].recipe)]
        for first in range(0, len(group), count)
    ]


def _student_pack(run: Run, network: NetworkConfig, recipe: Recipe) -> int:
    """As `pack`; students with views of their own are trained one by one."""
    cluster = run.config.cluster
    if recipe.views is not None or (cluster.pack == "auto" and run.device.type == "cpu"):
        return 1
    if cluster.pack != "auto":
        return cluster.pack
    data = run.data.train
    rows = MEASURED_STEPS * recipe.batch_size
    return stacked.fastest(
        lambda size: Training(
            [networks.build(network, run.data.shape, run.data.num_classes).to(run.device) for _ in range(size)],
            data.images[:rows],
            data.labels[:rows],
            recipe.completed(SOME_LR),
            [Key.root(number) for number in range(size)],
            compiled=run.compiles(network, recipe, rows),
        )
    )


def compiles_matching(stage: Stage) -> bool:
    """Whether the inner steps of a stage's trajectory matching are compiled."""
    run, cluster = stage.run, stage.run.config.cluster
    once = replace(run.config.evaluate, modes=None)
    alone = replace(run.config, method=stage.method, experts=stage.experts, stages=StagesConfig(), evaluate=once)
    (flops,) = (step.flops for step in make_plan(alone, run.facts).steps if step.work == "distill")
    return compilation.chosen(cluster.compile, flops, run.device, cluster.threads_per_worker, SAVED_FRACTION)


def rows_at_once(stage: Stage) -> int:
    """Images of an inner step computed together: a worker's share, halved until it fits into half of the memory."""
    run, method = stage.run, stage.method
    cluster, facts = run.config.cluster, run.facts
    if cluster.rows_at_once != "auto":
        return cluster.rows_at_once
    workers = dist.get_world_size() if dist.is_initialized() else 1
    sharing = 1 if run.device.type == "cuda" else workers
    budget = process.memory_bytes(run.device) // (2 * sharing)
    earlier = run.config.methods[: stage.number] if stage.config.freezes(stage.number) else ()
    num_images = sum(each.images_per_class for each in (*earlier, method)) * facts.num_classes
    rows = math.ceil(
        min(method.step_images(facts.num_classes) or method.images_per_class * facts.num_classes, num_images) / workers
    )
    while rows > 1 and matching_step(run.config.network, facts, rows, method.has_soft_labels).memory_bytes > budget:
        rows = math.ceil(rows / 2)
    return rows
