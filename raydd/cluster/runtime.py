"""Connecting to Ray, and knowing what it has before asking for it."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from raydd.config import ClusterConfig
from raydd.errors import ResourceError
from raydd.progress import Progress

NAMESPACE = "raydd"
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
_ATTEMPTS = "RAY_gcs_server_port_wait_time_s"
"""How often Ray tries to reach a cluster, 45 seconds each time; by itself it does so for a quarter of an hour."""


@contextmanager
def session() -> Iterator[None]:
    """A connection to Ray: the caller's own where there is one, a cluster's where RAY_ADDRESS names it, else a new one.

    Only what was started here is shut down.

    Raises:
        ResourceError: no cluster answers at RAY_ADDRESS, or it does not let us in.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _connect(address, include_dashboard=False, num_cpus=_cpus())
    else:
        _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    os.environ[_ATTEMPTS] = "1"
    try:
        _connect(address)
    except ConnectionError as error:
        raise ResourceError(
            f"RAY_ADDRESS: no Ray cluster lets us in at {address}; see that it runs and that RAY_AUTH_TOKEN is the one "
            "it was started with, or unset RAY_ADDRESS to work on this machine"
        ) from error
    finally:
        del os.environ[_ATTEMPTS]  # a cluster that is started here may take its time


def _connect(address: str, **options: Any) -> None:
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)


def num_workers(config: ClusterConfig) -> int:
    """How many workers share a synthetic batch: what the config says, or one per GPU, one without."""
    if config.num_workers == "auto":
        return max(1, num_gpus())
    return config.num_workers


def worker_resources(config: ClusterConfig) -> dict[str, float]:
    """What one Train worker takes: its threads, and a GPU where the cluster has any."""
    return {"CPU": float(config.threads_per_worker), **({"GPU": 1.0} if num_gpus() else {})}


def share_resources(config: ClusterConfig, count: int) -> dict[str, float]:
    """What each of `count` expert actors or students takes: its threads, and a share of a GPU where there is any.

    Ray fills one GPU before it turns to the next: the share is as large as it can be with all of them at work.
    """
    threads = {"CPU": float(config.threads_per_worker)}
    if not (gpus := num_gpus()):
        return threads
    at_once = min(count, how_many_fit(threads))
    return {**threads, "GPU": 1.0 / max(1, min(config.experts_per_gpu, math.ceil(at_once / gpus)))}


def how_many_fit(bundle: Mapping[str, float]) -> int:
    """How many such bundles the cluster holds in all, node by node."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in bundle.items()) for node in alive)


def num_gpus() -> int:
    """How many there are on all nodes."""
    return int(ray.cluster_resources().get("GPU", 0))


def require(bundle: Mapping[str, float], count: int, field: str, wait_seconds: int, progress: Progress) -> bool:
    """See that the cluster holds `count` bundles; a cluster that scales itself is asked for them and waited for.

    Returns:
        Whether it was asked; it keeps what it was asked for until `ask_for_nothing`.

    Raises:
        ResourceError: it does not hold them, or did not in time; names `field` and what there is.
    """
    if how_many_fit(bundle) >= count:
        return False
    request_resources(bundles=[dict(bundle)] * count)
    asked = _autoscaler().cluster_resource_state.cluster_resource_state_version
    deadline = time.monotonic() + wait_seconds
    while (fits := how_many_fit(bundle)) < count:
        left = deadline - time.monotonic()
        if left <= 0 or _out_of_reach(asked):
            ask_for_nothing()
            there = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            raise ResourceError(
                f"{field}: {count} times {dict(bundle)} asked for, but only {fits} fit into the {there} of this cluster"
            )
        progress.update("waiting for resources", fits, count, f"at most {left:.0f} s more")
        time.sleep(min(1.0, left))
    progress.update("waiting for resources", count, count, "there they are")
    return True


def ask_for_nothing() -> None:
    """Let the cluster shrink again."""
    request_resources(bundles=[])


def _out_of_reach(asked: int) -> bool:
    """Whether waiting is in vain: nothing scales this cluster, or what does has seen state `asked` and given up."""
    if not is_autoscaler_v2(fetch_from_server=True):
        return True
    answer = _autoscaler().autoscaling_state
    seen = answer.last_seen_cluster_resource_state_version >= asked
    return seen and bool(answer.infeasible_cluster_resource_constraints)


def _autoscaler() -> Any:
    """What the autoscaler was asked for and what it answered (Ray's autoscaler.proto, GetClusterStatusReply)."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status())
    return reply


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
