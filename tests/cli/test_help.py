"""Help: short at first, whole where it is asked for, and with the values of the config that is named."""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

import raydd as package
from raydd import config as configs
from raydd.cli import help as helps
from raydd.cli.fields import amount
from raydd.cli.main import COMMANDS
from tests.support import ROOT
from tests.support.small import raydd

Captured = pytest.CaptureFixture[str]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def said(captured: Captured, *arguments: str) -> str:
    """What a command that ends well prints."""
    assert raydd(*arguments) == 0
    return captured.readouterr().out


def flags(printed: str) -> list[str]:
    return re.findall(r"^  (--[\w.-]+) .*\(default", printed, re.M)


@pytest.mark.parametrize("method", ["datm", "delt", "dm", "idc", "rded", "sre2l"])
def test_at_first_the_fields_that_matter_for_the_method(method: str, capsys: Captured) -> None:
    printed = said(capsys, "run", str(ROOT / f"configs/digits/methods/{method}.yaml"), "--help")
    found = flags(printed)
    assert 12 <= len(found) <= 20 and {"--out", "--data.root", "--method.images-per-class"} < set(found)
    assert ("--experts.count" in found) == (method == "datm")
    assert ("--teacher.training.epochs" in found) == (method in ("delt", "rded", "sre2l"))
    assert "--no-ray" in printed and "--quiet" in printed and "CONFIG" in printed and f"for {method}" in printed
    assert max(map(len, printed.splitlines())) <= helps.WIDTH and len(printed.splitlines()) < 75


def test_a_section_and_all(capsys: Captured) -> None:
    section = flags(said(capsys, "run", "--help", "method"))
    assert "--method.images-per-class" in section and all(flag.startswith("--method.") for flag in section)
    assert flags(said(capsys, "run", QUICKSTART, "-h", "evaluate.recipe"))[0] == "--evaluate.recipe.epochs"
    everything = flags(said(capsys, "run", QUICKSTART, "--help", "all"))
    paths = configs.field_names(configs.load(QUICKSTART))
    assert len(everything) > 180 and {"--" + path.replace("_", "-") for path in paths} > set(everything)


def test_what_is_no_flag_is_said_to_be_for_files(capsys: Captured) -> None:
    printed = said(capsys, "run", QUICKSTART, "--help", "all")
    assert "  evaluate.networks: in a file alone" in printed and "--evaluate.networks" not in printed


def test_every_field_is_explained(capsys: Captured) -> None:
    for one in helps.fields_of(configs.load(QUICKSTART)):
        assert one.text or one.path == "method.name", one.path
        assert not re.search(r"`[A-Z_]+`", one.text), f"{one.path} names a constant"


def test_values_are_those_of_the_config_wherever_it_is_named(capsys: Captured) -> None:
    for arguments in (["run", QUICKSTART, "--help"], ["run", "--help", QUICKSTART]):
        assert "--method.iterations INT (default 100)" in said(capsys, *arguments)
    assert "--method.iterations INT (default 100)" not in said(capsys, "run", "--help")


def test_an_unknown_section_is_named(capsys: Captured) -> None:
    assert raydd("run", "--help", "methods") == 2
    assert "there is no section methods; take one of data, network" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_without_its_arguments(name: str, capsys: Captured) -> None:
    printed = said(capsys, name, "--help")
    assert f"usage: raydd {name}" in printed
    for option in re.findall(r"^  (-[\w-]+)[^\n]*\n?", printed.partition("options:")[2], re.M):
        assert option
    assert ("--root TEXT|none" in printed) == (name == "inspect")


def test_the_fields_of_a_bench(capsys: Captured) -> None:
    assert "--synthetic-steps INT (default 20)" in said(capsys, "bench", "matching", "--help")


def test_mistyped_commands_get_a_suggestion(capsys: Captured) -> None:
    for typed, meant in (("runn", "run"), ("distil", "distill"), ("evalute", "evaluate"), ("xyz", None)):
        assert raydd(typed) == 2
        printed = capsys.readouterr().err
        assert (f"there is no command {typed}: did you mean {meant}?" in printed) == (meant is not None)
        assert f"there is no command {typed}" in printed and "raydd --help" in printed


@pytest.mark.parametrize("asked", ["--version", "-V", "version"])
def test_version(asked: str, capsys: Captured) -> None:
    assert said(capsys, asked) == f"{package.__version__}\n"


def test_short_names(capsys: Captured) -> None:
    for flag in (["--ipc", "3"], ["--ipc=3"]):
        assert "images_per_class: 3\n" in said(capsys, "show", QUICKSTART, "--config", *flag)


@pytest.mark.parametrize(("typed", "number"), [("20G", 2e10), ("1.5T", 1.5e12), ("1e10", 1e10), ("7", 7), ("2k", 2e3)])
def test_amounts(typed: str, number: float) -> None:
    assert amount(typed) == pytest.approx(number)


@pytest.mark.parametrize("typed", ["", "G", "20 apples", "2GG"])
def test_what_is_no_amount(typed: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 20G"):
        amount(typed)


def test_whoever_reads_may_stop_reading() -> None:
    command = f"{sys.executable} -m raydd run --help all | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "usage" in done.stdout and done.stderr == ""


@dataclass
class Inner:
    depth: int | None = None
    """How deep; none is as deep as it goes."""


@dataclass
class Outer:
    name: Literal["a", "b"] = "a"
    """One of two,
    on two lines."""
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    told: bool = False
    rate: float = 1e-5


def test_fields_of_any_config() -> None:
    found = [(one.flag, one.kind, one.text, helps.shown(one.value)) for one in helps.fields_of(Outer())]
    assert found == [
        ("--name", "a|b", "One of two, on two lines.", "a"),
        ("--sizes", "INT ...", "", "1 2"),
        ("--inner.depth", "INT|none", "How deep; none is as deep as it goes.", "none"),
        ("--told", "true|false", "", "false"),
        ("--rate", "FLOAT", "", "1e-05"),
    ]


@pytest.mark.parametrize(("value", "wanted"), [((), "nothing"), (100.0, "100"), (None, "none"), (True, "true")])
def test_values_as_they_are_typed(value: Any, wanted: str) -> None:
    assert helps.shown(value) == wanted
