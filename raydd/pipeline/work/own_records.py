"""Records in a run's results that are not of its sets: of one that was deleted to be made anew, or of another run."""

from typing import Final

from raydd.core.progress import Progress, Work
from raydd.evaluation import records
from raydd.pipeline.runs.run import Run

ASIDE: Final = "records of other sets"
"""The folder in `work` to which they are moved."""


def set_aside(run: Run, progress: Progress) -> None:
    """Move them to where nobody counts them, and say so.

    Raises:
        ArtefactError: a record is damaged.
    """
    own = {stage.union_key for stage in run.stages}
    if count := records.set_aside(run.results, own, run.work / ASIDE):
        progress.update(Work("records", "of other sets"), count, count, f"moved to {(run.work / ASIDE).uri}")
