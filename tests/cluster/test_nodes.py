"""Nodes that die (SIGKILL of their raylet) under runs on a cluster: what goes on, what waits, what is lost."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import raydd as package
from raydd import config as configs
from raydd.config.cluster import ClusterConfig
from raydd.core.errors import ConfigError
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.cluster.test_decoupled import CONFIG as DELT
from tests.cluster.test_decoupled import finished_groups
from tests.cluster.test_runs import Witness, timeless
from tests.cluster.test_sweep import LABELS, NETWORKS, WIDTHS, wanted
from tests.cluster.test_sweep import students as records_of_sweep
from tests.cluster.test_sweep import written as with_sweep
from tests.support import tiny
from tests.support.nodes import Nodes, nodes
from tests.support.runs import CONFIG, ROOT, Command, epochs, made, metrics, raydd_run, started
from tests.support.small import raydd
from tests.support.stages import distilled_together

WORKER, ALONE = "ray::RayTrainWorker", "ray::distill of"
"""Who distils: one of several workers, and the only one."""
LONG: dict[str, Any] = {**CONFIG, "method": {**CONFIG["method"], "iterations": 200}}
STUDENTS_OF_QUICKSTART = 5 * 2 * (1 + 1 + 3) + 1
"""Five of each of two kinds of labels of the set, its start and three random draws; and one of all images."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """One for all tests; each says how many nodes it begins with."""
    with nodes() as made_nodes:
        yield made_nodes


def on_it(cluster: Nodes) -> dict[str, str]:
    """The environment of a command on the cluster."""
    return {"RAY_ADDRESS": cluster.address}


def on(cluster: Nodes, verb: str, out: Path, *flags: str, config: dict[str, Any]) -> AbstractContextManager[Command]:
    """A command under way on the cluster."""
    arguments = raydd_run(out, *flags, config=config)
    arguments[arguments.index("run")] = verb
    return started(arguments, out.with_suffix(".log"), **on_it(cluster))


def distilled(folder: Path, config: dict[str, Any]) -> Path:
    """What one process makes of the config without Ray."""
    file = folder / "alone.yaml"
    file.write_text(yaml.safe_dump(config | {"out": str(folder / "alone")}))
    assert raydd("distill", file, "--no-ray", "--quiet") == 0
    return folder / "alone"


def distilled_by_rank(file: str) -> tiny.Results:
    """What this rank of a group has distilled of a run whose experts are trained."""
    opened = Run(configs.load(file), Folder.at(Path(file).parent / "run"))
    distilled_together(opened)
    return {"images": opened.last_stage.union().images}


def together(folder: Path, config: dict[str, Any], experts: Path) -> torch.Tensor:
    """The images that two workers distil whom nobody disturbs."""
    shutil.copytree(experts / "experts", folder / "run" / "experts")
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(config | {"out": str(folder / "run")}))
    return tiny.on_workers(2, distilled_by_rank, str(file))[0]["images"]


def rows(out: Path) -> list[dict[str, Any]]:
    """The metrics of the distilling as of the newest checkpoint."""
    return [json.loads(line) for line in metrics(out)]


def images(out: Path) -> torch.Tensor:
    return SyntheticSet.load(Folder.at(out / "synthetic")).images


@pytest.mark.slow
def test_a_node_that_dies_changes_nothing_where_another_is_there(cluster: Nodes, tmp_path: Path) -> None:
    cluster.have(2)
    out = tmp_path / "run"
    with on(cluster, "distill", out, config=CONFIG) as command:
        before = command.until(lambda: rows(out))
        cluster.kill_one_with(ALONE, command)
        assert not (out / "stages" / "000" / "synthetic" / "manifest.json").exists()
        assert command.wait() == 0, command.output()
    alone = distilled(tmp_path, CONFIG)
    assert rows(out)[: len(before)] == before
    assert made(out) == made(alone) and timeless(out) == timeless(alone)
    verify(Folder.at(out))


@pytest.mark.slow
def test_a_lost_expert_gets_the_place_of_one_that_is_done(cluster: Nodes, tmp_path: Path) -> None:
    """Two actors have all CPUs that are left, then one: no epoch is trained twice, and none is missing."""
    cluster.have(2)
    out = tmp_path / "run"
    witness = Witness(out)
    with on(cluster, "experts", out, config=CONFIG) as command:
        command.until(witness.watching(lambda: epochs(out, 0) and epochs(out, 1)))
        cluster.kill_one_with("ray::Maker.make", command)
        command.until(witness.watching(lambda: (out / "experts" / "manifest.json").exists()))
        assert command.wait() == 0, command.output()
    witness.testify()
    made_alone = made(distilled(tmp_path, CONFIG))
    assert made(out) == {name: digest for name, digest in made_alone.items() if name.startswith("experts")}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`LONG` as one process distils it; its experts are those of `CONFIG`."""
    return distilled(tmp_path_factory.mktemp("long"), LONG)


