"""The work of a run in stages: that of each, with the images of earlier ones beside it, and what lies between them.

A stage is planned as the run of its own that it would be; see `alone`. A run of one stage is planned by the same way.

Letters: N real images, F images of earlier stages, P stages.
"""

import math
from dataclasses import replace

from raydd.config import RunConfig
from raydd.config.stages import StagesConfig
from raydd.data import DataFacts
from raydd.evaluation.records import LabelRegime
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.experts import epochs_stored
from raydd.methods import DCConfig, DMConfig, DSAConfig, IDCConfig, MethodConfig
from raydd.methods.condensation.family import CONSTANTS_AT_ONCE
from raydd.methods.trajectory.matching import MatchingConfig
from raydd.plan import condensation, decoupled, imported, trajectories
from raydd.plan.cost import gradient_step, predicting, training
from raydd.plan.sizes import SAVE_FACTOR, data_bytes, num_synthetic, part_bytes, set_bytes
from raydd.plan.step import Step, together
from raydd.plan.students import labelled, training_bytes, whole_set

SCORE_BYTES = 5
"""Of one image in the forgetting scores: row, class, count and whether it was learned, compressed."""


def alone(config: RunConfig, facts: DataFacts, stage: int) -> RunConfig:
    """The run of one stage that a stage would be, with what it matches and without the images of earlier ones.

    Where those are learned too, they count as its own.
    """
    method, experts = _method(config, facts, stage), config.experts
    if config.uses_trajectories(stage):
        recipe = replace(experts.training, epochs=config.trajectory_epochs(stage))
        experts = replace(experts, count=config.stages.pool_size, training=recipe)
    once = replace(config.evaluate, modes=None)
    return replace(config, method=method, experts=experts, stages=StagesConfig(), evaluate=once)


def num_frozen(config: RunConfig, facts: DataFacts, stage: int) -> int:
    """F: the images of earlier stages that are constants in a stage."""
    stages, teaches = config.stages, config.method.works_on == "teacher"
    if (
        not stages.freezes(stage)
        or stages.frozen_lr_scale
        or (teaches and "statistics" not in stages.teacher_conditions)
    ):
        return 0
    return facts.num_classes * _earlier(config, stage)


def _num_stored(config: RunConfig) -> int:
    """Epochs of a trajectory that a stage by itself stores."""
    return len(epochs_stored(config.experts, config.matching.epochs_read(config.experts.training.epochs)))


def experts(config: RunConfig, facts: DataFacts) -> Step:
    """The trajectories on which the run begins, and those that begin in the pools of later stages.

    The latter are there until their stage is distilled, unless they are to be kept.
    """
    numbers = range(config.stages.count)
    own = [stage for stage in numbers if config.uses_trajectories(stage)]
    readers = [alone(config, facts, stage) for stage in numbers if stage not in own]
    last_epoch = config.experts.training.epochs
    read = {epoch for reader in readers for epoch in reader.matching.epochs_read(last_epoch)}
    stored = epochs_stored(config.experts, read) if readers else []
    steps = [trajectories.experts(alone(config, facts, 0), facts, len(stored))]
    for stage in own:
        like = alone(config, facts, stage)
        step = trajectories.experts(like, facts, _num_stored(like))
        if not config.stages.keep_trajectories:
            step = replace(step, disk_bytes=0, working_disk_bytes=step.working_disk_bytes + step.disk_bytes)
        steps.append(step)
    later = sorted({config.trajectory_epochs(stage) for stage in own})
    makes = steps[0].makes
    if later:
        makes += f", and {len(own)} x {config.stages.pool_size} of {', '.join(map(str, later))} epochs from pools"
    return together(steps, makes)


def forgetting(config: RunConfig, facts: DataFacts) -> Step:
    """The training whose forgetting is counted, with a prediction of all training images after every epoch."""
    assert config.stages.filter is not None
    recipe = config.stages.filter.scoring
    one = training(config.network, recipe, facts, facts.num_train, recipe.epochs * facts.num_train)
    checkpoint = training_bytes(config.network, recipe, facts)
    return Step(
        work="forgetting",
        makes=f"training images scored in {recipe.epochs} epochs",
        units=facts.num_train,
        optimizer_steps=recipe.steps(facts.num_train),
        flops=one.flops,
        disk_bytes=SCORE_BYTES * facts.num_train,
        working_disk_bytes=2 * checkpoint,
        peak_tensor_bytes=one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts) + max(one.memory_bytes, SAVE_FACTOR * checkpoint),
    )


def transition(config: RunConfig, facts: DataFacts) -> Step:
    """The networks of the pools: each goes through the union of the stages so far, before every later stage."""
    own = filter(config.uses_pool, range(1, config.stages.count))
    steps = [transition_stage(config, facts, stage) for stage in own]
    return together(steps, f"networks through the unions of stages ({config.network.label})")


def distill(config: RunConfig, facts: DataFacts) -> Step:
    """All stages, and the union of what they make.

    A stage's step has, like that of a run of its own, the disk of the run's result beside that of the stage's.
    """
    numbers = range(config.stages.count)
    steps = [distill_stage(config, facts, stage) for stage in numbers]
    if len(steps) == 1:
        return steps[0]
    results = sum(_result_bytes(alone(config, facts, stage), facts) for stage in numbers)
    what = "class groups" if config.method.works_on == "teacher" else "outer iterations"
    whole = together(
        steps, f"{what} of {config.method.name} in {len(steps)} stages ({whole_set(config, facts)[0]} images)"
    )
    return replace(whole, disk_bytes=whole.disk_bytes - results + _result_bytes(config, facts))


