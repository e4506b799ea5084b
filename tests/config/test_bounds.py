"""Numbers beyond all bounds, in whichever field: each is refused at once, by its name."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydd import config as configs
from raydd import networks
from raydd.config import bounds
from raydd.core.errors import ConfigError
from raydd.data import decoding
from raydd.networks.config import NetworkConfig
from tests.support import small
from tests.support.alarms import attempt
from tests.support.mutations import BASES, at, leaves, replaced
from tests.support.small import small_run

Place = tuple[Any, ...]
_BEYOND = (10**31, -(10**31), 10**400, 1e31, -1e31)
_LARGE = (10**3, 10**4, 10**6, 10**9, 10**12, 2**31, 2**63 - 1, 1e3, 1e6, 1e9, 1e12, 1e-12, 1e-300, 0, 1, 2, -1)
_CPU_SECONDS = 20
"""For a plan, or a refusal: five on a machine with nothing else to do."""


def numeric() -> list[tuple[dict[str, Any], Place]]:
    """All fields with numbers in them, or that may have some, of all configurations; each once."""
    found = {}
    for tree in BASES:
        for path in leaves(tree):
            value = at(tree, path)
            if isinstance(value, int | float) and not isinstance(value, bool) and path[0] != "sweep":
                found.setdefault((tree["method"]["name"] if path[0] == "method" else "", path), (tree, path))
    return list(found.values())


def test_no_number_of_any_field_is_without_bounds() -> None:
    fields = numeric()
    assert len(fields) > 150
    for tree, path in fields:
        for value in _BEYOND:
            with pytest.raises(ConfigError) as refused:
                configs.from_mapping(replaced(tree, path, value))
            told, names = str(refused.value), [str(name) for name in path if not isinstance(name, int)]
            assert names[-1] in told or names[-2] in told or f"{value}" in told, (path, value, told)
            assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("network.depth", 65, "between -64 and 64"),
        ("experts.count", 10_001, "between -10,000 and 10,000"),
        ("stages.count", 1_001, "between -1,000 and 1,000"),
        ("experts.training.epochs", 1_000_001, "between -1,000,000 and 1,000,000"),
        ("method.max_start_epoch", 1_000_001, "between -1,000,000 and 1,000,000"),
        ("method.iterations", 10**9 + 1, "between -1,000,000,000 and 1,000,000,000"),
        ("method.image_lr", 2e30, r"between -1e\+30 and 1e\+30, is 2e\+30"),
        ("method.image_lr", float("nan"), "must be a finite number, is nan"),
        ("seed", 2**63, "must fit into 64 bits"),
    ],
)
def test_the_bound_of_a_field(field: str, value: float, words: str) -> None:
    *parents, name = field.split(".")
    tree: Any = {name: value}
    for parent in reversed(parents):
        tree = {parent: tree}
    with pytest.raises(ConfigError, match=words) as refused:
        bounds.check(tree)
    assert refused.value.field == field
    last = {**tree, "seed": 2**63 - 1} if field == "seed" else _with(tree, [*parents, name], value - 1)
    bounds.check(last if isinstance(value, int) else {})


def _with(tree: dict[str, Any], path: list[str], value: float) -> dict[str, Any]:
    return replaced(tree, tuple(path), value)


def test_lists_end_somewhere() -> None:
    bounds.check({"evaluate": {"augmentations": ("none",) * 10_000}})
    with pytest.raises(ConfigError, match=r"at most 10,000 values, has 10,001") as refused:
        bounds.check({"evaluate": {"augmentations": ("none",) * 10_001}})
    assert refused.value.field == "evaluate.augmentations"


def test_what_multiplies_has_a_bound_together() -> None:
    """Each number alone is within its own."""
    values = {**small.CONFIG, "evaluate": {**small.CONFIG["evaluate"], "num_students": 10_000, "random_draws": 100}}
    with pytest.raises(ConfigError, match=r"1,040,000 students: take at most 20,000") as refused:
        configs.from_mapping(values)
    assert refused.value.field == "evaluate.num_students"
    grid = {"parameters": {"seed": list(range(400)), "experts.seed": list(range(400))}}
    with pytest.raises(ConfigError, match=r"160,000 combinations: take at most 100,000"):
        configs.from_mapping({**small.CONFIG, "sweep": grid})


def test_weights_beyond_memory_are_not_asked_for() -> None:
    """64 layers of 65,536 channels have 9.7 TB, 12 blocks that grow from 128 channels on 1.6."""
    flat = NetworkConfig(width=2**16, depth=64, pooling="none")
    grown = NetworkConfig(width=128, depth=12, pooling="none", growth="doubled")
    for config, words in ((flat, "64 blocks from 65,536 channels on have 9,741"), (grown, "have 1,649")):
        with pytest.raises(ConfigError, match=f"{words} GB of weights") as refused:
            networks.build(config, (3, 32, 32), 10)
        assert refused.value.field == "network.width"


def test_work_beyond_memory_is_refused_before_it_begins(tmp_path: Path) -> None:
    """Images of a set, a batch: whatever the plan counts; nothing is written."""
    method = {"name": "dm", "images_per_class": 1_000_000, "repeat_images": True, "iterations": 1}
    run = small_run(tmp_path, {"method": method, "evaluate.recipe.lr": 0.01, "data.image_size": 256})
    code, message = attempt("run", run.file, "--no-ray", "--quiet")
    assert code == 2 and "GB of memory, and this machine has" in message and "method.images_per_class" in message
    assert not run.out.exists()


def test_images_beyond_memory_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.process, "memory_bytes", lambda device: 1000)
    canvas = decoding._Canvas(11, None)
    with pytest.raises(
        decoding.DataError, match=r"11 images of 10x10 take 0 GB of memory.*set a lower data.image_size"
    ):
        canvas.add("here", decoding.np.zeros((10, 10), decoding.np.uint8))


def extreme(count: int, tmp_path: Path) -> Counter[int]:
    """How so many configurations end, each of which has one to three numbers at a far end of what there may be."""
    codes: Counter[int] = Counter()
    draws = random.Random(0)
    fields = numeric()
    for number in range(count):
        tree, path = draws.choice(fields)
        others = [other for same, other in fields if same is tree]
        for changed in (path, *draws.sample(others, draws.randrange(min(3, len(others))))):
            value = draws.choice(_LARGE)
            tree = replaced(tree, changed, type(at(tree, changed))(value) if draws.random() < 0.8 else value)
        (tmp_path / "extreme.yaml").write_text(yaml.safe_dump(tree))
        before = time.process_time()
        code, printed = attempt("show", tmp_path / "extreme.yaml", "--rate", "1G")
        assert time.process_time() - before < _CPU_SECONDS, (number, tree)
        assert code == 2 or "total" in printed
        codes[code] += 1
    return codes


def test_extreme_configurations_are_planned_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codes = extreme(12, tmp_path)
    assert codes[0] > 1 and codes[2] > 1


@pytest.mark.slow
def test_two_thousand_extreme_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codes = extreme(2000, tmp_path)
    assert codes[0] > 200 and codes[2] > 200
