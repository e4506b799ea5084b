"""What users start clusters with, `cluster.yaml`, is well-formed and lets nobody in."""

import copy
import re
import tomllib
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.runs import ROOT

TOKEN = "RAY_AUTH_MODE=token"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def supported(version: str) -> bool:
    """Whether raydd takes this version of Ray, which is the one installed but for the last number."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert any(each.startswith("ray[") and f">={version[:4]}" in each for each in pyproject["project"]["dependencies"])
    return version.split(".")[:2] == ray.__version__.split(".")[:2]


def test_rays_launcher_accepts_the_cluster(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    types = prepared["available_node_types"]
    head = prepared["head_node_type"]
    assert types[head]["max_workers"] == 0 and types[head]["resources"] == {"CPU": 0}
    (gpu,) = types.keys() - {head}
    assert 1 <= types[gpu]["min_workers"] < types[gpu]["max_workers"] == cluster["max_workers"]
    with pytest.raises(Exception, match="Additional properties"):
        validate_config({**prepared, "worker_image": "nothing that Ray knows"})


def test_every_node_asks_for_the_token_which_is_in_no_file(cluster: dict[str, Any]) -> None:
    for name in STARTS:
        started = [command for command in cluster[name] if "ray start" in command]
        assert started and all(command.startswith(f"export {TOKEN};") for command in started)
    assert f"-e {TOKEN}" in cluster["docker"]["run_options"]
    assert "RAY_AUTH_TOKEN=" not in (ROOT / "cluster.yaml").read_text()
    (path,) = (each.partition("PATH=")[2] for each in cluster["docker"]["run_options"] if "RAY_AUTH_TOKEN_PATH" in each)
    assert cluster["file_mounts"][path] == "~/.ray/auth_token"
    (head,) = (command for command in cluster[STARTS[0]] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head


def test_the_nodes_install_this_raydd_on_the_ray_that_it_needs(cluster: dict[str, Any]) -> None:
    images = [cluster["docker"][f"{kind}_image"] for kind in ("head", "worker")]
    assert all(supported(re.fullmatch(r"rayproject/ray:([\d.]+)-py311-[cg]pu", image)[1]) for image in images)
    (installed,) = (each for each in cluster["setup_commands"] if "pip install" in each)
    assert cluster["file_mounts"][installed.split()[-1]] == "."
    assert cluster["rsync_filter"] == [".gitignore"] and (ROOT / ".gitignore").is_file()
