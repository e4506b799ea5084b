"""Connecting to Ray, and knowing what it has before asking for it."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources

from raydd.config import ClusterConfig
from raydd.errors import ResourceError
from raydd.progress import Progress

NAMESPACE = "raydd"
_QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@contextmanager
def session() -> Iterator[None]:
    """A connection to Ray: the caller's own where there is one, a cluster's where RAY_ADDRESS names it, else a new one.

    Only what was started here is shut down.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False, "num_cpus": _cpus()} if address == "local" else {}
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield
    finally:
        ray.shutdown()


def num_workers(config: ClusterConfig) -> int:
    """How many workers share a synthetic batch: what the config says, or one per GPU, one without."""
    if config.num_workers == "auto":
        return max(1, int(ray.cluster_resources().get("GPU", 0)))
    return config.num_workers


def worker_resources(config: ClusterConfig) -> dict[str, float]:
    """What one Train worker takes: its threads, and a GPU where the cluster has any."""
    return {"CPU": float(config.threads_per_worker), **({"GPU": 1.0} if has_gpu() else {})}


def share_resources(config: ClusterConfig) -> dict[str, float]:
    """What one expert actor or student takes: its threads, and a share of a GPU where the cluster has any."""
    gpu = {"GPU": 1.0 / config.experts_per_gpu} if has_gpu() else {}
    return {"CPU": float(config.threads_per_worker), **gpu}


def how_many_fit(bundle: Mapping[str, float]) -> int:
    """How many such bundles the cluster holds in all, node by node."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in bundle.items()) for node in alive)


def has_gpu() -> bool:
    """Whether any node has one."""
    return bool(ray.cluster_resources().get("GPU", 0))


def require(bundle: Mapping[str, float], count: int, field: str, wait_seconds: int, progress: Progress) -> None:
    """See that the cluster holds `count` bundles; a cluster that scales itself is asked for them and waited for.

    Raises:
        ResourceError: it does not hold them, or did not in time; names `field` and what there is.
    """
    asked = [dict(bundle)] * count
    deadline = time.monotonic() + (wait_seconds if _may_grow(bundle, count) else 0)
    while (fits := how_many_fit(bundle)) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            there = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            raise ResourceError(
                f"{field}: {count} times {dict(bundle)} asked for, but only {fits} fit into the {there} of this cluster"
            )
        request_resources(bundles=asked)
        progress.update("waiting for resources", fits, count, f"at most {left:.0f} s more")
        time.sleep(min(2.0, left))


def _may_grow(bundle: Mapping[str, float], count: int) -> bool:
    """Whether the cluster scales itself, and its limits leave room for that much."""
    limits = state.get_max_resources_from_cluster_config()
    return bool(limits) and all(limits.get(name, 0) >= amount * count for name, amount in bundle.items())


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