@pytest.mark.slow
def test_two_workers_wait_for_a_second_node(cluster: Nodes, long: Path, tmp_path: Path) -> None:
    """They go on as two while two nodes are left; with one they wait, and make what two make whom nobody disturbs."""
    cluster.have(3)
    out = tmp_path / "run"
    shutil.copytree(long / "experts", out / "experts")
    with on(cluster, "distill", out, "--cluster.num-workers", "2", config=LONG) as command:
        first = command.until(lambda: rows(out))
        cluster.kill_one_with(WORKER, command)
        command.until(lambda: len(rows(out)) > len(first))
        command.until(lambda: len(cluster.processes(WORKER)) == 2)
        cluster.kill_one_with(WORKER, command)
        command.until(lambda: "waiting for resources: 1/2, at most" in command.output())
        cluster.have(2)
        assert command.wait() == 0, command.output()
    assert torch.equal(images(out), together(tmp_path / "both", LONG, long))
    assert [row["iteration"] for row in rows(out)] == list(range(LONG["method"]["iterations"]))


@pytest.mark.slow
def test_waiting_for_nodes_has_an_end(cluster: Nodes, long: Path, tmp_path: Path) -> None:
    """For actors as for workers; then the same command goes on."""
    out, flags = tmp_path / "run", ("--cluster.wait-seconds", "4")
    for verb, at_work, title, field in (
        ("experts", lambda: epochs(out), "ray::Maker.make", "cluster.threads_per_worker"),
        ("distill", lambda: rows(out), ALONE, "cluster.num_workers"),
    ):
        cluster.have(1)
        with on(cluster, verb, out, *flags, config=LONG) as command:
            command.until(at_work)
            cluster.kill_one_with(title, command)
            assert command.wait() == 2, command.output()
        assert f"error: {field}: 1 times {{'CPU': 1.0}} asked for, but only 0 fit into the {{}}" in command.output()
    assert raydd("distill", out.with_suffix(".yaml"), "--out", out, "--no-ray", "--quiet") == 0
    assert made(out) == made(long)


@pytest.mark.slow
def test_elastic_workers_go_on_with_those_that_are_left(cluster: Nodes, long: Path, tmp_path: Path) -> None:
    """What they make is what one makes, to the tolerance of two workers that are not disturbed."""
    cluster.have(2)
    out = tmp_path / "run"
    config = {**LONG, "cluster": {"checkpoint_seconds": 0, "num_workers": 2, "min_workers": 1}}
    shutil.copytree(long / "experts", out / "experts")
    with on(cluster, "distill", out, config=config) as command:
        first = command.until(lambda: rows(out))
        command.until(lambda: len(cluster.processes(WORKER)) == 2)
        cluster.kill_one_with(WORKER, command)
        command.until(lambda: len(rows(out)) > len(first))
        assert len(cluster.processes(WORKER)) == 1
        assert command.wait() == 0, command.output()
    start = SyntheticSet.load(Folder.at(long / "stages" / "000" / "init")).images
    assert (images(out) - images(long)).norm() < 1e-3 * (images(long) - start).norm()
    assert [row["iteration"] for row in rows(out)] == list(range(LONG["method"]["iterations"]))
    verify(Folder.at(out))


