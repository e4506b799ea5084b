"""The real command on a real Ray, undisturbed and disturbed: what it makes is the same, bit for bit."""

import json
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raydd import config as configs
from raydd.cluster import actor_pool, runtime
from raydd.cluster.actors import Maker
from raydd.config.cluster import ClusterConfig
from raydd.core.progress import NoProgress
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.support.runs import (
    CONFIG,
    autoscaler,
    autoscaling_cluster,
    epochs,
    free_port,
    made,
    metrics,
    raydd_run,
    run,
    running,
    started,
    students,
    times,
    wait_until_gone,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made in one process without Ray."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(out, "--no-ray")
    return out


def require_same(out: Path, wanted: Path) -> None:
    """Fail unless two runs made the same experts, images and students, and `out` is whole."""
    assert made(out) == made(wanted)
    assert students(out).equals(students(wanted))
    assert timeless(out) == timeless(wanted)
    verify(Folder.at(out))


def timeless(out: Path) -> list[dict[str, Any]]:
    """The metrics of the distilling without the seconds that each iteration took."""
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in metrics(out)]


class Witness:
    """Sees that no epoch of an expert is trained twice."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._written: dict[Path, set[int]] = defaultdict(set)

    def watching(self, condition: Callable[[], Any]) -> Callable[[], Any]:
        """The condition, to be asked often; each time it is noted when the epochs that are kept were written."""

        def look() -> Any:
            for path in epochs(self._out):
                with suppress(FileNotFoundError):  # the expert has been finished meanwhile
                    self._written[path].add(path.stat().st_mtime_ns)
            return condition()

        return look

    def testify(self) -> None:
        assert self._written
        assert [path for path, moments in self._written.items() if len(moments) > 1] == []


BLOCKED = """
import importlib, pkgutil, runpy, sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("there is no Ray here")

sys.meta_path.insert(0, NoRay())
import raydd

for module in pkgutil.walk_packages(raydd.__path__, "raydd."):
    if not module.name.startswith(("raydd.cluster.", "raydd.__main__")):
        print("imported", importlib.import_module(module.name).__name__)
runpy.run_module("raydd", run_name="__main__")
"""


def test_where_ray_cannot_be_imported_all_else_can_and_a_run_is_made(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = raydd_run(out, "--no-ray")
    with started([sys.executable, "-c", BLOCKED, *arguments[3:]], tmp_path / "log") as command:
        assert command.wait() == 0, command.output()
    assert "imported raydd.methods.outer_loop\n" in command.output()
    require_same(out, undisturbed)


@pytest.mark.slow
def test_ray_makes_what_one_process_makes(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    assert {"experts/expert-00001.arrow", "synthetic/images-00000.parquet"} < made(out).keys()
    require_same(out, undisturbed)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Ray that went on to its end although an actor and the worker that distils were killed."""
    out = tmp_path_factory.mktemp("killed") / "run"
    witness = Witness(out)
    with running(out) as command:
        command.until(witness.watching(lambda: len(epochs(out)) > 4))
        actor = command.find("ray::Maker.make")
        assert actor
        actor.kill()
        wait_until_gone([actor])
        assert not (out / "experts" / "manifest.json").exists()
        before = command.until(witness.watching(lambda: metrics(out)))
        worker = command.find("ray::distill of")
        assert worker
        worker.kill()
        wait_until_gone([worker])
        assert not (out / "stages" / "000" / "synthetic" / "manifest.json").exists()
        assert command.wait() == 0, command.output()
    witness.testify()
    assert metrics(out)[: len(before)] == before
    return out


@pytest.mark.slow
def test_killed_actors_and_workers_on_ray_change_nothing(undisturbed: Path, killed: Path) -> None:
    assert {"experts/expert-00001.arrow", "synthetic/images-00000.parquet"} < made(killed).keys()
    require_same(killed, undisturbed)


