"""Completion of commands, options, fields and values: the printed script in a real shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from raydd.cli.completion import script
from raydd.cli.help import fields_of
from raydd.cli.main import COMMANDS
from raydd.methods import OWN
from tests.support import ROOT
from tests.support.small import raydd

OFFERS = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
specification=$(complete -p raydd); function=${specification#*-F }; function=${function%% *}
$function raydd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does when Tab is pressed, with the line's words as arguments after the script."""


@pytest.fixture(scope="module")
def of_bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "raydd"
    file.write_text(script("bash"))
    return file


def offered(of_bash: Path, line: str) -> set[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    command = ["bash", "--norc", "-c", OFFERS, "bash", str(of_bash), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_all_commands_are_offered(of_bash: Path) -> None:
    assert offered(of_bash, "raydd ") == set(COMMANDS)
    assert offered(of_bash, "raydd re") == {"report"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("raydd run configs/quick", {"configs/quickstart.yaml", "configs/quickstart.ipynb"}),
        ("raydd run configs/quickstart.yaml --quie", {"--quiet"}),
        ("raydd run configs/quickstart.yaml --ip", {"--ipc"}),
        ("raydd sweep configs/digits/sweep.yaml --evaluate.recipe.ep", {"--evaluate.recipe.epochs"}),
        ("raydd run configs/own_images.yaml --data.source image", {"imagenet", "imagefolder"}),
        ("raydd run configs/own_images.yaml --method.name sre", {"sre2l"}),
        ("raydd show configs/own_images.yaml --network.name vg", {"vgg11"}),
        ("raydd auto configs --labels s", {"soft"}),
        ("raydd export runs --format imag", {"imagefolder"}),
        ("raydd inspect configs --image-si", {"--image-size"}),
        ("raydd bench mat", {"matching"}),
        ("raydd completion z", {"zsh"}),
    ],
)
def test_what_is_offered(of_bash: Path, line: str, expected: set[str]) -> None:
    assert offered(of_bash, line) == expected


def test_methods_and_the_fields_of_each_are_offered(of_bash: Path) -> None:
    assert offered(of_bash, "raydd run FILE --method.name ") == {kind.name for kind in OWN} - {"imported"}
    fields = offered(of_bash, "raydd distill FILE --method.")
    for kind in OWN:
        if kind.name != "imported":
            assert {field.flag for field in fields_of(kind(), "method.") if field.is_flag} <= fields, kind.name


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_script_of_another_shell_is_read_by_it(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "completion"
    file.write_text(script(shell))
    subprocess.run([shell, "-f", "-n", str(file)], capture_output=True, check=True)


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert raydd("completion", "zsh") == 0
    assert capsys.readouterr().out.startswith("#compdef raydd")
