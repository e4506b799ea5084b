"""The work between the stages of a run: forgetting scores, and networks that go through the unions of stages.

Letters: N real images.
"""

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.size import data_bytes
from raydd.evaluation.record import LabelRegime
from raydd.evaluation.students.trials import Trial
from raydd.plan.experts import pack_size
from raydd.plan.step import Step, together
from raydd.plan.students import labelled
from raydd.training.cost import SAVE_FACTOR, predicting, training, training_bytes

SCORE_BYTES = 5
"""Of one image in the forgetting scores: row, class, count and whether it was learned, compressed."""


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
        peak_memory_bytes=data_bytes(config.data, facts) + max(one.memory_bytes, SAVE_FACTOR * checkpoint),
    )


def transition(config: RunConfig, facts: DataFacts) -> Step:
    """The networks of the pools: each goes through the union of the stages so far, before every later stage."""
    own = filter(config.uses_pool, range(1, config.stages.count))
    steps = [transition_stage(config, facts, stage) for stage in own]
    return together(steps, f"networks through the unions of stages ({config.network.label})")


def transition_stage(config: RunConfig, facts: DataFacts, stage: int) -> Step:
    """The networks of one stage's pool; where they choose the stage's real images, all of which they are shown, too."""
    count, methods = config.stages.pool_size, config.methods[:stage]
    images_per_class = config.images_per_class
    recipe = config.stages.transition(
        config.evaluate.recipe_for(config.network, images_per_class, facts.num_classes, config.data.source)
    )
    asks = config.evaluate.regimes(config.method)[0] in ("online", "replayed")
    labels: LabelRegime = "online" if asks else "hard"
    trial = Trial(subject="synthetic", labels=labels, network=config.network, recipe=recipe, student_seed=0)
    num_images = facts.num_classes * sum(method.images_per_class * method.decoded_images for method in methods)
    one = labelled(config, facts, trial, training(config.network, recipe, facts, num_images, 0))
    pack, stored = pack_size(config, count), training_bytes(config.network, recipe, facts)
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
        peak_memory_bytes=data_bytes(config.data, facts)
        + 4 * num_images * facts.values
        + pack * max(one.memory_bytes, SAVE_FACTOR * stored),
    )
