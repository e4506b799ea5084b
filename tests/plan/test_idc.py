"""The plan of IDC against what is really done."""

from typing import Any

import pytest

from raydd.config import RunConfig, from_mapping
from raydd.core.keyed_random import Key
from raydd.methods import Start, Task
from raydd.plan import distill_stage
from tests.support.planned import K, counted, facts_of, random_data


def config_of(**method: Any) -> RunConfig:
    own = {
        "name": "idc",
        "images_per_class": 3,
        "iterations": 1,
        "inner_loops": 3,
        "num_real": 30,
        "real_batch_size": 8,
    }
    recipe = {"epochs": 1, "lr": 0.01}
    return from_mapping(
        {"network": {"width": 24, "depth": 2}, "method": {**own, **method}, "evaluate": {"recipe": recipe}}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"factor": 1},
        {"factor": 3},
        {"decode": "multi"},
        {"decoded_per_class": 5},
        {"factor": 3, "decode": "bound", "decoded_per_class": 13},
        {"inner_loops": 1},
        {"num_real": 1000},
    ],
    ids=str,
)
def test_flops_of_an_iteration(changes: dict[str, Any]) -> None:
    config, data = config_of(**changes), random_data(num_train=200)
    method = config.method.build(Task(data=data, network=config.network), Start(), Key.root(0))
    with counted() as counter:
        method.step()
    planned = distill_stage(config, facts_of(data), 0)
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "decoded"),
    [({}, 12), ({"factor": 1}, 3), ({"factor": 3, "decode": "multi"}, 42), ({"decode": "bound"}, 12)],
)
def test_students_see_more_images_than_are_stored(changes: dict[str, Any], decoded: int) -> None:
    config, data = config_of(**changes), random_data(num_train=200)
    assert 3 * config.method.decoded_images == decoded
    method = config.method.build(Task(data=data, network=config.network), Start(), Key.root(0))
    assert len(method.result()) == 3 * K
    assert len(method.result().decoded()) == decoded * K
