"""The work of evaluating, which all methods share.

Letters: N real images, M synthetic images, D values of an image, F features.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from raydd.config import RunConfig
from raydd.config.lineup import plan_trials
from raydd.data import DataFacts
from raydd.data.size import data_bytes
from raydd.evaluation.students.step_search import DOUBLINGS, most_trainings
from raydd.evaluation.students.trials import Trial
from raydd.networks.config import NetworkConfig
from raydd.plan.sizes import num_synthetic, record_bytes, set_bytes
from raydd.plan.step import Step, together
from raydd.training.cost import SAVE_FACTOR, Cost, num_features, predicting, state_size, training, training_bytes
from raydd.training.views import ViewsConfig

SELECTION_HEADER_BYTES = 1_200
"""Of a selection: Parquet schema and footer, and manifest."""
SELECTION_ROW_BYTES = 7
"""Of one image that either way chooses, compressed: its row for both (measured 7.0 to 7.5)."""


def trials_of(config: RunConfig, facts: DataFacts) -> list[Trial]:
    """All students."""
    source = config.data.source
    return plan_trials(config.evaluate, config.network, config.methods, config.stages, facts.num_classes, source)


def evaluate(config: RunConfig, facts: DataFacts) -> Step:
    """All students, what experts or the teacher see for labels and the diversity of images, and the choice of coresets.

    Students that go through the stages are kept from one to the next.
    """
    trials = trials_of(config, facts)
    legs = [leg for trial in trials for leg in trial.legs()]
    trainings = [training_on(config, facts, leg) for leg in legs]
    searches = searching(config, facts, trials)
    between = [training_bytes(trial.network, trial.recipe, facts) * (len(trial.legs()) - 1) for trial in trials]
    own = Step(
        work="evaluate",
        makes="students",
        units=len(trials),
        optimizer_steps=sum(leg.recipe.steps(num_trained_on(config, facts, leg)) for leg in (*legs, *searches)),
        flops=sum(cost.flops for cost in trainings)
        + sum(training_on(config, facts, trial).flops for trial in searches)
        + _looking(config, facts, legs),
        disk_bytes=len(legs) * record_bytes(facts.num_classes),
        working_disk_bytes=sum(between),
        peak_tensor_bytes=max(cost.tensor_bytes for cost in trainings),
        peak_memory_bytes=data_bytes(config.data, facts)
        + 2 * set_bytes(config, facts)
        + max(cost.memory_bytes for cost in trainings),
    )
    return together([own, *selecting(config, facts, trials)], own.makes)


def _looking(config: RunConfig, facts: DataFacts, legs: Sequence[Trial]) -> int:
    """FLOPs of the teacher or an expert, which is shown every set once, but all the data, to see how diverse it is."""
    network = _observing(config)
    if network is None:
        return 0
    sets = {(leg.subject, leg.draw, leg.stage, leg.mode == "new_only"): leg for leg in legs if leg.subject != "full"}
    shown = sum(num_trained_on(config, facts, leg) for leg in sets.values())
    return predicting(network, facts).flops_of(shown)


def _observing(config: RunConfig) -> NetworkConfig | None:
    """The network to which sets are shown, of those that are made first; None where none is."""
    if "teacher" in config.method.made_first:
        return config.teacher_network
    return config.network if "experts" in config.method.made_first else None


def selecting(config: RunConfig, facts: DataFacts, trials: Sequence[Trial]) -> list[Step]:
    """The training of the network by whose features real images are chosen, and its sight of all; if there is a choice.

    Features are compared in twice the precision, those of a class at once.
    """
    if all(trial.coreset is None for trial in trials) or "selection" in config.method.made_first:
        return []
    return [selection(config, facts)]


def selection(config: RunConfig, facts: DataFacts) -> Step:
    """The training of that network, and its sight of all."""
    network, recipe = config.network, config.evaluate.selector
    one = training(network, recipe, facts, facts.num_train, facts.num_train)
    checkpoint = training_bytes(network, recipe, facts)
    of_class = math.ceil(facts.num_train / facts.num_classes)
    compared = of_class * (4 * facts.values + 12 * num_features(network, facts))
    return Step(
        work="evaluate",
        makes="a selection",
        units=0,
        optimizer_steps=recipe.steps(facts.num_train),
        flops=one.flops,
        disk_bytes=SELECTION_HEADER_BYTES + SELECTION_ROW_BYTES * num_synthetic(config, facts),
        working_disk_bytes=2 * checkpoint,
        peak_tensor_bytes=one.tensor_bytes,
        peak_memory_bytes=data_bytes(config.data, facts)
        + max(one.memory_bytes, SAVE_FACTOR * checkpoint, state_size(network, facts) + compared),
    )


def searching(config: RunConfig, facts: DataFacts, trials: Sequence[Trial]) -> list[Trial]:
    """The trainings, at most, that find step sizes and epochs, and by how much longer the full data's students take."""
    common = dict.fromkeys(replace(trial, student_seed=0, draw=0) for trial in trials if trial.searched)
    tried = [trial for trial in common for _ in range(most_trainings(trial.subject == "full"))]
    longer = [trial for trial in trials if trial.searched and trial.subject == "full"]
    return [*tried, *((1 << DOUBLINGS) - 1) * longer]


def num_trained_on(config: RunConfig, facts: DataFacts, leg: Trial) -> int:
    """The images that a student sees in an epoch."""
    if leg.subject == "full":
        return facts.num_train
    if leg.selects_real:
        return num_synthetic(config, facts)
    first = leg.stage if leg.mode == "new_only" else 0
    methods = config.methods[first : leg.stage + 1]
    return facts.num_classes * sum(method.images_per_class * method.decoded_images for method in methods)


def pixel_bytes(views: ViewsConfig, set_bytes: int) -> tuple[int, int]:
    """What views keep of a set that takes so many bytes, and the most that it takes to make them.

    That is the images and their pixels, with RandAugment two more copies, as those are rounded.
    """
    return (set_bytes // 4, 4 * set_bytes) if views.randaugment_ops else (set_bytes, 2 * set_bytes)


def training_on(config: RunConfig, facts: DataFacts, trial: Trial) -> Cost:
    """A student's training on one set."""
    num_images = num_trained_on(config, facts, trial)
    cost = training(trial.network, trial.recipe, facts, num_images, facts.num_test + facts.num_validation)
    return labelled(config, facts, trial, cost)


def labelled(config: RunConfig, facts: DataFacts, trial: Trial, cost: Cost) -> Cost:
    """A training of so much together with the labels of its images: by experts, or by a teacher, which sees views."""
    num_images = cost.images
    if trial.uses_experts:
        seen = config.experts.count * num_images
        return replace(cost, flops=cost.flops + predicting(config.network, facts).flops_of(seen))
    if trial.recipe.views is None:
        return cost
    seen = num_images * trial.recipe.epochs * (trial.labels == "online")
    kept, making = pixel_bytes(trial.recipe.views, 4 * num_images * facts.values)
    resident = kept + state_size(config.teacher_network, facts)
    return replace(
        cost,
        flops=cost.flops + predicting(config.teacher_network, facts).flops_of(seen),
        tensor_bytes=max(resident + cost.tensor_bytes, making),
        memory_bytes=max(resident + cost.memory_bytes, making),
    )
