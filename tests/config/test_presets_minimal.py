"""The shipped configurations say what differs from the defaults, and nothing else; their headers say what they are."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final, get_type_hints

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from raydd.config import RunConfig
from tests.support.presets import FOLDER, PRESETS, header_of, preset

Tree = dict[str, Any]
Place = tuple[str, ...]
IDENTITY: Final = {"name", "seed", "out", "data.source", "method.name", "method.images_per_class"}
"""What every preset says, be it the default or not: by it a reader knows what it is."""
PARTS: Final = {name: TypeAdapter(hint) for name, hint in get_type_hints(RunConfig, include_extras=True).items()}
"""Of a configuration; each has its defaults from nowhere else."""
FOLDERS: Final = {"published", "methods", "probes", "reduced"}
ELSEWHERE: Final = {"quickstart.yaml", "own_images.yaml", "cifar10/gpu_check.yaml", "digits/sweep.yaml"}
"""Files by which one begins, or of a kind of their own."""
COMMAND: Final = re.compile(r"Command: (?:RAYDD_DATA=\.\.\. )?raydd (?:run|compare|sweep) configs/(\S+\.yaml)(?: |$)")
ACCURACY: Final = re.compile(
    r"(?:Published|Measured|Accuracy)\b[^:(]*(?:\([^)]*\))?: .*?(?:\d\d?\.\d|none|nothing|was not)"
)
"""What was published or measured, or that nothing was."""


def places(values: Tree, before: Place = ()) -> Iterator[Place]:
    """Of everything that is said, mappings before what is in them."""
    for name, value in values.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from places(value, (*before, name))


def without(values: Tree, place: Place) -> Tree:
    """The same without what is there, and without the mappings that this leaves empty."""
    name, *inside = place
    rest = without(values[name], tuple(inside)) if inside else {}
    return {key: rest if key == name else value for key, value in values.items() if key != name or rest}


def resolved(values: Tree, part: str) -> object:
    """A part of a configuration with its defaults; None where it would be refused."""
    if part not in values:
        return getattr(RunConfig(), part)
    try:
        return PARTS[part].validate_python(values[part])
    except ValidationError:
        return None


def repeated(values: Tree) -> set[str]:
    """What could be left out, beside what is said of every preset."""
    needless = [
        place for place in places(values) if resolved(without(values, place), place[0]) == resolved(values, place[0])
    ]
    names = {".".join(map(str, place)) for place in needless}
    return {name for name in names if not any(f"{kept}.".startswith(f"{name}.") for kept in IDENTITY)}


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_repeats_a_default(name: str) -> None:
    values: Tree = yaml.safe_load((FOLDER / name).read_text())
    assert repeated(values) == set()
    assert {".".join(map(str, place)) for place in places(values)} >= IDENTITY


def test_a_repeated_default_is_found() -> None:
    """Also where it is inside a part whose own defaults differ from those of the whole."""
    assert repeated({"name": "raydd", "method": {"name": "datm", "images_per_class": 1}}) == set()
    assert repeated({"network": {"width": 64, "depth": 3}}) == {"network.depth"}
    assert repeated({"network": {"width": 128}}) == {"network", "network.width"}
    assert repeated({"evaluate": {"recipe": {"epochs": 7, "momentum": 0.0, "weight_decay": 5e-4}}}) == {
        "evaluate.recipe.momentum"
    }
    assert repeated({"method": {"name": "dm", "images_per_class": 1, "momentum": 0.5}}) == {"method.momentum"}
    assert repeated({"sweep": {"parameters": {"seed": [0, 1]}}}) == set()


@pytest.mark.parametrize("name", PRESETS)
def test_the_header_says_what_it_is(name: str) -> None:
    header, config = header_of(name), preset(name)
    assert re.search(r'Paper: [^"]+"[^"]+", [A-Za-z]+ \d{4}', header)
    assert config.method.name.upper() in header.upper() and config.name in config.out
    assert ACCURACY.search(header)


def test_the_command_in_a_header_takes_the_files_that_have_it() -> None:
    commands = {name: COMMAND.findall(header_of(name)) for name in PRESETS}
    assert all(len(found) == 1 for found in commands.values())
    for (command,) in commands.values():
        taken = {name for name in PRESETS if any(fnmatchcase(name, pattern) for pattern in expanded(command))}
        assert taken == {name for name in PRESETS if commands[name] == [command]}


def expanded(pattern: str) -> list[str]:
    """What a shell makes of braces."""
    before, brace, rest = pattern.partition("{")
    inside, _, after = rest.partition("}")
    return [f"{before}{each}{after}" for each in inside.split(",")] if brace else [pattern]


def test_every_preset_has_its_folder_and_a_name_of_its_own() -> None:
    assert {name for name in PRESETS if name.count("/") < 2} == ELSEWHERE
    assert {name.split("/")[1] for name in set(PRESETS) - ELSEWHERE} == FOLDERS
    assert len({config.name for config in map(preset, PRESETS)}) == len(PRESETS)
