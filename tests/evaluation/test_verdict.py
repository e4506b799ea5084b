"""The sentence at the end of a run."""

from dataclasses import replace
from typing import Any

import pytest

from raydd.evaluation.tables.summary import SummaryRow
from raydd.evaluation.tables.verdict import verdict

PLAIN = SummaryRow(
    subject="synthetic",
    dataset="digits",
    method="datm",
    images_per_class=1,
    stage=0,
    network="convnet",
    recipe="own",
    epochs=200,
    optimizer="sgd",
    augmentation="none",
    labels="stored",
    mode="single_shot",
    budget="reference",
    n=5,
    failed=0,
    mean=0.9,
    std=0.02,
    accuracies=(),
    train_accuracy=None,
    best_test_accuracy=None,
    class_accuracy=(),
    learned_lr=None,
    optimizer_steps=None,
    teacher_forwards=None,
    bytes_total=None,
    seconds=None,
    metrics={},
)
RANDOM = replace(PLAIN, subject="random", mean=0.75, std=0.03, n=15)
FULL = replace(PLAIN, subject="full", labels="hard", mean=0.99, std=None, n=1)


def row(**changes: Any) -> SummaryRow:
    """Students of random images, unless something else is said."""
    return replace(RANDOM, **changes)


def test_what_it_beats_and_by_how_much() -> None:
    """The standard error is sqrt(0.02^2 / 5 + 0.03^2 / 15) = 1.18 points."""
    assert verdict([PLAIN, RANDOM, FULL]) == (
        "The distilled set (soft labels, 90.0 %) beats random real images by 15.0 ± 1.2 points; "
        "the full dataset reaches 99.0 %"
    )


def test_all_that_it_is_compared_with_in_one_order() -> None:
    others = [row(subject="init", mean=0.8), row(subject="herding", mean=0.86), RANDOM]
    assert verdict([PLAIN, *others]) == (
        "The distilled set (soft labels, 90.0 %) beats random real images by 15.0 ± 1.2 points, "
        "herding selection by 4.0 ± 1.2 points, starting state by 10.0 ± 1.2 points"
    )


@pytest.mark.parametrize(("mean", "words"), [(0.88, "2.0 ± 1.2"), (0.9, "0.0 ± 1.2"), (0.93, "-3.0 ± 1.2")])
def test_what_is_within_two_standard_errors_or_below_is_not_beaten(mean: float, words: str) -> None:
    first = "beats random real images by 15.0 ± 1.2 points"
    said = f"{first} but is not clearly better than herding selection ({words} points)"
    assert verdict([PLAIN, RANDOM, row(subject="herding", mean=mean)]) == (
        f"The distilled set (soft labels, 90.0 %) {said}"
    )
    alone = verdict([PLAIN, row(mean=mean)])
    assert alone is not None and f"is not clearly better than random real images ({words} points)" in alone


def test_one_student_has_no_spread() -> None:
    said = verdict([replace(PLAIN, std=None, n=1, labels="hard"), row(std=None, n=1, mean=0.899)])
    assert said == "The distilled set (hard labels, 90.0 %) beats random real images by 0.1 points"


def test_like_is_compared_with_like() -> None:
    """Under the set's own labels, in its first network; real images in the same network, and under those labels."""
    others = [
        replace(PLAIN, labels="hard", mean=0.95),
        replace(PLAIN, labels="online", mean=0.96),
        replace(PLAIN, network="resnet", mean=0.97),
        replace(PLAIN, mode="chain", mean=0.98),
        row(mean=0.85, augmentation="other"),
        row(labels="hard", mean=0.5),
        row(network="resnet", mean=0.6),
        row(mean=0.7),
    ]
    assert verdict([PLAIN, *others]) == (
        "The distilled set (soft labels, 90.0 %) beats random real images by 20.0 ± 1.2 points"
    )


@pytest.mark.parametrize(
    "rows",
    [[], [PLAIN], [RANDOM, FULL], [replace(PLAIN, mean=None), RANDOM], [PLAIN, row(mean=None)], [PLAIN, FULL]],
    ids=["nothing", "alone", "no set", "failed", "others failed", "all alone"],
)
def test_where_nothing_can_be_compared_nothing_is_said(rows: list[SummaryRow]) -> None:
    assert verdict(rows) is None


def test_an_imported_set_is_judged_too() -> None:
    said = verdict([replace(PLAIN, subject="imported"), RANDOM])
    assert said is not None and said.startswith("The imported set (soft labels")
