"""A cluster of which one node has a file system of its own: a real raylet in a mount namespace."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from raydd.cluster import runtime, shared_folders
from raydd.config import load
from raydd.core.errors import ConfigError
from raydd.pipeline.runs.run import Run
from tests.support.nodes import nodes
from tests.support.runs import started
from tests.support.small import SmallRun, image_folder, raydd, small_run

HIDDEN = """
mount -t tmpfs tmpfs "$1" || exit 99
exec "$2" start --address="$3" --block --num-cpus=2 --object-store-memory=80000000
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an image folder in it, of which one of the nodes sees nothing; `RAY_ADDRESS` names the cluster."""
    private = tmp_path_factory.mktemp("private")
    image_folder(private / "pictures", per_class=2, tests_per_class=1)
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("there is no file system of one's own to be had here")
    log = tmp_path_factory.mktemp("log") / "node"
    ray_command = str(Path(sys.executable).with_name("ray"))
    with nodes() as cluster, pytest.MonkeyPatch.context() as patch:
        cluster.have(1)
        patch.setenv("RAY_ADDRESS", cluster.address)
        hidden = ["unshare", "-rm", "sh", "-c", HIDDEN, "sh", str(private), ray_command, cluster.address]
        with started(hidden, log) as node, runtime.session():
            node.until(lambda: sum(one["Alive"] for one in ray.nodes()) == 3)
            yield private


@pytest.mark.parametrize("field", ["out", "experts.store", "teacher.store", "data.root"])
def test_what_one_node_does_not_see_is_refused_by_field(private: Path, tmp_path: Path, field: str) -> None:
    folder = private / ("pictures" if field == "data.root" else "none/yet")
    made = small_run(tmp_path, {field: str(folder)})
    if field == "data.root":
        made = small_run(tmp_path, {"data": {"source": "imagefolder", "root": str(folder)}})
    with pytest.raises(ConfigError, match=rf"^{field}: node \S+ \([\d.]+, \w{{8}}\) of the cluster does not ") as told:
        shared_folders.require(Run.of(load(str(made.file))))
    assert "name a folder that all nodes share" in str(told.value)
    assert [path.name for path in private.iterdir()] == ["pictures"]


def test_folders_that_all_nodes_see_pass_and_nothing_stays(private: Path, tmp_path: Path) -> None:
    stores = {f"{part}.store": str(tmp_path / "stores" / part) for part in ("experts", "teacher", "ranking", "stages")}
    shared_folders.require(Run.of(load(str(small_run(tmp_path, stores).file))))
    shared_folders.require(Run.of(load(str(small_run(tmp_path, {"out": "s3://bucket/run?region=us-east-1"}).file))))
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_command_refuses_before_anything_is_made(
    private: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {"parameters": {"evaluate.recipe.lr": [0.01, 0.1]}}
    made: SmallRun = small_run(tmp_path, {"out": str(private / "run"), "sweep": sweep})
    assert raydd(command, made.file, "--quiet") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out: node ") and said.count("\n") == 1
    assert not (private / "run" / "work").exists()
