"""Which set is chosen: by held-out images, and never one that real images match."""

import pytest

from raydd.pipeline.auto.portfolio import candidate
from raydd.pipeline.auto.rounds import CandidateOutcome, Measured
from raydd.pipeline.auto.verdict import finalists, judge
from tests.pipeline.auto.test_portfolio import settings, wanted


def came_to(name: str, held_out: float | None, test: float = 0.0, herding: float | None = None) -> CandidateOutcome:
    accuracies: Measured = {} if held_out is None else {"synthetic": (held_out, test)}
    if herding is not None:
        accuracies = {**accuracies, "herding": (herding, None)}
    error = "out" if held_out is None else ""
    one = candidate(name, wanted(), settings())
    return CandidateOutcome(candidate=one, seconds=1.0, error=error, accuracies=accuracies)


REAL = came_to("herding", 0.5), came_to("herding_views", 0.55)


def chosen(*finished: CandidateOutcome) -> tuple[str, bool]:
    verdict = judge([*finished, *REAL])
    assert verdict is not None
    return verdict.chosen.candidate.name, verdict.is_distilled


def test_the_best_method_is_chosen() -> None:
    assert chosen(came_to("idc", 0.6), came_to("dm", 0.58)) == ("idc", True)
    assert chosen(came_to("idc", 0.6), came_to("dm", 0.62)) == ("dm", True)


@pytest.mark.parametrize("held_out", [None, 0.2, 0.52, 0.55])
def test_a_method_that_does_not_beat_herding_in_any_way_is_not(held_out: float | None) -> None:
    assert chosen(came_to("idc", held_out)) == ("herding_views", False)


def test_test_images_choose_nothing() -> None:
    assert chosen(came_to("idc", 0.6, test=0.1), came_to("dm", 0.59, test=0.9)) == ("idc", True)


def test_a_method_has_to_beat_herding_under_its_own_labels() -> None:
    assert chosen(came_to("datm", 0.6, herding=0.6)) == ("herding_views", False)
    assert chosen(came_to("datm", 0.6, herding=0.59)) == ("datm", True)


def test_without_real_images_there_is_no_verdict() -> None:
    assert judge([came_to("idc", 0.6), came_to("herding", None)]) is None


def test_the_sentence_has_the_numbers() -> None:
    verdict = judge([came_to("idc", 0.6), *REAL])
    assert verdict is not None and verdict.bar == 0.55
    assert verdict.sentence == "idc is best: 60.0 % of the held-out images, real images chosen by herding 55.0 %"
    verdict = judge([came_to("idc", 0.3), came_to("dm", None), *REAL])
    assert verdict is not None
    assert verdict.sentence.startswith("take real images chosen by herding, whose students see crops of them: 55.0 %")
    assert "no method beats them (idc 30.0 %)" in verdict.sentence
    verdict = judge([came_to("idc", None), REAL[0]])
    assert verdict is not None
    assert "herding: 50.0 % of the held-out images, and no method could be finished" in verdict.sentence


def test_the_best_are_finished_and_real_images_anyway() -> None:
    tried = [came_to("idc", 0.4), came_to("dm", 0.6), came_to("datm", None), came_to("rded", 0.4), *REAL]
    assert [made.candidate.name for made in finalists(tried, 2)] == ["dm", "idc"]
    assert [made.candidate.name for made in finalists(tried, 1)] == ["dm"]
