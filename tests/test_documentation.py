"""What the READMEs say can be done: their commands parse, their files and links exist, their snippets run."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT
from tests.support.small import finished_run, raydd

TOPS = ("raydd", "configs", "tests")
READMES = [ROOT / "README.md", *sorted(file for top in TOPS for file in (ROOT / top).rglob("README.md"))]
MOST_LINES = 220
"""Of the first README."""
TEST_COMMAND = "pip install -e '.[test]' && pytest"
"""Which `.ci/run` repeats."""
OTHERS = ("kubectl", "lint-imports", "mypy", "pip", "pytest", "ray", "ruff", "tensorboard")
"""Programs of others that may be named; the files that they are given are looked at all the same."""
OWN = re.compile(r"[A-Z_]{2,}(?!\.md)")
"""In a path, what stands for the reader's own: DATASET, NAME."""
Options = Callable[[tuple[str, ...]], frozenset[str]]
_listed: dict[tuple[str, ...], frozenset[str]] = {}
each_readme = pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.relative_to(ROOT)))


@pytest.fixture
def options_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Options:
    """All options that the help of a command lists; of a config's, with the fields of that config."""

    def listed(command: tuple[str, ...]) -> frozenset[str]:
        if command not in _listed:
            monkeypatch.chdir(ROOT)
            monkeypatch.setenv("COLUMNS", "1000")
            sections = ["all"] if command[0] in CONFIG_COMMANDS else []
            code = raydd(*command, "--help", *sections)
            shown = capsys.readouterr()
            assert code == 0, f"raydd {' '.join(command)} --help: {shown.err}"
            _listed[command] = frozenset(re.findall(r"--[a-z][\w.-]*", shown.out))
        return _listed[command]

    return listed


def test_the_first_readme_is_short() -> None:
    assert len(READMES[0].read_text().splitlines()) <= MOST_LINES


def test_the_first_readme_has_the_test_command_that_ci_runs() -> None:
    assert TEST_COMMAND in [block.strip() for block in blocks(READMES[0], "bash")]
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text().replace("install -q", "install")


@each_readme
def test_commands_parse_and_their_files_exist(readme: Path, options_of: Options) -> None:
    for block in blocks(readme, "bash"):
        for command in commands(block):
            require_files(command)
            if command[0] == "raydd":
                require_options(command[1:], options_of)


@each_readme
def test_commands_in_the_text_have_their_options(readme: Path, options_of: Options) -> None:
    for code in re.findall(r"(?<!`)`(raydd [a-z][^`]*)`(?!`)", prose(readme)):
        words = code.replace("\\|", "|").split()[1:]
        of_runs = words[:2] == ["report", "RUN..."] or "--where" in words
        config = [] if of_runs or words[0] not in CONFIG_COMMANDS else ["configs/quickstart.yaml"]
        options = re.findall(r"--[a-z][\w.-]*", code)
        name = (words[1:2] or ["matching"]) if words[0] == "bench" else ["digits"] * (words[0] == "inspect")
        require_options([words[0], *config, *name, *options], options_of)


@each_readme
def test_files_in_the_text_exist(readme: Path) -> None:
    for path in re.findall(r"(?<!`)`((?:raydd|tests|configs)/[\w./*{},-]*)`(?!`)", prose(readme)):
        assert OWN.search(path) or any(ROOT.glob(path.rstrip("/"))), f"there is no {path}"


@each_readme
def test_links_lead_somewhere(readme: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(readme)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = readme.parent / path if path else readme
        assert file.exists(), f"there is no {target}"
        assert not heading or heading in anchors(file), f"{target}: the headings are {anchors(file)}"


@each_readme
def test_yaml_is_of_fields_that_configs_have(readme: Path, options_of: Options) -> None:
    known = options_of(("run", "configs/digits/sweep.yaml"))
    for block in blocks(readme, "yaml"):
        for field in leaves(yaml.safe_load(block)):
            if not field.startswith("sweep.parameters."):
                assert f"--{field.replace('_', '-')}" in known, f"there is no field {field}"


@each_readme
def test_python_compiles(readme: Path) -> None:
    for block in blocks(readme, "python"):
        compile(block, str(readme), "exec")


def test_the_snippets_of_the_first_readme_run(tmp_path: Path) -> None:
    """On a small run in the place of the quickstart's, whose images are as large."""
    run, names = finished_run(tmp_path), dict[str, Any]()
    snippets = blocks(READMES[0], "python")
    assert sum("runs/quickstart" in snippet for snippet in snippets) >= 1
    for snippet in snippets:
        exec(snippet.replace("runs/quickstart", str(run.out)), names)
    assert names["loss"].isfinite() and names["dataset"].accuracy(names["network"], run.out) > 0.3


# What a README is made of


def blocks(readme: Path, language: str) -> list[str]:
    """The fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)


def prose(readme: Path) -> str:
    """What stands outside of fences."""
    return re.sub(r"^```.*?^```$", "", readme.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(file: Path) -> list[str]:
    """What links call the headings of a file, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


# What its commands are

CONFIG_COMMANDS = (
    *("run", "experts", "teacher", "rank", "distill", "evaluate"),
    *("probe", "report", "sweep", "show", "submit"),
)
"""They take a config and, as flags, its fields."""
TELLS = """{name}() {{ printf '%s\\0' {name} "$@"; printf '\\n'; }}
"""
"""A program that tells its arguments in place of doing anything."""


def commands(block: str) -> list[list[str]]:
    """The commands that bash would run, with loops, braces and globs expanded, in the top folder.

    The shell is a restricted one, which writes no file, and finds no programs but those that tell their arguments.
    """
    programs = "".join(TELLS.format(name=name) for name in ("raydd", *OTHERS))
    bash = shutil.which("bash")
    assert bash is not None
    shell = [bash, "--restricted", "--norc", "-e", "-u", "-c", f"shopt -s failglob\n{programs}{block}"]
    done = subprocess.run(shell, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, f"{done.stderr}in\n{block}"
    told = [line.split("\0")[:-1] for line in done.stdout.splitlines()]
    return [part for command in told for part in divided(command)]


def divided(command: list[str]) -> list[list[str]]:
    """A command and, behind `--`, the one that it has run elsewhere."""
    if "--" not in command:
        return [command]
    place = command.index("--")
    inner = command[place + 1 :]
    return [command[:place], inner[2:] if inner[0] == "python" else inner]


def require_files(command: Sequence[str]) -> None:
    for word in command[1:]:
        path = word.rpartition("=")[2]
        if path.split("/")[0] in TOPS and not OWN.search(path):
            assert (ROOT / path).exists(), f"{' '.join(command)}: there is no {path}"


def require_options(words: Sequence[str], options_of: Options) -> None:
    """See that there is such a command of raydd, and that it has these options."""
    files = [word for word in words[1:] if word.endswith(".yaml") and words[0] in CONFIG_COMMANDS]
    named = [word if word.islower() else "matching" for word in words[1:2] if words[0] in ("bench", "inspect")]
    known = options_of((words[0], *map(found, files), *named))
    for option in (word for word in words if word.startswith("--")):
        if (words[0], option) != ("bench", "--json"):  # which its help, that of what is measured, leaves out
            assert option in known, f"raydd {' '.join(words)}: there is no option {option}"


def found(config: str) -> str:
    """A config that a command names, maybe from within the folder of configs; for one that is made first, another."""
    if config.startswith("runs/"):
        return "configs/quickstart.yaml"
    return config if (ROOT / config).is_file() else f"configs/{config}"
