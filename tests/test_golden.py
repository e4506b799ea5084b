"""What raydd computes does not change by a bit: keys, resolved configs and artefacts are those of a golden record.

The record was made before the code was rearranged. Keys and configs hold everywhere; the bytes of what is trained hold
for the libraries and the kind of processor that the record names, and the test of them is skipped elsewhere.
Where a change of results is meant, `python -m tests.test_golden` makes the record anew: say why in the commit.
"""

import hashlib
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import pytest
import torch
import yaml

from raydd import config as configs
from raydd.data.images import Resident
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Identity
from raydd.evaluation import records
from raydd.evaluation.students.trials import LabelStore
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import Run, versions
from raydd.storage import Folder
from tests.pipeline.test_condensation_runs import METHODS as CONDENSED
from tests.pipeline.test_condensation_runs import RECIPE
from tests.pipeline.test_decoupled_runs import CONFIG as DECOUPLED
from tests.pipeline.test_imported_runs import SET as IMPORTED
from tests.support import foreign
from tests.support.presets import PRESETS, facts, preset
from tests.support.small import COMMON, SmallRun, small_run
from tests.support.small import CONFIG as DATM

RECORD = Path(__file__).parent / "golden" / "record.json"
CONDENSATION = {**DATM, "evaluate": {**DATM["evaluate"], "recipe": RECIPE}}
IDC = {"name": "idc", "images_per_class": 1, "iterations": 2, "inner_loops": 2, "num_real": 30}
STAGES = {"count": 2, "pool_size": 2, "epochs": 4}
SRE2L = {"name": "sre2l", "images_per_class": 2, "iterations": 4, "batch_size": 4}
REPLAYED = {**DECOUPLED["evaluate"], "labels": ["replayed"]}
RUNS: dict[str, dict[str, Any]] = {
    "datm": DATM,
    "mtt in two stages": {**DATM, "method": {**COMMON, "name": "mtt"}, "stages": STAGES},
    "dm": {**CONDENSATION, "method": CONDENSED["dm"]},
    "idc": {**CONDENSATION, "method": IDC},
    "delt with replayed labels": {**DECOUPLED, "evaluate": REPLAYED},
    "sre2l": {**DECOUPLED, "method": SRE2L, "evaluate": REPLAYED},
    "imported": IMPORTED,
}
VOLATILE = ("seconds", "time", "peak_memory_bytes", "device", "commit")
"""Columns of the records."""
LATER = {"evaluate.lr": "recipe", "evaluate.keep": "nothing", "data.nested": "skip", "teacher.class_order": None}
"""Fields that came after the record, with the defaults by which nothing changes."""
LATER_OF_TRAININGS = {
    **{"decays_all": False, "norm_momentum": 0.1, "crop_padding": 0, "randaugment_fill": "mean"},
    **{"loss": "cross_entropy", "growth": "flat", "init": "torch", "label_kind": "logits"},
}
"""The same, of every recipe and its views, of networks, and of what an import is."""
UNSTEADY = ("versions", "source", "config", "path")
"""Fields of cards: what a set was made with and where it came from."""


def test_every_preset_resolves_to_the_same_config() -> None:
    assert resolved_configs() == recorded()["configs"]


