"""Methods from elsewhere: one states its cost in its own file, one states nothing; neither is known to raydd/plan."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch

from raydd.config import RunConfig
from raydd.config.evaluate import EvaluateConfig
from raydd.data import DataFacts
from raydd.ingredients.cost import IngredientCost
from raydd.methods.cost import CostSetting, DistillCost, Portion
from raydd.methods.defaults import KeepsClasses
from raydd.plan import Step, distill_stage, make_plan, measurement
from raydd.plan.jobs import Link, jobs_of, works_of
from raydd.plan.measurement import measure
from raydd.plan.rates import Rates
from raydd.plan.schedule import Schedule
from raydd.training.cost import Exchange, WorkSample
from raydd.training.recipe import Recipe

FACTS = DataFacts(600, 100, (1, 8, 8), 10)


@dataclass(frozen=True, kw_only=True)
class MeanConfig(KeepsClasses):
    """States nothing, and asks for a kind that nobody plans."""

    name: Literal["mean"] = "mean"
    images_per_class: int = 3
    iterations: int = 5
    made_first: tuple[str, ...] = ("means",)

    def num_groups(self, num_classes: int) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class StatedConfig(MeanConfig):
    """States what it takes."""

    name: Literal["stated"] = "stated"  # type: ignore[assignment]
    made_first: tuple[str, ...] = ()
    dealt: bool = False

    def cost(self, setting: CostSetting) -> DistillCost:
        sums = (Exchange(2, ((1, 1_000_000),)),)
        shared = Portion(flops=8_000, divided="shared", count=setting.facts.num_classes, exchanges=sums)
        dealt = Portion(flops=9_000, divided="dealt", count=9, at_once=2)
        return DistillCost(
            makes=f"rounds of {self.name}",
            units=9 if self.dealt else self.iterations,
            portions=(Portion(flops=1_000, divided="alone"), dealt if self.dealt else shared),
            disk_bytes=500,
            checkpoint_bytes=7,
            tensor_bytes=11,
            memory_bytes=setting.data_bytes,
        )


FIRST_SEEN: list[int] = []


@dataclass(frozen=True, kw_only=True)
class FirstConfig(MeanConfig):
    """States what its ingredient takes."""

    name: Literal["first"] = "first"  # type: ignore[assignment]

    def cost_first(self, setting: CostSetting) -> Mapping[str, IngredientCost]:
        def make(rows: int, device: torch.device) -> Callable[[], object]:
            FIRST_SEEN.append(rows)
            return lambda: torch.ones(rows, device=device)

        means = IngredientCost(
            makes="means",
            units=10,
            flops=6_000,
            pieces=2,
            optimizer_steps=7,
            disk_bytes=100,
            working_disk_bytes=20,
            tensor_bytes=3,
            memory_bytes=setting.data_bytes,
            sample=WorkSample(make=make, most=40, flops=lambda rows: rows),
        )
        return {"means": means}


def run_of(method: Any, **changes: Any) -> RunConfig:
    evaluate = EvaluateConfig(recipe=Recipe(epochs=2, lr=0.01, batch_size=64), baselines=("random",))
    return replace(RunConfig(method=method, evaluate=evaluate), **changes)


def steps(config: RunConfig) -> dict[str, Step]:
    return {step.work: step for step in make_plan(config, FACTS).steps}


def seconds(config: RunConfig, part: str, gpus: int) -> list[float]:
    link = Link(bytes_per_second=1e6, hop_seconds=0.0)
    jobs = jobs_of(config, FACTS, Rates.equal(works_of(config, FACTS), 1_000.0), gpus, link)
    return [job.seconds for job in jobs if job.part == part]


def test_what_is_not_stated_is_said_and_not_counted() -> None:
    config = run_of(MeanConfig())
    plan = make_plan(config, FACTS)
    assert [step.work for step in plan.steps] == ["data", "means", "distill", "evaluate"]
    found = steps(config)
    assert found["means"].left_out == "the making of means, which nobody states"
    assert found["distill"].left_out == "the work of images of mean, whose method does not state it"
    assert found["distill"].flops == found["distill"].units == 0
    assert found["distill"].disk_bytes > 30 * 64  # the set itself
    assert plan.total.left_out == f"{found['means'].left_out}; {found['distill'].left_out}"
    assert plan.total.flops == found["evaluate"].flops + found["data"].flops
    assert works_of(config, FACTS) == ["evaluate"]
    assert Schedule.of(config, FACTS, Rates.equal(["evaluate"], 1e9), 4, Link()).whole.makespan > 0
    json.dumps(plan.rows())


def test_what_is_known_says_nothing_of_it() -> None:
    assert all("left_out" not in row for row in make_plan(run_of(StatedConfig()), FACTS).rows())


def test_a_kind_is_planned_as_its_method_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "MOMENT", 1e-4)
    config = run_of(FirstConfig())
    step = steps(config)["means"]
    assert (step.makes, step.units, step.flops, step.optimizer_steps) == ("means", 10, 6_000, 7)
    assert (step.disk_bytes, step.working_disk_bytes, step.peak_tensor_bytes) == (100, 20, 3)
    assert step.peak_memory_bytes > 100 * 64 and step.left_out is None
    assert works_of(config, FACTS) == ["means", "evaluate"]
    assert seconds(config, "means", 4) == [3.0, 3.0]
    rates = measure(config, FACTS, ["means"], torch.device("cpu"))
    assert rates.flops_per_second["means"] > 0 and FIRST_SEEN[-1] == 40 and FIRST_SEEN[0] == 2


def test_what_is_stated_is_added_up() -> None:
    config = run_of(StatedConfig())
    step = distill_stage(config, FACTS, 0)
    assert (step.makes, step.units, step.flops) == ("rounds of stated (30 images)", 5, 9_000)
    assert (step.working_disk_bytes, step.peak_tensor_bytes) == (14, 11)
    assert step.disk_bytes - 500 == steps(run_of(MeanConfig()))["distill"].disk_bytes


def test_shared_and_dealt_work() -> None:
    shared, dealt = run_of(StatedConfig()), run_of(StatedConfig(dealt=True))
    assert works_of(shared, FACTS) == ["distill", "evaluate"]
    assert seconds(shared, "distill", 1) == [1, 8]
    assert seconds(shared, "distill", 4) == [1, 8 * 0.3]
    assert seconds(shared, "distill, all-reduce", 4) == [pytest.approx(5 * 2 * 1.5)]
    assert seconds(dealt, "distill", 1) == [1, 9]
    assert seconds(dealt, "distill", 3) == [1, 2 + 2, 2 + 1, 2]
