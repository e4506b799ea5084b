"""The work that comes before distilling, by the kinds of ingredients that a method asks for."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.plan.experts import experts
from raydd.plan.step import Step
from raydd.plan.students import selection
from raydd.plan.teacher import rank, teacher


class FirstWork(NamedTuple):
    """How a kind of ingredient is planned."""

    work: str
    """`Step.work`"""
    step: Callable[[RunConfig, DataFacts], Step]


def _selected(config: RunConfig, facts: DataFacts) -> Step:
    """The choice of real images, where it is the method's."""
    return replace(selection(config, facts), work="select")


FIRST_WORK: dict[str, FirstWork] = {
    "experts": FirstWork("experts", experts),
    "teacher": FirstWork("teacher", teacher),
    "ranking": FirstWork("rank", rank),
    "selection": FirstWork("select", _selected),
}
"""By kind; whoever makes another kind enters it here. One that is not here is named in plans, and not counted."""


def made_first(config: RunConfig, facts: DataFacts) -> list[Step]:
    """What has to be made before the method begins, in order."""
    kinds = config.method.made_first
    return [FIRST_WORK[kind].step(config, facts) if kind in FIRST_WORK else _unknown(kind) for kind in kinds]


def _unknown(kind: str) -> Step:
    return Step(
        work=kind,
        makes=f"{kind} of the real data",
        units=0,
        flops=0,
        disk_bytes=0,
        working_disk_bytes=0,
        peak_tensor_bytes=0,
        peak_memory_bytes=0,
        left_out=f"the making of {kind}, which nobody states",
    )