@pytest.mark.slow
def test_class_groups_of_a_lost_node_are_recovered_by_others(cluster: Nodes, tmp_path: Path) -> None:
    """Groups do not depend on each other: elastic workers make the very images that one process makes."""
    cluster.have(2)
    out = tmp_path / "run"
    teacher = {**DELT["teacher"], "store": str(tmp_path / "teachers"), "seed": 0}
    alone = distilled(tmp_path, DELT | {"teacher": teacher, "cluster": {}})
    cluster_config = {"checkpoint_seconds": 0, "num_workers": 2, "min_workers": 1}
    config = DELT | {"teacher": teacher, "cluster": cluster_config}
    with on(cluster, "distill", out, config=config) as command:
        before = command.until(lambda: finished_groups(out))
        times = [manifest.stat().st_mtime_ns for manifest in before]
        cluster.kill_one_with(WORKER, command)
        assert len(finished_groups(out)) < 10
        assert command.wait() == 0, command.output()
    assert [manifest.stat().st_mtime_ns for manifest in before] == times
    assert torch.equal(images(out), images(alone))
    verify(Folder.at(out))


@pytest.mark.slow
def test_trials_of_a_lost_node_are_tried_again(cluster: Nodes, tmp_path: Path) -> None:
    """Every student of the sweep has one record, with the accuracy that one process finds."""
    cluster.have(2)
    recipe = {**CONFIG["evaluate"]["recipe"], "epochs": 40}
    sweep = {"parameters": {NETWORKS: WIDTHS, LABELS: [["hard"], ["stored"]]}}
    here, there = tmp_path / "here", tmp_path / "there"
    assert raydd("distill", with_sweep(here, {}), "--no-ray", "--quiet") == 0
    shutil.copytree(here, there)
    file = with_sweep(there, sweep, recipe=recipe)
    with started([sys.executable, "-m", "raydd", "sweep", str(file)], tmp_path / "log", **on_it(cluster)) as command:
        command.until(lambda: list(there.glob("sweeps/*/results/part-*")))
        cluster.kill_one_with("ray::ImplicitFunc", command)
        assert command.wait() == 0, command.output()
    assert raydd("sweep", with_sweep(here, sweep, recipe=recipe), "--no-ray", "--quiet") == 0
    assert records_of_sweep(there).equals(records_of_sweep(here))
    names = records_of_sweep(there)["record_id"].to_pylist()
    assert sorted(names) == sorted(wanted(there)) and len(set(names)) == len(names)


@pytest.mark.slow
def test_the_quickstart_runs_on_three_nodes_of_which_one_dies(cluster: Nodes, tmp_path: Path) -> None:
    cluster.have(3)
    out = tmp_path / "run"
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    with on(cluster, "run", out, config=config) as command:
        command.until(lambda: epochs(out))
        cluster.kill_one_with("ray::Maker.make", command)
        assert command.wait() == 0, command.output()
    verify(Folder.at(out))
    rows_of_students = package.results(out).to_pylist()
    assert {row["status"] for row in rows_of_students} == {"ok"}
    assert len({row["record_id"] for row in rows_of_students}) == len(rows_of_students) == STUDENTS_OF_QUICKSTART


def test_more_workers_at_least_than_at_most_are_refused() -> None:
    assert ClusterConfig(num_workers=2, min_workers=2).min_workers == 2
    for workers, fewest in ((2, 3), ("auto", 0)):
        with pytest.raises(ConfigError, match=r"^cluster\.min_workers: must be at (most cluster\.num_workers|least 1)"):
            ClusterConfig(num_workers=workers, min_workers=fewest)
