"""Students of a distilled set alone: of what is in it, by its own recipe or another, with nobody else's labels.

Letters: M training images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import TypeAdapter

from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data.prepared import PreparedData
from raydd.evaluation.record import Record
from raydd.evaluation.students.training import Provenance, Pupil, TrainingSet, train_students
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.view_labels import HardLabels
from raydd.networks.config import NetworkConfig
from raydd.sets.synthetic import SyntheticSet
from raydd.training.recipe import Recipe
from raydd.training.views import ImageViews


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What students of a set are trained on, and how: their labels are those that are in the set."""

    training_set: TrainingSet
    recipe: Recipe
    """With the temperature of its labels: classes have none."""

    @classmethod
    def of(cls, stored: SyntheticSet, decoded: SyntheticSet, recipe: Recipe) -> "Lesson":
        """The lesson of a set under a recipe; where a teacher labelled views of it, classes of the same views.

        Args:
            stored: the set.
            decoded: the same as students see it.
            recipe: of the training.

        Raises:
            ConfigError: the loss of the recipe is not one of the set's labels.
        """
        if recipe.views is None and stored.soft_labels is not None:
            recipe.require_labels(stored.label_kind)
        if recipe.views is not None or stored.soft_labels is None:
            recipe = replace(recipe, temperature=1.0)
        views = None
        if recipe.views is not None:
            drawn = ImageViews(decoded.images, stored.preprocessing, recipe.views)
            views = HardLabels(drawn, decoded.labels, stored.num_classes)
        training_set = TrainingSet(
            images=decoded.images,
            targets=decoded.targets,
            label_kind=stored.label_kind,
            learned_lr=stored.learned_lr[-1],
            images_per_class=stored.images_per_class,
            bytes_total=stored.images.numel() * 4,
            views=views,
        )
        return cls(training_set=training_set, recipe=recipe)


def recipe_of(synthetic: SyntheticSet) -> Recipe | None:
    """The recipe on a set's card, if any."""
    said = synthetic.card.get("recipe")
    return None if said is None else TypeAdapter(Recipe).validate_python(said)


def student_key(seed: int) -> Key:
    """Of the draws of a student."""
    return Key.root(seed).child("student")


def tested_students(
    synthetic: SyntheticSet,
    data: PreparedData,
    network: NetworkConfig,
    recipe: Recipe | None,
    seeds: Sequence[int],
    progress: Progress,
) -> list[Record]:
    """Train students on a set and test them, one after the other, on a GPU where there is one; writes nothing.

    Args:
        synthetic: what to train on.
        data: the test images, in the set's own network space.
        network: of the students.
        recipe: None takes the one on the set's card.
        seeds: of the students.
        progress: is told after every epoch.
    """
    own = recipe_of(synthetic)
    chosen = recipe or own
    assert chosen is not None
    lesson = Lesson.of(synthetic, synthetic.decoded(), chosen)
    card: dict[str, Any] = dict(synthetic.card)
    provenance = Provenance(
        run=card.get("run", ""),
        method=card.get("method", {}).get("name", ""),
        dataset=data.name,
        recipe_name="own" if recipe is None else "given",
        distill_seed=card.get("seeds", {}).get("distill", 0),
        config_key="",
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trials = [
        Trial(
            subject="synthetic",
            labels="hard" if synthetic.soft_labels is None else "stored",
            network=network.sized(min(data.shape[1:])),
            recipe=lesson.recipe,
            student_seed=seed,
        )
        for seed in seeds
    ]
    return [
        student.record
        for trial in trials
        for student in train_students(
            [Pupil(trial, trial.record_id("", ""))], data, lesson.training_set, provenance, device, progress
        )
    ]
