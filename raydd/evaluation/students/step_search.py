"""A step size of a training set's own, and for all the real data a length: both chosen on held-out real images.

Students of one set at another's step size are an accident: a row of a table then says as much of that as of the set.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from raydd.training.recipe import Recipe

FACTORS: Final = (1.0, 1 / 3, 3.0, 10.0)
"""Times the first step size: what is tried."""
REAL_LR: Final = 0.01
"""The first step size for real images, where the recipe has none."""
EXTENSIONS: Final = 2
"""Larger ones still, each three times the last, where that was the best."""
DOUBLINGS: Final = 2
"""Of the epochs on all the real data, at most."""

HeldOut = Callable[[Recipe], float | None]
"""The accuracy on held-out images after a training; None where that broke off."""


def searched_recipe(recipe: Recipe, held_out: HeldOut, count: int, lengthens: bool) -> Recipe:
    """The recipe with the step size that is best on held-out images, where that is better beyond chance.

    Args:
        recipe: with its first step size.
        held_out: trains by a recipe.
        count: held-out images, by which chance goes: one standard error of the first step size's accuracy.
        lengthens: whether epochs are doubled afterwards, as long as that is better still.

    Returns:
        The recipe unchanged where every training breaks off.
    """
    assert recipe.lr is not None
    tried = [replace(recipe, lr=factor * recipe.lr) for factor in FACTORS]
    accuracies = [_or_worst(held_out(each)) for each in tried]
    best, accuracy = max(zip(tried, accuracies, strict=True), key=lambda each: each[1])
    if accuracy - accuracies[0] <= standard_error(accuracies[0], count):
        best, accuracy = tried[0], accuracies[0]
    for _ in range(EXTENSIONS if best == tried[-1] else 0):
        larger = replace(best, lr=3 * (best.lr or 0.0))
        if (found := _or_worst(held_out(larger))) <= accuracy:
            break
        best, accuracy = larger, found
    for _ in range(DOUBLINGS if lengthens else 0):
        longer = replace(best, epochs=2 * best.epochs)
        if (found := _or_worst(held_out(longer))) <= accuracy:
            break
        best, accuracy = longer, found
    return best


def standard_error(accuracy: float, count: int) -> float:
    """Of an accuracy on so many images, sqrt(a (1 - a) / n); 0 where nothing was measured."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / count)


def most_trainings(lengthens: bool) -> int:
    """Trainings of the recipe's length that a search takes at most; of 2, 4, ... times that it counts as so many."""
    return len(FACTORS) + EXTENSIONS + lengthens * ((2 << DOUBLINGS) - 2)


def _or_worst(accuracy: float | None) -> float:
    return -1.0 if accuracy is None else accuracy
