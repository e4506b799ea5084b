"""The step size at which trajectory matching starts, where it is to be found: `synthetic_lr_init: auto`.

The experts' own step size is the first guess. It goes too far where their segments are noisy: of many small steps
in different directions little is left, while the steps on a few synthetic images all add up. With r the length of
the way of the synthetic steps as a part of the expert's, and c the cosine of the two, the matching loss is
1 - 2 r c + r^2, which lies below 1 for r < 2 c alone. So where the guess does not do, it is halved until the loss of
a few segments falls no more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from raydd.core.errors import ConfigError

MEASURED_SEGMENTS: Final = 4
"""That are unrolled with every step size: the first ones that will be matched."""
MOST_HALVINGS: Final = 8
"""Of the guess."""


@dataclass(frozen=True)
class FoundStepSize:
    """A step size and what it does."""

    value: float
    loss: float
    """The mean matching loss of the measured segments; infinite where that is not finite."""


def first_step_size(expert_lr: float, expert_steps: int, synthetic_steps: int) -> float:
    """The guess: the experts' step size, or less where a segment has fewer steps than twice the inner ones.

    Half the way is nearer to the end than the start is, as soon as the cosine of the two directions exceeds 1/4.
    """
    return expert_lr * min(1.0, expert_steps / (2 * synthetic_steps))


def measured_step_size(guess: float, losses: Callable[[float], Sequence[float]], bound: float) -> FoundStepSize:
    """The guess where every segment's loss is finite and at most `bound`, and else what lowers the mean loss best.

    Args:
        guess: the first to be tried.
        losses: the matching losses of some segments with a step size.
        bound: on the losses, above which updates are skipped.

    Returns:
        Of the guess and its halves, `MOST_HALVINGS` times at most, the one with the lowest mean loss; smaller ones are
        tried until that is at most `bound` and they raise it again. It may still lie above `bound`.
    """
    first = losses(guess)
    best = FoundStepSize(guess, _mean(first))
    if all(loss <= bound for loss in first):
        return best
    for halvings in range(1, MOST_HALVINGS + 1):
        value = guess * 0.5**halvings
        found = FoundStepSize(value, _mean(losses(value)))
        if found.loss < best.loss:
            best = found
        elif best.loss <= bound:
            break
    return best


def found_step_size(guess: float, losses: Callable[[float], Sequence[float]], threshold: float | None) -> float:
    """As `measured_step_size` finds it; without a threshold on the losses, one that is nearer than not to train.

    Raises:
        ConfigError: with none of them an update would be made.
    """
    found = measured_step_size(guess, losses, 1.0 if threshold is None else threshold)
    if threshold is not None and found.loss > threshold:
        raise ConfigError(
            "method.synthetic_lr_init",
            f"auto finds no step size with which updates would be made: from {guess:.3g} down to "
            f"{guess * 0.5**MOST_HALVINGS:.3g} the lowest matching loss is {found.loss:.3g}, above "
            f"method.threshold ({threshold:g}): raise method.images_per_class or experts.training.epochs, lower "
            "method.max_start_epoch, or raise the threshold",
        )
    return found.value


def _mean(losses: Sequence[float]) -> float:
    mean = fmean(losses)
    return mean if math.isfinite(mean) else math.inf
