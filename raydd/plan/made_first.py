"""The work that comes before distilling, by the kinds of ingredients that a method asks for."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.ingredients.cost import IngredientCost
from raydd.plan.distill import setting_of
from raydd.plan.experts import experts
from raydd.plan.step import Step
from raydd.plan.students import selection
from raydd.plan.teacher import rank, teacher


def _selected(config: RunConfig, facts: DataFacts) -> Step:
    """The choice of real images, where it is the method's."""
    return replace(selection(config, facts), work="select")


_OWN: Final[Mapping[str, Callable[[RunConfig, DataFacts], Step]]] = {
    "experts": experts,
    "teacher": teacher,
    "ranking": rank,
    "selection": _selected,
}
"""Kinds whose work goes by parts of a config that are not the method's. A method states that of its own kinds."""


def made_first(config: RunConfig, facts: DataFacts) -> list[Step]:
    """What has to be made before the method begins, in order; what nobody states is named, and not counted."""
    own = stated(config, facts)
    return [
        _OWN[kind](config, facts) if kind in _OWN else _step(kind, own.get(kind)) for kind in config.method.made_first
    ]


def stated(config: RunConfig, facts: DataFacts) -> Mapping[str, IngredientCost]:
    """What the method says of its own ingredients, by kind."""
    return config.method.cost_first(setting_of(config, facts, 0))


def _step(kind: str, cost: IngredientCost | None) -> Step:
    unknown = cost is None
    known = cost or IngredientCost(makes=f"{kind} of the real data", units=0, flops=0, disk_bytes=0)
    return Step(
        work=kind,
        makes=known.makes,
        units=known.units,
        optimizer_steps=known.optimizer_steps,
        flops=known.flops,
        disk_bytes=known.disk_bytes,
        working_disk_bytes=known.working_disk_bytes,
        peak_tensor_bytes=known.tensor_bytes,
        peak_memory_bytes=known.memory_bytes,
        left_out=f"the making of {kind}, which nobody states" if unknown else None,
    )
