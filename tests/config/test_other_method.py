"""Another method on a config: what is kept, what is left out, and that both are named."""

from pathlib import Path

import pytest

from raydd import config as configs
from raydd.config.other_method import with_method
from raydd.core.errors import ConfigError
from tests.support import ROOT
from tests.support.small import CONFIG, raydd, small_run

Captured = pytest.CaptureFixture[str]
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


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("file", ["quickstart.yaml", "digits/methods/dm.yaml", "digits/methods/delt.yaml"])
def test_every_method_on_every_kind_of_file(file: str, name: str) -> None:
    before = configs.load(str(ROOT / "configs" / file))
    plain = configs.to_mapping(before)
    values, dropped = with_method(plain, name)
    after = configs.from_mapping(values)
    assert plain == configs.to_mapping(before)
    assert after.method.name == name and after.images_per_class == before.images_per_class
    assert (after.seed, after.data, after.network.width) == (before.seed, before.data, before.network.width)
    assert (name == before.method.name) <= (after == before and dropped == ())


def test_a_family_shares_its_fields_and_others_only_their_number() -> None:
    plain = configs.to_mapping(configs.from_mapping(CONFIG))
    values, dropped = with_method(plain, "mtt")
    assert (values["method"]["iterations"], values["method"]["image_lr"]) == (10, 1.0)
    assert dropped == ("method.initial_max_start_epoch", "method.expansion_iterations")
    values, dropped = with_method(plain, "dm")
    assert values["method"]["iterations"] == 20_000 and {"method.iterations", "evaluate.recipe.lr"} <= set(dropped)
    assert values["evaluate"]["recipe"]["epochs"] == 5 and values["evaluate"]["recipe"]["lr"] == 0.01


def test_what_does_not_go_together_is_refused() -> None:
    whitened = configs.to_mapping(configs.from_mapping({**CONFIG, "data": {"source": "digits", "preprocess": "zca"}}))
    with pytest.raises(ConfigError, match=r"^data\.preprocess: whitened images"):
        with_method(whitened, "rded")
    with pytest.raises(ConfigError, match=r"^method\.path"):
        with_method(configs.to_mapping(configs.from_mapping(CONFIG)), "imported")


@pytest.mark.parametrize("flag", [["--method.name", "dm"], ["--method.name=dm"]])
def test_by_flag(flag: list[str], tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path)
    assert raydd("show", run.file, "--config", *flag, "--method.iterations", 3, "--ipc", 2) == 0
    said = capsys.readouterr()
    config = configs.parse(said.out.encode(), "shown")
    assert (config.method.name, config.method.iterations, config.images_per_class) == ("dm", 3, 2)
    assert "dm in place of datm: left out" in said.err and "evaluate.recipe.lr" in said.err
    assert raydd("show", run.file, "--method.name", "dream") == 2
    assert "method.name: must be one of mtt" in capsys.readouterr().err


def test_a_sweep_over_methods_says_what_each_leaves_out(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path, {"sweep": {"parameters": {"method.name": ["datm", "mtt"]}}})
    assert raydd("sweep", run.file, "--no-ray", "--quiet") == 0
    said = capsys.readouterr()
    assert "mtt in place of datm: left out" in said.err and "method.expansion_iterations" in said.err
    assert said.out.count("name mtt") > 0 and said.out.count("name datm") > 0


def test_short_names_of_compare_and_auto(tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path)
    table = tmp_path / "table.json"
    options = ("--ipc", 2, "--out", tmp_path / "made", "--seed", 0, "--only-print", "--json", table)
    assert raydd("compare", run.file, *options) == 0
    assert raydd("compare", run.file, "--ipc", 0, "--only-print") == 2
    assert "images_per_class: must be at least 1" in " ".join(capsys.readouterr().err.split())
    assert raydd("auto", tmp_path / "nowhere", "--ipc", 1, "--no-ray") == 2
    assert "nowhere" in capsys.readouterr().err