@pytest.mark.slow
def test_the_second_run_makes_nothing_again(killed: Path) -> None:
    before = times(killed)
    printed = run(killed)
    assert times(killed) == before
    assert "report:" in printed and "expert 0" not in printed


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_the_same_command_goes_on_with(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    witness = Witness(out)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would hand down that it is ignored

    def interrupt_when(condition: Callable[[], Any]) -> Any:
        with running(out, "--no-ray") as command:
            found = command.until(witness.watching(condition))
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130, command.output()
        assert command.output().endswith("interrupted; the same command goes on from here\n")
        assert not list(out.rglob(".*"))
        return found

    interrupt_when(lambda: len(epochs(out)) > 2)
    before = interrupt_when(lambda: metrics(out))
    run(out, "--no-ray")
    witness.testify()
    assert metrics(out)[: len(before)] == before
    require_same(out, undisturbed)


@pytest.mark.slow
def test_a_killed_driver_takes_its_cluster_along_and_the_command_goes_on(tmp_path: Path) -> None:
    """With more iterations than a Train worker gets done while the cluster dies."""
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    config = {**CONFIG, "method": {**CONFIG["method"], "iterations": 600}}
    run(undisturbed, "--no-ray", config=config)
    with running(out, config=config) as command:
        before = command.until(lambda: metrics(out))
        family = command.family()
        assert any(process.title.startswith("ray::distill of") for process in family)
        command.process.kill()
        command.process.wait()
        wait_until_gone(family)
    assert not (out / "stages" / "000" / "synthetic" / "manifest.json").exists()
    run(out, config=config)
    assert metrics(out)[: len(before)] == before
    require_same(out, undisturbed)


@pytest.mark.slow
def test_two_workers_agree_with_one(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, "--cluster.num-workers", "2")
    verify(Folder.at(out))
    two, one = (SyntheticSet.load(Folder.at(folder / "synthetic")) for folder in (out, undisturbed))
    start = SyntheticSet.load(Folder.at(undisturbed / "stages" / "000" / "init"))
    assert two.soft_labels is not None and one.soft_labels is not None and start.soft_labels is not None
    for found, wanted, before in (
        (two.images, one.images, start.images),
        (two.soft_labels, one.soft_labels, start.soft_labels),
        (torch.tensor(two.learned_lr), torch.tensor(one.learned_lr), torch.tensor(start.learned_lr)),
    ):
        assert (found - wanted).norm() < 1e-3 * (wanted - before).norm()
    for found_row, wanted_row in zip(timeless(out), timeless(undisturbed), strict=True):
        assert found_row == pytest.approx(wanted_row, rel=1e-3)


@pytest.mark.slow
def test_a_failed_student_stays_as_a_row_and_is_tried_again(undisturbed: Path, tmp_path: Path) -> None:
    """At this step size a ConvNet with normalisation overflows; without it all units die at once, which is finite."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    networks = [{**CONFIG["network"], "norm": norm} for norm in ("instance", "none")]
    recipe = {**CONFIG["evaluate"]["recipe"], "lr": 1e6}
    evaluate = {**CONFIG["evaluate"], "recipe": recipe, "networks": networks, "baselines": ["init"]}
    config = {**CONFIG, "evaluate": {**evaluate, "labels": ["stored"]}}
    printed = run(out, config=config)
    assert "failed" in printed
    rows = [row for row in students(out).to_pylist() if row["learned_lr"] == 1e6]
    outcomes = {(row["subject"], row["network"].rpartition("-")[2]): row["status"] for row in rows}
    assert outcomes == {
        ("synthetic", "instance"): "failed",
        ("synthetic", "none"): "ok",
        ("init", "instance"): "failed",
        ("init", "none"): "ok",
    }
    failed = {f"results/part-{row['record_id']}.parquet" for row in rows if row["status"] == "failed"}
    assert all("loss" in row["error"] for row in rows if row["status"] == "failed")
    before = times(out)
    run(out, "--no-ray", config=config)
    after = {name: moment for name, moment in times(out).items() if name in before or "tensorboard/" not in name}
    assert after.keys() == before.keys()
    assert {name for name, moment in after.items() if moment != before[name]} == failed


def test_more_workers_than_there_are_cpus_are_refused_at_once(tmp_path: Path) -> None:
    out, began = tmp_path / "run", time.monotonic()
    printed = run(out, "--cluster.num-workers", "64", "--quiet", code=2)
    assert time.monotonic() - began < ClusterConfig().wait_seconds / 4
    assert printed.startswith("error: cluster.num_workers: 64 times") and printed.count("\n") == 1
    assert not out.exists()


@pytest.fixture
def two_gpus() -> Iterator[None]:
    """A Ray that believes in two GPUs: enough for everything about scheduling."""
    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def test_gpus_are_counted_shared_and_all_used(two_gpus: None, tmp_path: Path) -> None:
    config = ClusterConfig()
    with runtime.session():
        assert runtime.num_workers(config) == 2
        assert runtime.num_workers(ClusterConfig(num_workers=3)) == 3
        assert runtime.worker_resources(config) == {"CPU": 1, "GPU": 1}
        assert runtime.how_many_fit(runtime.worker_resources(config)) == 2
        shares = {count: runtime.share_resources(config, count) for count in (1, 2, 4, 6, 100)}
        assert [share["GPU"] for share in shares.values()] == [1, 1, 1 / 2, 1 / 3, 1 / 4]
        assert [runtime.how_many_fit(share) for share in shares.values()] == [2, 2, 4, 6, 8]
        wide = ClusterConfig(threads_per_worker=3)
        assert runtime.share_resources(wide, 100) == {"CPU": 3, "GPU": 1}
        assert runtime.how_many_fit({"CPU": 3, "GPU": 1 / 4}) == 2
        assert gpus_of_experts(3, tmp_path) == [0, 0, 1]
    assert ray.is_initialized()


def gpus_of_experts(count: int, folder: Path) -> list[int]:
    """Which GPU each actor of a pool for `count` experts was given."""
    run = Run(configs.from_mapping(CONFIG), Folder.at(folder))
    with actor_pool.actors(Maker, "an actor", (run, run.experts), run.config.cluster, count, NoProgress()) as actors:
        found = ray.get([actor.__ray_call__.remote(lambda self: ray.get_gpu_ids()) for actor in actors.members])
    return sorted(gpu for (gpu,) in found)


@pytest.mark.slow
def test_an_autoscaling_cluster_is_waited_for_within_its_limits(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with autoscaling_cluster(nodes=1, update_seconds=1) as address:
        began = time.monotonic()
        printed = run(out, "--cluster.num-workers", "64", code=2, RAY_ADDRESS=address)
        assert time.monotonic() - began < ClusterConfig().wait_seconds / 4
        assert "error: cluster.num_workers: 64 times" in printed and not out.exists()
        printed = run(out, "--cluster.num-workers", "3", RAY_ADDRESS=address)
        assert "waiting for resources: 3/3" in printed
        assert not autoscaler(address).cluster_resource_state.cluster_resource_constraints[0].resource_requests
    verify(Folder.at(out))


@pytest.mark.slow
def test_waiting_for_an_autoscaling_cluster_has_an_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--cluster.num-workers", "3", "--cluster.wait-seconds", "15")
    with autoscaling_cluster(nodes=1, update_seconds=3600) as address:
        printed = run(out, *flags, code=2, RAY_ADDRESS=address)
    assert "waiting for resources: 1/3" in printed and "s more" in printed
    assert "error: cluster.num_workers: 3 times {'CPU': 1.0} asked for, but only 1 fit" in printed
    assert not out.exists()


@pytest.mark.slow
def test_an_address_at_which_no_cluster_answers_is_named(tmp_path: Path) -> None:
    out, began = tmp_path / "run", time.monotonic()
    printed = run(out, code=2, RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 200
    assert "error: RAY_ADDRESS: no Ray cluster lets us in at 127.0.0.1" in printed and "Traceback" not in printed
    assert not out.exists()
