"""The configuration: YAML in and out, flags on top, and messages that name the field."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydd import config as configs
from raydd.config import RunConfig, first_difference, from_mapping, parse, to_mapping, to_yaml
from raydd.config.evaluate import EvaluateConfig
from raydd.core.errors import ConfigError
from raydd.methods import DATMConfig, FTDConfig, MTTConfig
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs import resolved as by_data
from tests.support import ROOT
from tests.support.small import SmallRun, raydd, small_run

PRESETS = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if file.parent.name != "kubernetes")
UNUSUAL = RunConfig(
    name="an odd: name # with 'quotes'",
    seed=2**62,
    out="s3://bucket/run?endpoint_override=localhost:1",
    method=MTTConfig(synthetic_lr_lr=1e-5, image_lr=1 / 3, threshold=1e-300, synthetic_batch_size=7),
    evaluate=EvaluateConfig(networks=(NetworkConfig(depth=2), NetworkConfig(name="resnet18")), baselines=()),
)


def leaves(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every field that is no part with fields of its own."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


def test_there_are_presets() -> None:
    assert len(PRESETS) >= 3


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(method=MTTConfig()),
        RunConfig(method=FTDConfig()),
        UNUSUAL,
        *(configs.load(str(file)) for file in PRESETS),
    ],
    ids=lambda config: config.name,
)
def test_the_way_through_yaml_is_exact(config: RunConfig) -> None:
    text = to_yaml(config)
    assert parse(text.encode(), "there") == config
    assert to_yaml(parse(text.encode(), "there")) == text


def test_the_file_is_complete() -> None:
    written = yaml.safe_load(to_yaml(RunConfig()))
    for path, value in leaves(RunConfig()):
        inside = written
        for part in path.split("."):
            inside = inside[part]
        assert inside == (list(value) if isinstance(value, tuple) else value), path


def test_what_a_file_leaves_out_has_its_default() -> None:
    assert parse(b"name: raydd", "there") == RunConfig()
    config = parse(b"method: {name: mtt, iterations: 7}", "there")
    assert config == RunConfig(method=MTTConfig(iterations=7))


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "1E-5", "0.00001"])
def test_small_numbers_with_and_without_a_dot(text: str) -> None:
    config = parse(f"method: {{name: datm, synthetic_lr_lr: {text}}}".encode(), "there")
    assert config.method.synthetic_lr_lr == 1e-5


def test_null_and_lists() -> None:
    text = b"evaluate: {networks: [{name: mlp}, {depth: 2}], recipe: {lr: null}}\ndata: {image_size: 16}"
    config = parse(text, "there")
    assert config.evaluate.networks == (NetworkConfig(name="mlp"), NetworkConfig(depth=2))
    assert config.evaluate.recipe.lr is None and config.data.image_size == 16


METHODS = "mtt, ftd, datm, delt, cda, sre2l, rded, fadrm, wmdd, dc, dsa, dm, idc, frepo, coreset, imported"


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"sead": 1}, "sead", "there is no such field; did you mean seed?"),
        ({"data": {"sorce": "digits"}}, "data.sorce", "there is no such field; did you mean data.source?"),
        ({"experts": {"training": {"epoch": 1}}}, "experts.training.epoch", "did you mean experts.training.epochs?"),
        ({"method": {"name": "mtt", "image_rl": 1}}, "method.image_rl", "did you mean method.image_lr?"),
        ({"zzz": 1}, "zzz", "there is no such field"),
        ({"method": {"name": "dream"}}, "method.name", f"must be one of {METHODS}, is dream"),
        ({"method": {}}, "method.name", f"must be one of {METHODS}, is missing"),
        ({"seed": 1.5}, "seed", "got 1.5"),
        ({"seed": -(2**63) - 1}, "seed", "must fit into 64 bits"),
        ({"experts": {"seed": 2**63}}, "experts.seed", "must fit into 64 bits"),
        ({"experts": {"count": None}}, "experts.count", "got None"),
        ({"experts": {"count": 0}}, "experts.count", "must be at least 1, is 0"),
        ({"experts": {"training": {"lr": None}}}, "experts.training.lr", "must be given"),
        ({"experts": {"training": {"lr": -1}}}, "experts.training.lr", "must be positive"),
        ({"evaluate": {"recipe": {"batch_size": 0}}}, "evaluate.recipe.batch_size", "must be at least 1, is 0"),
        ({"evaluate": {"networks": [{}, {"depth": 0}]}}, "evaluate.networks.1.depth", "must be at least 1"),
        ({"evaluate": {"baselines": ["random_stored"]}}, "evaluate.baselines.0", "'random_stored'"),
        ({"method": {"name": "datm", "augmentation": "x"}}, "method.augmentation", "'x' is neither none, dsa, nor"),
        ({"method": {"name": "datm", "initial_max_start_epoch": 30}}, "method.initial_max_start_epoch", "is 30"),
        ({"method": {"name": "ftd", "gradient": "cut:3"}}, "method.gradient", "exact, tesla or truncated:k"),
        ({"method": {"name": "ftd", "ema_decay": 1}}, "method.ema_decay", "below 1, is 1"),
        ({"method": {"name": "mtt", "labels": "learned"}}, "method.labels", "'hard' or 'assigned'"),
        ({"method": {"name": "datm", "labels": "assigned"}}, "method.labels", "'learned', 'fixed' or 'hard'"),
        ({"method": {"name": "datm", "label_epoch": 51}}, "method.label_epoch", "51 lies beyond the 50 epochs"),
        ({"method": {"name": "mtt", "image_lr": float("inf")}}, "method.image_lr", "finite"),
        ({"cluster": {"num_workers": "all"}}, "cluster.num_workers", "valid integer"),
        ({"cluster": {"num_workers": "all"}}, "cluster.num_workers", "or: Input should be 'auto', got 'all'"),
        ({"cluster": {"num_workers": 0}}, "cluster.num_workers", "must be at least 1, is 0"),
        ({"data": {"preprocess": "wash"}}, "data.preprocess", "'none', 'standardise' or 'zca'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_name_the_field(values: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(values)
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_segments_have_to_lie_inside_the_trajectories() -> None:
    method = DATMConfig(max_start_epoch=20, expert_epochs=2)
    for epochs in (21, 20):
        values = {"method": {"name": "datm", "max_start_epoch": 20}, "experts": {"training": {"epochs": epochs}}}
        if method.max_start_epoch - 1 + method.expert_epochs <= epochs:
            assert from_mapping(values).experts.training.epochs == epochs
        else:
            with pytest.raises(ConfigError, match="method.max_start_epoch: .* to epoch 21, beyond the 20 of experts"):
                from_mapping(values)


def resolved(run: SmallRun, *flags: str) -> RunConfig:
    """What a command makes of the file and these flags, as it writes it down."""
    assert run.does("experts", *flags) == 0
    return configs.load(str(run.out / "config.yaml"))


def test_flags_override_the_file(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    plain = configs.load(str(run.file))
    flags = (
        "--method.images-per-class 2 --evaluate.recipe.lr 0.5 --evaluate.baselines init full --method.threshold None"
    )
    config = resolved(run, *flags.split(), "--method.synthetic_lr_lr", "1e-5", "--data.validation-fraction", "0.25")
    assert config == replace(
        plain,
        data=replace(plain.data, validation_fraction=0.25),
        method=replace(plain.method, images_per_class=2, synthetic_lr_lr=1e-5, threshold=None),
        evaluate=replace(plain.evaluate, baselines=("init", "full"), recipe=replace(plain.evaluate.recipe, lr=0.5)),
    )


def test_without_flags_the_file_holds(tmp_path: Path) -> None:
    run = small_run(tmp_path, {"evaluate.networks": [{"name": "mlp"}], "data.preprocess": "zca"})
    assert resolved(run) == configs.load(str(run.file))


def test_every_field_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raydd("run", small_run(tmp_path).file, "--help", "all") == 0
    printed = capsys.readouterr().out
    missing = [path for path, _ in leaves(RunConfig()) if f"--{path.replace('_', '-')} " not in printed]
    views = {
        f"{name}.views" for name in ("experts.training", "teacher.training", "evaluate.recipe", "evaluate.selector")
    }
    whole = {"teacher.network", *views}
    assert set(missing) == {"evaluate.networks", "stages.filter", "stages.overrides", "sweep", *whole}


def test_paths_count_from_the_folder_in_which_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "data.root": "a",
        "experts.store": "b/c",
        "teacher.weights": "../w.pt",
        "stages.store": "s3://b/d?region=us-east-1",
    }
    config = configs.load(str(small_run(tmp_path, changes).file))
    monkeypatch.chdir(tmp_path)
    located = config.located()
    assert (located.data.root, located.experts.store) == (f"{tmp_path}/a", f"{tmp_path}/b/c")
    assert (located.teacher.weights, located.stages.store) == (f"{tmp_path.parent}/w.pt", changes["stages.store"])
    assert located.ranking.store is located.teacher.store is None and located.located() == located


def test_first_difference() -> None:
    before = to_mapping(RunConfig())
    assert first_difference(before, to_mapping(RunConfig())) is None
    after = to_mapping(RunConfig(seed=3, network=NetworkConfig(width=8)))
    assert first_difference(before, after) == ("seed", 0, 3)
    assert first_difference(before["network"], after["network"], "network") == ("network.width", 128, 8)
    assert first_difference({"a": 1}, {"a": 1, "b": None}) is None
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", None, 2)


def test_depths_follow_the_size_of_the_images() -> None:
    auto = {"depth": "auto", "norm": "batch"}
    values = {
        "data": {"source": "digits", "image_size": 64},
        "network": {"depth": "auto"},
        "teacher": {"network": auto},
        "evaluate": {"networks": [auto, {"depth": 1}]},
    }
    sized = from_mapping(values).sized(64)
    assert (sized.network.depth, sized.teacher_network.depth) == (4, 4)
    assert [network.depth for network in sized.evaluate.networks] == [4, 1]
    assert sized.is_sized and by_data.resolved(sized) is sized and by_data.resolved(from_mapping(values)) == sized
    values["data"] = {"source": "digits"}
    assert by_data.resolved(from_mapping(values)).network.depth == 2


def test_a_config_reads_no_data() -> None:
    """Once its text is there, parsing, resolving and writing a config opens no file, and asks nobody."""
    subprocess.run([sys.executable, "-c", LOOKING_ON, *map(str, PRESETS)], check=True)


LOOKING_ON = """
import sys
from pathlib import Path
from raydd import config as configs
texts = {name: Path(name).read_bytes() for name in sys.argv[1:]}
configs.to_yaml(configs.from_mapping({"network": {"name": "mlp"}}).sized(8))
EVENTS, opened = ("open", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen"), []
sys.addaudithook(lambda event, what: opened.append((event, what)) if event in EVENTS else None)
for name, text in texts.items():
    config = configs.parse(text, name)
    configs.parse(configs.to_yaml(config.sized(32).located()).encode(), name)
    configs.field_names(config), config.methods, config.images_per_class, config.is_sized
assert len(texts) > 50 and not opened, opened[:5]
"""