def test_every_preset_has_the_same_content_keys() -> None:
    assert content_keys() == recorded()["keys"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_makes_the_same_bytes(name: str) -> None:
    if platform() != recorded()["platform"]:
        pytest.skip(f"the record was made with {recorded()['platform']}, here is {platform()}")
    assert artefacts()[name] == recorded()["runs"][name]


@cache
def recorded() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def platform() -> dict[str, str]:
    """What the bits depend on."""
    found = versions() | {"capability": torch.backends.cpu.get_cpu_capability()}
    return {name: value for name, value in found.items() if name not in ("python", "raydd")}


def resolved_configs() -> dict[str, str]:
    """SHA-256 of every shipped configuration with its defaults, but for those of fields that came later."""
    return {name: sha(json.dumps(without_later(configs.to_mapping(preset(name))))) for name in PRESETS}


def without_later(resolved: dict[str, Any]) -> dict[str, Any]:
    """The same without the fields of `LATER` that have their default."""
    for path, default in LATER.items():
        part, _, name = path.partition(".")
        if resolved[part].get(name) == default:
            del resolved[part][name]
    return {name: without_later_of_trainings(value) for name, value in resolved.items()}


def without_later_of_trainings(value: Any) -> Any:
    """A part of a resolved configuration without the fields of `LATER_OF_TRAININGS` that have their default."""
    if not isinstance(value, dict):
        return value
    kept = {name: inner for name, inner in value.items() if LATER_OF_TRAININGS.get(name, value) != inner}
    return {name: without_later_of_trainings(inner) for name, inner in kept.items()}


def content_keys() -> dict[str, str]:
    """SHA-256 of all content keys of every shipped configuration, over data of its dataset's shape."""
    with NamedTemporaryFile() as weights:
        return {name: sha(json.dumps(keys(run_of(name, weights.name)))) for name in PRESETS}


def run_of(name: str, weights: str) -> Run:
    """The run of a preset; its data are one black image of each class, a teacher from elsewhere is an empty file."""
    config = resolved(preset(name))
    if config.teacher.weights is not None:
        config = replace(config, teacher=replace(config.teacher, weights=weights))
    size = facts(config)
    images = Resident.of(torch.zeros((), dtype=torch.uint8).expand(size.num_classes, *size.shape), Identity())
    labelled = LabelledImages(images, torch.arange(size.num_classes))
    names = tuple(f"class {number}" for number in range(size.num_classes))
    run = Run(config, Folder.at("/nowhere"))
    run.__dict__["data"] = PreparedData(
        config.data.source, names, "f" * 64, Identity(), train=labelled, test=labelled, test_fingerprint="e" * 64
    )
    return run


def keys(run: Run) -> dict[str, Any]:
    """Everything by which a run finds what is made."""
    config, found = run.config, {"observer": run.observer.key(), "selection": run.selection.key()}
    made_first = config.method.made_first
    if "experts" in made_first:
        found["experts"] = run.experts.key()
    if "teacher" in made_first:
        found |= {"teacher": run.teacher.key(), "ranking": run.ranking.key()}
        stores = LabelStore.needed(run.trials(), config.evaluate.label_epochs)
        found |= {f"labels {number}": run.labels_key(store) for number, store in enumerate(stores)}
    if run.scores is not None:
        found["scores"] = run.scores.key()
    for stage in run.stages:
        found |= {f"stage {stage.number}": stage.key, f"union {stage.number}": stage.union_key}
        if stage.uses_pool:
            found[f"pool {stage.number}"] = stage.pool_key
    return {**found, "records": [run.record_id(trial) for trial in run.trials()]}


@cache
def artefacts() -> dict[str, dict[str, str]]:
    """SHA-256 of everything that lasts of all runs, by the file's name; of a table of records, by its name."""
    found = {}
    with TemporaryDirectory() as root:
        for name, config in RUNS.items():
            folder = Path(root) / name
            folder.mkdir()
            run = begun(name, config, folder)
            assert run.does("distill") == 0 and run.does("evaluate") == 0, name
            found[name] = lasting(run.out)
    return found


def begun(name: str, config: dict[str, Any], folder: Path) -> SmallRun:
    """The config file of a run, and where it goes."""
    if name == "imported":
        files = foreign.write_triple(
            folder / "theirs", foreign.images(foreign.digits(), seed=1), foreign.logits(), 0.03
        )
        run = folder / "run"
        return SmallRun(foreign.run_import(files, "pt", run, "--soft-labels", "logits", config=config), run)
    run = small_run(folder)
    run.file.write_text(yaml.safe_dump({**config, "out": str(run.out)}))
    return run


def lasting(out: Path) -> dict[str, str]:
    """SHA-256 of the tensors, cards and records below a run's folder."""
    found = {}
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out)
        if not file.is_file() or name.parts[0] in ("work", "results", "metrics", "tensorboard"):
            continue
        if file.name == "manifest.json":
            found[f"{name}: key"] = json.loads(file.read_bytes())["key"]
        elif file.suffix == ".json":
            found[str(name)] = sha(json.dumps(steady(json.loads(file.read_bytes())), sort_keys=True))
        elif file.suffix in (".parquet", ".arrow", ".safetensors"):
            found[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = records.read(Folder.at(out) / "results").drop_columns(list(VOLATILE)).sort_by("record_id").to_pylist()
    return {**found, "records": sha(json.dumps(rows, sort_keys=True))}


def steady(value: Any) -> Any:
    """A card without what differs from one making to the next."""
    if isinstance(value, dict):
        kept = without_later_of_trainings(value)
        return {name: steady(inner) for name, inner in kept.items() if name not in UNSTEADY}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {"platform": platform(), "configs": resolved_configs(), "keys": content_keys(), "runs": artefacts()}
    RECORD.write_text(json.dumps(made, indent=1) + "\n")
    sys.exit()
