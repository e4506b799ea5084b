"""What files leave out: the literature's for their method, and recipes that are given in part."""

from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from raydd import config as configs
from raydd.config import RunConfig
from raydd.config.completion import completed, unsaid
from raydd.core.errors import ConfigError
from raydd.training.recipe import Recipe

METHODS = (
    "mtt",
    "ftd",
    "datm",
    "delt",
    "cda",
    "sre2l",
    "rded",
    "fadrm",
    "wmdd",
    "dc",
    "dsa",
    "dm",
    "idc",
    "frepo",
    "coreset",
)


def parsed(**values: Any) -> RunConfig:
    return configs.from_mapping({"data": {"source": "digits"}, **values})


@pytest.mark.parametrize("name", METHODS)
def test_data_and_a_method_are_a_config(name: str) -> None:
    config = parsed(method={"name": name, "images_per_class": 5})
    taught = name in ("delt", "cda", "sre2l", "rded", "fadrm", "wmdd")
    assert config.evaluate.protocol == (("sre2l" if name == "fadrm" else name) if taught else None)
    assert config.network.norm == ("batch" if taught else "instance")
    assert (config.evaluate.recipe.lr is None) == (name in ("mtt", "ftd", "datm") or taught)
    assert configs.from_mapping(configs.to_mapping(config)) == config


def test_what_is_given_is_kept() -> None:
    config = parsed(
        method={"name": "dm"}, evaluate={"recipe": {"epochs": 7, "lr": 0.5}, "recipe_name": "mine", "num_students": 2}
    )
    assert (config.evaluate.recipe, config.evaluate.recipe_name) == (Recipe(epochs=7, lr=0.5), "mine")
    taught = parsed(method={"name": "rded"}, evaluate={"protocol": "sre2l"}, network={"width": 8, "norm": "batch"})
    assert (taught.evaluate.protocol, taught.network.width) == ("sre2l", 8)
    with pytest.raises(ConfigError, match=r"^teacher\.network"):
        parsed(method={"name": "rded"}, network={"norm": "instance"})
    with pytest.raises(ConfigError, match=r"^evaluate\.recipe\.views"):
        parsed(method={"name": "rded"}, evaluate={"recipe": {"epochs": 3}})


def test_a_recipe_without_a_step_size_is_the_default_one_with_changes() -> None:
    recipe = parsed(method={"name": "datm"}, evaluate={"recipe": {"epochs": 300}}).evaluate.recipe
    assert recipe == Recipe(epochs=300, lr=None, momentum=0.9, weight_decay=5e-4, schedule="step")
    assert parsed(method={"name": "dm"}, evaluate={"recipe": {"epochs": 300}}).evaluate.recipe.lr == 0.01
    config = parsed(
        method={"name": "dm"}, evaluate={"selector": {"epochs": 4}, "recipe": {"optimizer": "adamw", "epochs": 2}}
    )
    assert config.evaluate.selector == Recipe(epochs=4, lr=0.01, momentum=0.9, weight_decay=5e-4, augmentation="none")
    assert config.evaluate.recipe.momentum == 0
    teacher = parsed(method={"name": "delt"}, teacher={"training": {"batch_size": 64}}).teacher.training
    assert (teacher.momentum, teacher.schedule, teacher.augmentation) == (0.9, "cosine", "crop+flip")


def test_one_with_a_step_size_is_its_own_and_what_differs_is_named() -> None:
    values = {"method": {"name": "dm"}, "evaluate": {"recipe": {"lr": 0.1, "epochs": 9, "schedule": "step"}}}
    assert configs.from_mapping(values).evaluate.recipe == Recipe(lr=0.1, epochs=9, schedule="step")
    (said,) = unsaid(values)
    assert said.endswith("momentum 0.0 (there: 0.9), weight_decay 0.0 (there: 0.0005), batch_size 256 (there: 128)")
    assert list(unsaid({"method": {"name": "dm"}})) == []
    whole = configs.to_mapping(configs.from_mapping(values))
    assert list(unsaid(whole)) == []
    assert "epochs 50 (there: 30)" in next(unsaid({"teacher": {"training": {"augmentation": "none"}}}))


@pytest.mark.parametrize("values", [{"method": 3}, {"method": {"name": ["dm"]}}, {"evaluate": 3}, {"network": [1]}])
def test_what_is_no_config_is_left_to_be_refused(values: dict[str, Any]) -> None:
    completed(values)
    with pytest.raises(ConfigError):
        configs.from_mapping(values)


def test_no_other_part_of_a_config_loses_defaults_where_it_is_given_in_part() -> None:
    def differing(config: Any, path: str = "") -> set[str]:
        found = set()
        for item in fields(config):
            value = getattr(config, item.name)
            if is_dataclass(value):
                with suppress(TypeError):
                    found |= {f"{path}{item.name}"} if type(value)() != value else set()
                found |= differing(value, f"{path}{item.name}.")
        return found

    assert differing(RunConfig()) == {"evaluate.recipe", "evaluate.selector", "teacher.training"}
