"""What is measured on students, against numbers worked out by hand, scikit-learn and a naive restatement."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import Tensor

from raydd.evaluation.students.metrics import (
    accuracy_per_class,
    beside_accuracy,
    expected_calibration_error,
    negative_log_likelihood,
    top_accuracy,
    worst_class_accuracy,
)
from tests.reference import scores as reference


def some_logits(seed: int, size: int, classes: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """float32 logits of which some know their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    logits = scale * torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), labels] += scale
    return logits, labels


def test_calibration_by_hand() -> None:
    sure, unsure = math.log(0.95 / 0.05), math.log(0.65 / 0.35)
    logits, labels = torch.tensor([[sure, 0.0], [sure, 0.0], [unsure, 0.0], [0.0, unsure]]), torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(logits, labels) == pytest.approx((0.95 - 0.5) / 2 + (1 - 0.65) / 2)
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(0.8 - 0.75)
    wanted = -math.log(0.95 * 0.05 * 0.65 * 0.65) / 4
    assert negative_log_likelihood(logits, labels) == pytest.approx(wanted)


def test_certainty_is_in_the_last_bin_and_a_half_in_that_below_it() -> None:
    certain = torch.tensor([[200.0, 0.0], [200.0, 0.0]])
    assert expected_calibration_error(certain, torch.tensor([0, 0])) == 0
    assert expected_calibration_error(certain, torch.tensor([1, 1])) == 1
    assert negative_log_likelihood(certain, torch.tensor([1, 1])) == pytest.approx(200)
    halves = torch.tensor([[0.0, 0.0], [math.log(0.45 / 0.55), 0.0]])
    wrong_and_right = torch.tensor([1, 1])
    assert expected_calibration_error(halves, wrong_and_right, bins=2) == pytest.approx(0.5 / 2 + 0.45 / 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 300),
    classes=st.integers(2, 30),
    scale=st.sampled_from([0.1, 1.0, 5.0, 40.0]),
)
def test_all_equal_a_restatement_and_scikit_learn(seed: int, size: int, classes: int, scale: float) -> None:
    logits, labels = some_logits(seed, size, classes, scale)
    exact, truth = logits.double().numpy(), labels.tolist()
    error = expected_calibration_error(logits, labels)
    assert error == pytest.approx(reference.calibration_error(exact, truth), abs=1e-9)
    if scale < 40:  # scikit-learn cuts probabilities off at the last digit
        likelihood = log_loss(truth, reference.probabilities(exact), labels=range(classes))
        assert negative_log_likelihood(logits, labels) == pytest.approx(likelihood, rel=1e-9)


def test_the_worst_class_has_images() -> None:
    logits, labels = torch.eye(4)[[0, 0, 1, 1, 3]], torch.tensor([0, 1, 1, 1, 3])
    assert accuracy_per_class(logits, labels)[:2] == pytest.approx([1, 2 / 3])
    assert worst_class_accuracy(accuracy_per_class(logits, labels)) == pytest.approx(2 / 3)
    assert math.isnan(worst_class_accuracy([math.nan]))


def test_five_guesses_are_reported_of_more_than_ten_classes() -> None:
    logits, labels = some_logits(3, 400, 11, scale=1.0)
    wanted = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=range(11))
    assert wanted > top_accuracy(logits, labels, 1) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert beside_accuracy(logits, labels)["top5_accuracy"] == pytest.approx(wanted)
    assert beside_accuracy(*some_logits(3, 400, 10)).keys() == {"ece", "nll", "worst_class_accuracy"}


def test_large_logits_stay_finite() -> None:
    logits, labels = some_logits(1, 50, 4, scale=3000.0)
    measured = beside_accuracy(logits, labels)
    assert all(map(math.isfinite, measured.values())) and 0 <= measured["ece"] <= 1
