"""Whoever asks for help, for the version, or for what is not there is answered at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import raydd
from raydd.cli.main import COMMANDS

LIBRARIES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "pydantic", "tyro")
UNUSED = ("raydd.report", "raydd.bench", "raydd.exchange", "raydd.cluster", "matplotlib", "jinja2", "torchvision")
"""By a run that has not come to its report, and is not on Ray."""
SECONDS = 0.5
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def loaded(program: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a program has imported when it ends, whatever it ends with."""
    asked = f"import atexit, sys; atexit.register(lambda: print([n for n in {names} if n in sys.modules])); {program}"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    found: list[str] = eval(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["runn"], []], ids=" ".join)
def test_help_and_mistakes_need_no_library(arguments: list[str]) -> None:
    program = f"import resource; from raydd.cli.main import main; sys.argv[1:] = {arguments}; main()"
    assert loaded(program, LIBRARIES) == []


def test_a_run_imports_nothing_that_it_does_not_use() -> None:
    assert loaded("import raydd.cli.steps", UNUSED) == []
    assert loaded("import raydd.cli.steps", ("torch",)) == ["torch"]


def test_a_small_run_trains_without_torchs_compiler(tmp_path: Path) -> None:
    """It takes every process that imports it seconds."""
    small = [
        "--experts.count",
        "1",
        "--method.iterations",
        "1",
        "--evaluate.num-students",
        "1",
        "--evaluate.recipe.epochs",
        "2",
    ]
    arguments = ["run", str(QUICKSTART), "--no-ray", "--quiet", "--out", str(tmp_path / "run"), *small]
    program = f"from raydd.cli.main import main; main({arguments})"
    assert loaded(program, ("torch._dynamo",)) == []
    assert (tmp_path / "run" / "report.html").exists()


def test_every_command_has_its_module() -> None:
    for name, command in COMMANDS.items():
        module = command.load()
        assert callable(module.arguments) and callable(module.run), name


def test_the_package_lists_its_public_names() -> None:
    assert loaded("import raydd; assert 'load' in dir(raydd) and 'RECORDS' in dir(raydd)", LIBRARIES) == []
    assert dir(raydd) == sorted(raydd.__all__)
    assert all(getattr(raydd, name) is not None for name in raydd.__all__)


@pytest.mark.slow
def test_seconds_of_help_and_of_importing() -> None:
    """CPU time, of which a busy machine takes little more."""
    for program, most in (("from raydd.cli.main import main; main(['--help'])", SECONDS), ("import raydd", 0.2)):
        asked = f"import resource\ntry:\n {program}\nexcept SystemExit: pass\n"
        used = "u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
        done = subprocess.run([sys.executable, "-c", asked + used], capture_output=True, text=True)
        assert float(done.stdout.splitlines()[-1]) < most
