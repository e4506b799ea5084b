"""One ingredient after the other by the workers of a job: all take a piece together, or pieces are dealt to them.

All is idempotent: a job that begins again, with as many workers or with others, finds what is finished and picks up
what is not. Whoever needs what others make waits until it sees it: files may reach one machine later than another.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from raydd.core.distributed import first_tells, rank, world_size
from raydd.core.errors import RunError
from raydd.core.interruption import Interruption
from raydd.core.progress import NoProgress, Progress
from raydd.ingredients.base import SIGNALS, Ingredient

POLL_SECONDS: Final = 0.5


def make_together(
    ingredients: Sequence[Ingredient[Any]], progress: Progress, interruption: Interruption = SIGNALS
) -> None:
    """Make ingredients as every worker of a group does it; a process alone is the only worker.

    Args:
        ingredients: in an order in which one needs the other, the same on all workers; those that are there are
            skipped.
        progress: is told by the first worker, and by the others of pieces of their own.
        interruption: tells work that keeps no state of every step to end in order.

    Raises:
        Interrupted: it was broken off; what was under way is saved.
        RunError: an ingredient is not all there after it was made.
    """
    for ingredient in ingredients:
        _make(ingredient, progress, interruption)


def _make(ingredient: Ingredient[Any], progress: Progress, interruption: Interruption) -> None:
    """What is left to make is what the first worker finds: others may look when some of it is made."""
    is_first = rank() == 0
    pieces = first_tells(list(ingredient.pieces()) if is_first and not ingredient.is_made() else None)
    if pieces is not None:
        told = progress if is_first or ingredient.deals_pieces else NoProgress()
        for piece in pieces[rank() :: world_size()] if ingredient.deals_pieces else pieces:
            ingredient.make(piece, told, interruption)
        if is_first:
            if ingredient.deals_pieces:
                _wait_for(lambda: not ingredient.num_missing(), ingredient)
            ingredient.finish()
    _wait_for(ingredient.is_made, ingredient)


def _wait_for(ready: Callable[[], bool], ingredient: Ingredient[Any]) -> None:
    """Wait for what other workers make; with a worker that dies, all are stopped.

    Raises:
        RunError: it is not there, and there are no others.
    """
    while not ready():
        if world_size() == 1:
            raise RunError(
                f"{ingredient.named}: not all there after it was made; was something deleted meanwhile? run again"
            )
        time.sleep(POLL_SECONDS)
