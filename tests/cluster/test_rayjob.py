"""The RayJob that starts a run on Kubernetes has the structure that KubeRay documents, and lets nobody in."""

import copy
import shlex
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray import __version__ as installed

from raydd import config
from tests.support import ROOT

FILE = ROOT / "configs" / "kubernetes" / "rayjob.yaml"
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
AMOUNTS = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}, "required": ["cpu", "memory"]}


def closed(*required: str, **fields: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def some(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


CONTAINER = closed(
    "name",
    "image",
    "resources",
    name=TEXT,
    image={"type": "string", "pattern": r"^[\w./-]+:[\w.-]+$"},
    resources=closed("requests", "limits", requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=some(closed("name", "mountPath", name=TEXT, mountPath={"type": "string", "pattern": "^/"})),
)
POD = closed(
    "containers",
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    serviceAccountName=TEXT,
    containers=some(CONTAINER),
    volumes=some(
        closed(
            "name",
            name=TEXT,
            emptyDir=closed(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
            configMap=closed("name", name=TEXT),
        )
    ),
)
GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": closed("spec", spec=POD),
}
SCHEMA = closed(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed("name", name={"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$"}),
    spec=closed(
        "entrypoint",
        "rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=closed(
            "headGroupSpec",
            "workerGroupSpecs",
            "rayVersion",
            rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            authOptions=closed("mode", mode={"enum": ["disabled", "token"]}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=closed(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
            headGroupSpec=closed("template", **GROUP),
            workerGroupSpecs=some(
                closed(
                    "groupName",
                    "template",
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    **GROUP,
                )
            ),
        ),
    ),
)
"""Of the parts of a RayJob (ray-project/kuberay, `ray-operator/apis/ray/v1`) and of a pod that the file uses."""
SPOILT: dict[str, Callable[[Any], object]] = {
    "another kind": lambda job: job.update(kind="RayCluster"),
    "no entrypoint": lambda job: job["spec"].pop("entrypoint"),
    "a number in ray start": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(
        cpus=0
    ),
    "a field in the wrong place": lambda job: job["spec"].update(rayVersion="2.60.0"),
    "no workers": lambda job: job["spec"]["rayClusterSpec"].update(workerGroupSpecs=[]),
    "no limits": lambda job: containers(job)[0]["resources"].pop("limits"),
    "no tag": lambda job: containers(job)[0].update(image="example/raydd"),
}


@pytest.fixture
def job() -> dict[str, Any]:
    (loaded,) = yaml.safe_load_all(FILE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The head's, then those of the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for group in groups(job) for container in group["template"]["spec"]["containers"]]


def test_it_has_the_structure_of_a_ray_job(job: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(job)


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_another_structure_is_refused(job: dict[str, Any], spoil: Callable[[Any], object]) -> None:
    spoilt = copy.deepcopy(job)
    spoil(spoilt)
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(spoilt)


def test_its_ray_is_one_that_raydd_takes(job: dict[str, Any]) -> None:
    """The installed one but for the last number, and that of the image which the head of the file names."""
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = (each for each in pyproject["project"]["dependencies"] if each.startswith("ray["))
    least, below = needed.partition("]")[2].split(",")
    assert numbers(least.removeprefix(">=")) <= numbers(version) < numbers(below.removeprefix("<"))
    assert version.split(".")[:2] == installed.split(".")[:2]
    assert f"rayproject/ray:{version}-py311-gpu" in FILE.read_text()
    assert f"rayproject/ray:{version}-py311-gpu" in (ROOT / "raydd" / "cluster" / "README.md").read_text()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_its_image_is_of_this_raydd(job: dict[str, Any]) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {container["image"].rpartition(":")[2] for container in containers(job)} == {pyproject["project"]["version"]}


def test_pods_have_shared_memory_resources_and_their_volumes(job: dict[str, Any]) -> None:
    head, *workers = groups(job)
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in workers:
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
    for group in (head, *workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        memory = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
        assert [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in memory] == ["/dev/shm"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["restartPolicy"] == "Never"


def test_the_cluster_asks_for_a_token_grows_and_ends_with_the_job(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"} and "RAY_AUTH_TOKEN" not in yaml.safe_dump(job)
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"


def test_it_runs_a_config_that_it_brings(job: dict[str, Any]) -> None:
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "raydd", "run"] and command[5] == "--out" and "://" in command[6]
    folder, _, name = command[4].rpartition("/")
    assert config.load(str(ROOT / "configs" / name)).name == "quickstart"
    pod = groups(job)[0]["template"]["spec"]
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == folder)
    (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
    created = f"kubectl create configmap {volume['configMap']['name']} --from-file=configs/{name}"
    assert created in FILE.read_text() and created in (ROOT / "raydd" / "cluster" / "README.md").read_text()
    assert "RAY_JOB_STOP_WAIT_TIME_S" in yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
