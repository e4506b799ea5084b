"""What users start clusters with, `cluster.yaml` and the README's RayJob, is well-formed and lets nobody in."""

import copy
import re
import shlex
import tomllib
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from raydd import config
from tests.support.runs import ROOT

TOKEN = "RAY_AUTH_MODE=token"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def ray_job() -> dict[str, Any]:
    """The one RayJob of the README."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (job,) = (found for block in blocks if "kind: RayJob" in block for found in yaml.safe_load_all(block))
    return job


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


def test_the_ray_job_of_the_readme(ray_job: dict[str, Any]) -> None:
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    job = ray_job["spec"]
    cluster = job["rayClusterSpec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"} and cluster["autoscalerOptions"]["version"] == "v2"
    assert supported(cluster["rayVersion"])
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        memory = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
        assert [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in memory] == ["/dev/shm"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert ":" in container["image"] and container["resources"]["limits"]["memory"]
        assert pod["restartPolicy"] == "Never"
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
    assert "RAY_AUTH_TOKEN" not in yaml.safe_dump(ray_job)


def test_the_ray_job_runs_a_config_that_it_brings(ray_job: dict[str, Any]) -> None:
    command = shlex.split(ray_job["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "raydd", "run"] and command[5] == "--out" and "://" in command[6]
    folder, _, name = command[4].rpartition("/")
    assert config.load(str(ROOT / "configs" / name)).name == "quickstart"
    pod = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == folder)
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    assert f"create configmap {volume['configMap']['name']} " in (ROOT / "README.md").read_text()
    assert "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(ray_job["spec"]["runtimeEnvYAML"])["env_vars"]
