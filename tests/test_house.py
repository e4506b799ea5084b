"""The rules of the house: lint, format, types and floors run with the tests."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=["lint", "format", "types", "floors"],
)
def test_house_rule(command: list[str]) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """Every file of the package."""
    for file in sorted((ROOT / "raydd").rglob("*.py")):
        yield file.relative_to(ROOT), ast.parse(file.read_text())


def test_a_public_name_of_a_class_or_a_type_has_one_meaning() -> None:
    """It occurs once in raydd, so that whoever reads it somewhere knows what it is."""
    found = defaultdict(list)
    for file, module in modules():
        for node in module.body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                names = [name for name in names if re.fullmatch(r"[A-Z][a-z]\w*", name)]
            for name in names:
                if not name.startswith("_"):
                    found[name].append(f"{file}:{node.lineno}")
    assert len(found) > 300
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_the_root_holds_the_way_in_and_packages() -> None:
    assert sorted(file.name for file in (ROOT / "raydd").glob("*.py")) == ["__init__.py", "__main__.py"]
    folders = [file for file in (ROOT / "raydd").rglob("*") if file.is_dir() and any(file.glob("*.py"))]
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_the_contract_has_few_floors_and_names_every_package() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = contracts[0]["layers"]
    assert len(floors) <= 13
    named = {name.strip().removeprefix("raydd.") for floor in floors for name in floor.split("|")}
    there = {
        path.stem for path in (ROOT / "raydd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == there - {"__init__"}


def test_no_import_hides_from_the_contract() -> None:
    """An import for type checkers alone may save time, and may not close a circle that the contract would see."""
    late = {"raydd/__init__.py", "raydd/cli/submit.py", "raydd/methods/__init__.py"}
    assert {str(file) for file, _ in modules() if "TYPE_CHECKING" in (ROOT / file).read_text()} == late


def test_one_function_goes_through_epochs() -> None:
    """Loops of their own forget to go on, to keep or to tell: all call `fit`, but what measures speed."""
    loops = ast.For | ast.While | ast.comprehension | ast.ListComp | ast.GeneratorExp
    found = {
        str(file)
        for file, module in modules()
        if file.parts[1] != "bench"
        for loop in ast.walk(module)
        if isinstance(loop, loops)
        for node in ast.walk(loop)
        if isinstance(node, ast.Attribute) and node.attr == "run_epoch"
    }
    assert found == {"raydd/training/fit.py", "raydd/training/stacked.py"}


def test_no_function_takes_more_than_eight_arguments() -> None:
    """What belongs together is a value with a name; `*` and `**` count as one each."""
    found = {
        f"{file}:{node.name}": count
        for file, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (count := len(arguments(node)) + bool(node.args.vararg) + bool(node.args.kwarg)) > 8
    }
    assert found == {}


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of what a function takes, but for that of its own object."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]
