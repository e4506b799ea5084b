"""What students say of a distilled set, in a sentence."""

from collections.abc import Sequence
from typing import Final

from raydd.evaluation.tables.summary import Difference, SummaryRow, difference
from raydd.evaluation.tables.words import HEADLINE_LABELS, SUBJECTS, labels

CLEAR: Final = 2.0
"""Standard errors by which a difference has to exceed zero to be called one."""
_MADE: Final = ("synthetic", "imported")
_REAL: Final = ("random", "herding", "k_center", "init")
"""As many real images as the set has, in the order of the sentence."""


def verdict(rows: Sequence[SummaryRow]) -> str | None:
    """How much the set is better than as many real images; None where either is missing.

    The set is seen under the labels that a headline prefers, in the first of the networks, and after the last stage;
    real images under labels of the same kind, or of the only kind that they have. Standard errors follow differences.

    Args:
        rows: of one run, after the last stage; see `final_stages`.
    """
    finished = [row for row in rows if row.mean is not None]
    made = [row for row in finished if row.subject in _MADE and row.mode == "single_shot"]
    if not made:
        return None
    alike = [row for row in made if row.network == made[0].network]
    best = max(alike, key=lambda row: HEADLINE_LABELS.index(row.labels))
    others = [found for subject in _REAL if (found := _beside(best, finished, subject)) is not None]
    if not others:
        return None
    differences = [(SUBJECTS[row.subject], difference(best, row)) for row in others]
    better = [f"{name} by {_points(found)}" for name, found in differences if _is_clear(found)]
    rest = [f"{name} ({_points(found)})" for name, found in differences if not _is_clear(found)]
    said = f"The {SUBJECTS[best.subject]} ({labels(best.labels)} labels, {100 * _mean(best):.1f} %)"
    parts = [f"beats {', '.join(better)}"] * bool(better)
    parts += [f"is not clearly better than {', '.join(rest)}"] * bool(rest)
    ceiling = _beside(best, finished, "full")
    reached = f"; the {SUBJECTS['full']} reaches {100 * _mean(ceiling):.1f} %" if ceiling else ""
    return f"{said} {' but '.join(parts)}{reached}"


def _mean(row: SummaryRow) -> float:
    assert row.mean is not None
    return row.mean


def _beside(best: SummaryRow, rows: Sequence[SummaryRow], subject: str) -> SummaryRow | None:
    """The row of a subject that is most like the best one: its network and augmentation, then its labels."""
    alike = [row for row in rows if row.subject == subject and row.network == best.network]
    return max(alike, key=lambda row: (row.augmentation == best.augmentation, row.labels == best.labels), default=None)


def _is_clear(found: Difference) -> bool:
    return found.mean > CLEAR * (found.standard_error or 0.0)


def _points(found: Difference) -> str:
    spread = "" if found.standard_error is None else f" ± {100 * found.standard_error:.1f}"
    return f"{100 * found.mean:.1f}{spread} points"
