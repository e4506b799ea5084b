"""The first step size of trajectory matching: the guess, and what is measured where it does not do."""

import math
from collections.abc import Callable

import pytest

from raydd.methods.trajectory.step_size import MOST_HALVINGS, first_step_size, measured_step_size


def parabola(best: float) -> Callable[[float], list[float]]:
    """The losses of steps in a straight line, at a cosine of 1/4 to the way that they are to go: lowest at `best`."""
    return lambda step: [1 - 2 * 0.25 * (0.25 * step / best) + (0.25 * step / best) ** 2] * 3


@pytest.mark.parametrize(("steps", "wanted"), [(80, 0.02), (40, 0.02), (20, 0.01), (10, 0.005)])
def test_the_guess_is_the_experts_step_size_or_goes_half_as_far(steps: int, wanted: float) -> None:
    assert first_step_size(0.02, steps, 20) == wanted


def test_a_guess_below_the_bound_is_kept_though_another_were_better() -> None:
    found = measured_step_size(1.9, parabola(1.0), 1.0)
    assert found.value == 1.9 and found.loss == pytest.approx(1 - 0.19 / 16, rel=1e-9)


@pytest.mark.parametrize("halvings", [1, 2, 5, MOST_HALVINGS])
def test_a_guess_above_it_is_halved_to_the_lowest_loss(halvings: int) -> None:
    guess = 2.0**halvings
    found = measured_step_size(guess, parabola(1.0), 0.99)
    assert found.value == 1.0 and found.loss == pytest.approx(1 - 1 / 16)


def test_one_segment_above_the_bound_is_enough() -> None:
    found = measured_step_size(1.0, lambda step: [0.9 * step, 0.9 * step, 1.1 * step], 1.0)
    assert found.value == 0.5**MOST_HALVINGS


def test_smaller_ones_are_tried_until_they_raise_the_loss_again() -> None:
    tried: list[float] = []

    def losses(step: float) -> list[float]:
        tried.append(step)
        return parabola(0.25)(step)

    assert measured_step_size(1.0, losses, 0.99).value == 0.25
    assert tried == [1.0, 0.5, 0.25, 0.125]


def test_losses_above_the_bound_that_rise_and_fall_do_not_end_the_search() -> None:
    values = dict(zip([1.0, 0.5, 0.25, 0.125, 0.0625], [3.0, 4.0, 3.5, 0.9, 0.95], strict=True))
    assert measured_step_size(1.0, lambda step: [values[step]], 1.0).value == 0.125


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_the_worst(broken: float) -> None:
    found = measured_step_size(1.0, lambda step: [0.5, broken if step > 0.2 else 0.7], 1.0)
    assert found.value == 0.125 and found.loss == pytest.approx(0.6)


def test_where_none_helps_the_best_is_said_with_its_loss() -> None:
    found = measured_step_size(1.0, lambda step: [1 + step], 1.0)
    assert found.loss > 1 and found.value == 0.5**MOST_HALVINGS
    never = measured_step_size(1.0, lambda step: [math.nan], 1.0)
    assert never.loss == math.inf and never.value == 1.0
