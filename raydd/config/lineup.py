"""Which students a run trains: every subject x labels x draw x network x recipe x seed, each a `Trial` with a record.

Beside the distilled set, and its average over the iterations where the method keeps one, stand under the same recipe
what it has to beat: real images of the same number, drawn at random or chosen by k-center or herding, the method's own
starting state, and all the real data. Every one of them is trained on under each regime of `evaluate.labels`, but for
all the real data, whose labels are the classes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import get_args

from raydd.config.evaluate import EvaluateConfig
from raydd.config.stages import StagesConfig, matched_epochs
from raydd.evaluation.record import Budget, LabelRegime, StageMode, Subject
from raydd.evaluation.students.trials import SETS, Trial
from raydd.ingredients.coreset import Coreset
from raydd.methods import MethodConfig
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe


def plan_trials(
    config: EvaluateConfig,
    network: NetworkConfig,
    methods: Sequence[MethodConfig],
    stages: StagesConfig,
    num_classes: int,
    dataset: str,
) -> list[Trial]:
    """All trials of a run, in a fixed order: the distilled set first, the full data last.

    Args:
        config: what to train.
        network: the run's network.
        methods: what made each stage.
        stages: what chains take from it: epochs on each stage.
        num_classes: K.
        dataset: its name.
    """
    sizes = [num_classes * method.images_per_class * method.decoded_images for method in methods]
    images_per_class = sum(method.images_per_class for method in methods)
    return [
        Trial(
            subject=subject,
            labels=labels,
            draw=draw,
            network=student,
            recipe=_adapted(_paced(recipe, mode, budget, stages, sizes), subject, labels, config),
            student_seed=seed,
            mode=mode,
            budget=budget,
            stage=len(methods) - 1,
            measure_every=config.measure_every,
            searched=True if config.lr == "search" else None,
        )
        for subject, labels, draw in _subjects(config, methods[-1])
        for student in config.networks or (network,)
        for recipe in config.recipes_for(student, images_per_class, num_classes, dataset)
        for mode, budget in _ways(config, subject, labels, len(methods))
        for seed in range(1 if subject == "full" else config.num_students)
    ]


def _ways(
    config: EvaluateConfig, subject: Subject, labels: LabelRegime, num_stages: int
) -> list[tuple[StageMode, Budget]]:
    """How a set is trained on: the distilled one in all ways, what it is compared with at once."""
    modes: tuple[StageMode, ...] = config.modes or (("single_shot",) if num_stages == 1 else ("chain", "single_shot"))
    once: list[tuple[StageMode, Budget]] = [("single_shot", "reference")]
    if subject not in SETS:
        return once
    chained = [(mode, budget) for mode in modes for budget in config.budgets if mode != "single_shot"]
    return (chained if labels != "replayed" else []) + (once if "single_shot" in modes else [])


def _paced(recipe: Recipe, mode: StageMode, budget: Budget, stages: StagesConfig, sizes: Sequence[int]) -> Recipe:
    """The recipe with the epochs that a way of training spends on each of its sets.

    Args:
        recipe: for everything at once.
        mode: how the set is trained on.
        budget: of chains.
        stages: epochs of the reference budget.
        sizes: images of each stage.
    """
    if mode == "single_shot":
        return recipe
    if budget == "reference":
        return replace(recipe, epochs=stages.epochs)
    seen = accumulate(sizes) if mode == "chain" else sizes
    steps = [math.ceil(images / recipe.batch_size) for images in seen]
    return replace(recipe, epochs=matched_epochs(recipe.steps(sum(sizes)), steps))


def _subjects(config: EvaluateConfig, method: MethodConfig) -> list[tuple[Subject, LabelRegime, int]]:
    """Training sets with their labels and, of random images, the draw."""
    own, is_imported = config.regimes(method), method.is_given
    sets: list[Subject] = ["imported" if is_imported else "synthetic"]
    if method.has_average:
        sets.append("ema")
    subjects: list[tuple[Subject, LabelRegime, int]] = [(subject, labels, 0) for subject in sets for labels in own]
    compared = [labels for labels in own if labels != "replayed"]
    if "init" in config.baselines and not is_imported:
        subjects += [("init", labels, 0) for labels in compared]
    of_real = [labels for labels in compared if labels != "stored" or method.labels_real]
    draws = range(config.random_draws) if "random" in config.baselines else ()
    subjects += [("random", labels, draw) for draw in draws for labels in of_real]
    subjects += [
        (coreset, labels, 0) for coreset in get_args(Coreset) if coreset in config.baselines for labels in of_real
    ]
    return [*subjects, ("full", "hard", 0)] if "full" in config.baselines else subjects


def _adapted(recipe: Recipe, subject: Subject, labels: LabelRegime, config: EvaluateConfig) -> Recipe:
    """The recipe on classes in place of logits, and on the full data, whose epochs are longer."""
    if labels == "hard":
        recipe = replace(recipe, temperature=1.0)
    if subject == "full":
        lr = recipe.lr if config.full_lr is None else config.full_lr
        recipe = recipe.shortened(config.full_epochs, lr)
    return recipe
