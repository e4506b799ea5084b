"""Step sizes of a set's own: which is chosen, and how long the full data are trained on."""

import math
from collections.abc import Callable

import pytest

from raydd.evaluation.students.step_search import DOUBLINGS, FACTORS, most_trainings, searched_recipe
from raydd.training.recipe import Recipe

RECIPE = Recipe(epochs=10, lr=0.01)


def noted(
    accuracy: Callable[[Recipe], float | None], lengthens: bool = False, count: int = 10**9
) -> tuple[Recipe, list[Recipe]]:
    """What is found, and what was trained for it."""
    trained: list[Recipe] = []

    def held_out(recipe: Recipe) -> float | None:
        trained.append(recipe)
        return accuracy(recipe)

    return searched_recipe(RECIPE, held_out, count, lengthens), trained


@pytest.mark.parametrize("best", FACTORS)
def test_the_step_size_that_is_best_on_held_out_images(best: float) -> None:
    found, trained = noted(lambda recipe: -abs(math.log((recipe.lr or 0) / (0.01 * best))))
    assert found == Recipe(epochs=10, lr=0.01 * best)
    assert [recipe.lr for recipe in trained[:4]] == [0.01 * factor for factor in FACTORS]
    assert [recipe.lr for recipe in trained[4:]] == ([pytest.approx(0.3)] if best == FACTORS[-1] else [])


@pytest.mark.parametrize(("best", "larger"), [(0.1, [0.3]), (0.3, [0.3, 0.9]), (0.9, [0.3, 0.9]), (99.0, [0.3, 0.9])])
def test_where_the_largest_is_best_larger_ones_are_tried(best: float, larger: list[float]) -> None:
    found, trained = noted(lambda recipe: -abs(math.log((recipe.lr or 0) / best)))
    assert [recipe.lr for recipe in trained[4:]] == pytest.approx(larger)
    assert found.lr == pytest.approx(min(best, 0.9)) and len(trained) <= most_trainings(lengthens=False) == 6


def test_of_equals_the_recipes_own() -> None:
    assert noted(lambda recipe: 0.5)[0] == RECIPE


@pytest.mark.parametrize(("lead", "changes"), [(0.049, False), (0.051, True)])
def test_a_lead_that_may_be_chance_changes_nothing(lead: float, changes: bool) -> None:
    """On 100 images the standard error of an accuracy of a half is 0.05."""
    found, trained = noted(lambda recipe: 0.5 + lead * (recipe.lr == 0.03), count=100)
    assert (found.lr == 0.03) == changes and (found == RECIPE) != changes and len(trained) == 4


def test_trainings_that_break_off_are_the_worst() -> None:
    assert noted(lambda recipe: 0.0 if recipe.lr == 0.1 else None)[0].lr == 0.1
    assert noted(lambda recipe: None)[0] == RECIPE


@pytest.mark.parametrize(("enough", "wanted", "trainings"), [(10, 10, 5), (20, 20, 6), (40, 40, 6), (999, 40, 6)])
def test_epochs_are_doubled_while_that_is_better(enough: int, wanted: int, trainings: int) -> None:
    found, trained = noted(lambda recipe: min(recipe.epochs, enough) + 3 * (recipe.lr == 0.03), lengthens=True)
    assert found.lr == 0.03 and found.epochs == wanted
    assert len(trained) == trainings and all(recipe.lr == 0.03 for recipe in trained[4:])
    assert sum(recipe.epochs for recipe in trained) <= 10 * most_trainings(lengthens=True) == 120
    assert DOUBLINGS == 2
