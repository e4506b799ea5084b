"""How much work fits into a time: by prices alone."""

from dataclasses import replace

import pytest

from raydd.core.errors import UserError
from raydd.pipeline.auto.budget import SHARE, Speed, fit_into, num_finalists, priced
from raydd.pipeline.auto.portfolio import Wanted, candidates, names
from raydd.pipeline.auto.settings import EFFORTS, Settings
from raydd.plan.jobs import works_of
from raydd.plan.rates import Rates
from raydd.plan.simulation import side_by_side
from tests.pipeline.auto.pictures import look_of
from tests.pipeline.auto.test_portfolio import wanted

FOUND = look_of((100,) * 3, median=40)


def settings_of(side: int, effort: float) -> tuple[Wanted, Settings]:
    return wanted(images_per_class=2), Settings(effort=effort, mirrored=True, facts=FOUND.facts(side, 0.2))


def speed(flops_per_second: float = 1e10, processes: int = 1, availability: float = 1.0) -> Speed:
    ready, settings = settings_of(32, 1.0)
    works = [works_of(one.config, settings.facts) for one in _sized(ready, settings)]
    rates = {name: Rates.equal(work, flops_per_second) for name, work in zip(names("hard"), works, strict=True)}
    return Speed(
        rates=rates,
        availability=availability,
        processes=processes,
        start_seconds=10.0,
        round_seconds=2.0,
        run_seconds=1.0,
    )


def _sized(ready: Wanted, settings: Settings) -> list:  # type: ignore[type-arg]
    found = candidates(ready, settings)
    return [replace(one, config=replace(one.config, network=one.config.network.sized(32))) for one in found]


@pytest.mark.parametrize(
    ("seconds", "processes", "expected"),
    [([3, 2, 2, 1], 1, 8), ([3, 2, 2, 1], 2, 4), ([1, 1, 4], 2, 5), ([5], 3, 5), ([], 2, 0)],
)
def test_pieces_go_to_whoever_is_free(seconds: list[float], processes: int, expected: float) -> None:
    assert side_by_side(seconds, processes) == expected


def test_one_process_finishes_one_and_many_finish_two() -> None:
    assert [num_finalists(processes) for processes in (1, 2, 16)] == [1, 2, 2]


def test_more_effort_costs_more() -> None:
    totals = [priced(32, effort, settings_of, speed()).price.total for effort in (EFFORTS[0], 1 / 4, 2)]
    assert totals == sorted(totals) and totals[0] < totals[-1]


def test_what_is_decided_fits_and_more_would_not() -> None:
    for seconds in (200.0, 2_000.0):
        plan = fit_into(seconds, 0.0, (32,), settings_of, speed())
        more = EFFORTS[EFFORTS.index(plan.effort) + 1]
        assert plan.price.total <= SHARE * seconds < priced(32, more, settings_of, speed()).price.total


def test_a_slow_or_busy_machine_does_less() -> None:
    fast = fit_into(600.0, 0.0, (32,), settings_of, speed()).effort
    assert fit_into(600.0, 0.0, (32,), settings_of, speed(2e9)).effort < fast
    assert fit_into(600.0, 0.0, (32,), settings_of, speed(availability=0.2)).effort < fast


def test_the_same_work_takes_less_time_side_by_side() -> None:
    alone, beside = (priced(32, 1.0, settings_of, speed(processes=count)).price for count in (1, 2))
    assert beside.trials < 0.75 * alone.trials and beside.shared < alone.shared
    assert beside.by_candidate == alone.by_candidate


def test_larger_images_are_taken_where_there_is_time_for_them() -> None:
    worth = priced(64, 1.0, settings_of, speed()).price.total / SHARE
    assert fit_into(1.01 * worth, 0.0, (64, 32), settings_of, speed()).side == 64
    assert fit_into(0.99 * worth, 0.0, (64, 32), settings_of, speed()).side == 32


def test_what_is_spent_is_not_there_any_more() -> None:
    plan = fit_into(600.0, 100.0, (32,), settings_of, speed())
    assert plan == fit_into(500.0, 0.0, (32,), settings_of, speed())


def test_with_time_for_nothing_it_says_how_much_there_should_be() -> None:
    least = priced(32, EFFORTS[0], settings_of, speed()).price.total / SHARE
    with pytest.raises(UserError, match=r"--hours: 0\.000278 are too few; .* takes (0\.\d+) here") as refused:
        fit_into(1.0, 60.0, (64, 32), settings_of, speed())
    enough = 3600 * float(str(refused.value).split()[-2])
    assert 0 <= enough - 60 - least < 3.6
    assert fit_into(enough, 60.0, (64, 32), settings_of, speed()).effort == EFFORTS[0]
