"""What has to be there before students are trained."""

from collections.abc import Sequence
from typing import Any

from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.ingredients.base import Ingredient
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.distilled_set import DistilledSet
from raydd.pipeline.work.stored_labels import StoredViewLabels


def needed_by(run: Run, trials: Sequence[Trial]) -> tuple[Ingredient[Any], ...]:
    """The set, and what students are trained on besides: experts' labels, stored ones, chosen real images."""
    stores = LabelStore.needed(trials, run.config.evaluate.label_epochs)
    labels = [StoredViewLabels(run, run, store) for store in stores]
    asked = "experts" in run.made_first and any(trial.uses_experts for trial in trials)
    chosen = any(trial.coreset is not None for trial in trials)
    return (DistilledSet(run, run), *[run.experts] * asked, *labels, *[run.selection] * chosen)