def distill_stage(config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """One stage, without what it begins with."""
    like, frozen = alone(config, facts, stage), num_frozen(config, facts, stage)
    if config.method.works_on == "trajectories":
        return trajectories.distill(like, facts, frozen)
    if config.method.name == "imported":
        return imported.distill(like, facts)
    if config.method.works_on == "data":
        return _beside_constants(condensation.distill(like, facts), config, facts, stage)
    step = decoupled.distill(like, facts)
    asked = config.uses_pool(stage) and "disagreement" in config.stages.teacher_conditions
    seen = predicting(config.teacher_network, facts).flops_of(frozen)
    known = decoupled.disagreement(like, facts, config.stages.pool_size) if asked else 0
    constants = frozen * set_bytes(like, facts) // num_synthetic(like, facts)
    return replace(step, flops=step.flops + seen + known, peak_memory_bytes=step.peak_memory_bytes + constants)


def transition_stage(config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """The networks of one stage's pool; where they choose the stage's real images, all of which they are shown, too."""
    count, methods = config.stages.pool_size, config.methods[:stage]
    images_per_class = config.images_per_class
    recipe = config.stages.transition(
        config.evaluate.recipe_for(config.network, images_per_class, facts.num_classes, config.data.source)
    )
    asks = config.method.works_on == "teacher" and config.evaluate.regimes(config.method)[0] != "hard"
    labels: LabelRegime = "online" if asks else "hard"
    trial = Trial(subject="synthetic", labels=labels, network=config.network, recipe=recipe, student_seed=0)
    num_images = facts.num_classes * sum(method.images_per_class * method.decoded_images for method in methods)
    one = labelled(config, facts, trial, training(config.network, recipe, facts, num_images, 0))
    pack, stored = trajectories.pack_size(config, count), training_bytes(config.network, recipe, facts)
    shown = predicting(config.network, facts).flops_of(facts.num_train) * config.stages.filters_by_pool
    return Step(
        work="transition",
        makes="networks",
        units=count,
        optimizer_steps=count * recipe.steps(num_images),
        flops=count * (one.flops + shown),
        disk_bytes=count * stored,
        working_disk_bytes=count * stored,
        peak_tensor_bytes=pack * one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts)
        + 4 * num_images * facts.values
        + pack * max(one.memory_bytes, SAVE_FACTOR * stored),
    )


def _earlier(config: RunConfig, stage: int) -> int:
    """Images per class of the stages before one."""
    return sum(method.images_per_class for method in config.methods[:stage])


def _method(config: RunConfig, facts: DataFacts, stage: int) -> MethodConfig:
    """The method of a stage as it is alone: with earlier images that are learned too, or its share of what is shown."""
    method, stages = config.methods[stage], config.stages
    if not stages.freezes(stage):
        return method
    own, earlier = method.images_per_class, _earlier(config, stage)
    learned = earlier if stages.frozen_lr_scale else 0
    if isinstance(method, IDCConfig):
        shown = sum(_share(method, part, own + earlier) for part in (own, learned))
        return replace(method, images_per_class=own + learned, decoded_per_class=shown)
    if isinstance(method, MatchingConfig):
        batch_size = method.synthetic_batch_size or own * facts.num_classes
        return replace(method, images_per_class=own + learned, synthetic_batch_size=batch_size)
    if isinstance(method, DCConfig | DSAConfig):
        rounds, epochs = method.loops
        return replace(method, images_per_class=own + learned, outer_loops=rounds, inner_epochs=epochs)
    return replace(method, images_per_class=own + learned)


def _share(method: IDCConfig, images: int, total: int) -> int:
    """Decoded images of a class that some of its images have among those that are compared."""
    return math.ceil(method.decoded_per_class * images / total)


def _beside_constants(step: Step, config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """The distilling of a stage whose images are compared together with those of earlier stages.

    Those go through the network a few at a time, and have gradients by its parameters alone.
    """
    method, frozen = config.methods[stage], num_frozen(config, facts, stage)
    if not frozen:
        return step
    constants = frozen * set_bytes(config, facts) // num_synthetic(config, facts)
    return replace(
        step,
        flops=step.flops + method.iterations * _constants_flops(config, facts, method, frozen),
        peak_tensor_bytes=step.peak_tensor_bytes + constants,
        peak_memory_bytes=step.peak_memory_bytes + 2 * constants,
    )


def _constants_flops(config: RunConfig, facts: DataFacts, method: MethodConfig, frozen: int) -> int:
    """FLOPs of one iteration that come from F images of earlier stages."""
    if isinstance(method, DMConfig):
        return predicting(config.network, facts).flops_of(frozen)
    gradient = gradient_step(config.network, facts, min(frozen // facts.num_classes, CONSTANTS_AT_ONCE))
    if isinstance(method, IDCConfig):
        earlier = frozen // facts.num_classes
        share = _share(method, earlier, earlier + method.images_per_class)
        shown = min(earlier * method.decoded_images, share)
        return method.inner_loops * gradient.flops_of(shown * facts.num_classes)
    assert isinstance(method, DCConfig | DSAConfig)
    rounds, epochs = method.loops
    return gradient.flops_of(frozen) * (rounds + (rounds - 1) * epochs)


def _result_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The distilled set of a run, and its average."""
    num_images, exact = whole_set(config, facts)[0], config.method.works_on == "teacher"
    results = 1 + config.method.has_average
    return results * part_bytes(config, facts, num_images, facts.num_classes, exact)
