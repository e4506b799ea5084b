"""Forgetting counts and the filters by them written down naively: one image, one epoch, one network at a time.

Sources: Toneva et al. (ICLR 2019) and PDD (Chen et al., ICLR 2024). Nothing of the product is imported.
"""

from collections.abc import Sequence


def forgetting(history: Sequence[bool]) -> tuple[int, bool]:
    """How often one image was forgotten, and whether it was ever learned, given its correctness after each epoch."""
    events = 0
    for epoch in range(1, len(history)):
        if history[epoch - 1] and not history[epoch]:
            events += 1
    learned = False
    for correct in history:
        if correct:
            learned = True
    return (events if learned else len(history)), learned


def in_window(count: int, stage: int, num_stages: int, window: int) -> bool:
    """Whether stage i of P has an image: i w <= count < (i + 1) w, without the upper bound in the last stage."""
    if stage == num_stages - 1:
        return stage * window <= count
    return stage * window <= count < (stage + 1) * window


def dropped_by_ensemble(correct: Sequence[bool], kept_by_chance: bool, drops_unknown: bool) -> bool:
    """Whether one image goes, given which networks classify it correctly."""
    hits = sum(1 for one in correct if one)
    if hits == len(correct) and not kept_by_chance:
        return True
    return drops_unknown and hits == 0
