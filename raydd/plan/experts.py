"""The work of training experts: those on which a run begins, and those of later stages.

Letters: P parameters.
"""

import math
from dataclasses import replace

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.size import data_bytes
from raydd.ingredients.experts import ExpertsConfig, epochs_stored
from raydd.plan.sizes import trajectory_bytes
from raydd.plan.step import Step, together
from raydd.training.cost import SAVE_FACTOR, TENSOR_HEADER_BYTES, network_size, training


def pack_size(config: RunConfig, count: int) -> int:
    """How many networks are trained side by side."""
    return 1 if config.cluster.pack == "auto" else min(config.cluster.pack, count)


def experts_of(config: RunConfig, stage: int) -> ExpertsConfig:
    """Those whose trajectories a stage matches: the run's, or as many as begin in a pool."""
    experts = config.experts
    if not config.uses_trajectories(stage):
        return experts
    recipe = replace(experts.training, epochs=config.trajectory_epochs(stage))
    return replace(experts, count=config.stages.pool_size, training=recipe)


def trajectories(config: RunConfig, facts: DataFacts, stage: int, num_epochs: int) -> Step:
    """The training, and a test every `test_every` epochs and after the last.

    Args:
        config: the run.
        facts: the dataset's size.
        stage: that matches them.
        num_epochs: how many of a trajectory are stored.
    """
    experts = experts_of(config, stage)
    recipe, count = experts.training, experts.count
    pack = pack_size(config, count)
    tests = math.ceil(recipe.epochs / (experts.test_every or recipe.epochs))
    one = training(config.network, recipe, facts, facts.num_train, tests * facts.num_test)
    size, tensors = network_size(config.network, facts)
    snapshot = (2 if recipe.momentum else 1) * (4 * size + tensors * TENSOR_HEADER_BYTES)
    return Step(
        work="experts",
        makes=f"trajectories of {recipe.epochs} epochs ({config.network.label})",
        units=count,
        optimizer_steps=count * recipe.steps(facts.num_train),
        flops=count * one.flops,
        disk_bytes=count * trajectory_bytes(size, num_epochs),
        working_disk_bytes=pack * (recipe.epochs + 1) * snapshot,
        peak_tensor_bytes=pack * one.tensor_bytes,
        peak_memory_bytes=data_bytes(config.data, facts) + pack * max(one.memory_bytes, SAVE_FACTOR * snapshot),
    )


def experts(config: RunConfig, facts: DataFacts) -> Step:
    """The trajectories on which the run begins, and those that begin in the pools of later stages.

    The latter are there until their stage is distilled, unless they are to be kept.
    """
    numbers = range(config.stages.count)
    own = [stage for stage in numbers if config.uses_trajectories(stage)]
    last_epoch = config.experts.training.epochs
    readers = [config.methods[stage].epochs_read(last_epoch) for stage in numbers if stage not in own]
    stored = epochs_stored(config.experts, set().union(*readers)) if readers else []
    steps = [trajectories(config, facts, 0, len(stored)), *(_later(config, facts, stage) for stage in own)]
    later = sorted({config.trajectory_epochs(stage) for stage in own})
    makes = steps[0].makes
    if later:
        makes += f", and {len(own)} x {config.stages.pool_size} of {', '.join(map(str, later))} epochs from pools"
    return together(steps, makes)


def _later(config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """The trajectories that a later stage matches, and that no other does."""
    experts = experts_of(config, stage)
    stored = epochs_stored(experts, config.methods[stage].epochs_read(experts.training.epochs))
    step = trajectories(config, facts, stage, len(stored))
    if config.stages.keep_trajectories:
        return step
    return replace(step, disk_bytes=0, working_disk_bytes=step.working_disk_bytes + step.disk_bytes)
