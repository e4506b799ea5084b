"""Stages as the workers of a job distil them."""

from raydd.core.progress import NoProgress
from raydd.ingredients.job import make_together
from raydd.ingredients.order import everything
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.distilled_set import DistilledSet


def distilled_together(run: Run) -> None:
    """Distil all stages of a run whose other ingredients are there, as this worker of a group does it."""
    make_together([made for made in everything([DistilledSet(run, run)]) if made.spread == "train"], NoProgress())
