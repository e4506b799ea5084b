"""Connecting to Ray, and knowing what it has."""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from raydd.cluster.own_ray import kept_apart
from raydd.cluster.session_folder import session_folder
from raydd.config.cluster import ClusterConfig
from raydd.core.errors import ResourceError, RunError, UserError
from raydd.core.interruption import heeded

NAMESPACE = "raydd"
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_TUNE = ("ray.tune.execution.tune_controller", "ray.tune.tune", "ray.tune.analysis.experiment_analysis")
"""Print a traceback for every trial that is lost, also of those that it tries again, and where their files are not."""
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
        with silent(*_TUNE):
            yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as ended:
        if address == "local":
            ended.enter_context(kept_apart())
            _start()
        else:
            _join(address)
        ended.callback(ray.shutdown)
        with heeded(), silent(*_TUNE):  # Ray has put a handler of its own for SIGTERM into the place of ours
            yield


@contextmanager
def silent(*names: str) -> Iterator[None]:
    """Have loggers of Ray's print nothing: whoever waits for the work says what became of it."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explained() -> Iterator[None]:
    """Raise what Ray raises inside the block as an error of ours; one that comes back from a worker arrives as itself.

    Raises:
        RunError: a worker failed in another way, or a process of Ray's that all need died.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (UserError, RunError)):
            raise cause from None
        raise RunError(f"a worker failed: {cause!r}") from error
    except ray.exceptions.RayError as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"Ray has lost what the work ran on ({what}); the same command goes on from here") from error


def _start() -> None:
    """A Ray of our own on this machine."""
    folder = session_folder()
    try:
        _connect("local", include_dashboard=False, num_cpus=_cpus(), _temp_dir=folder)
    except Exception as error:  # whatever the system, and whichever of Ray's processes, may come to
        ray.shutdown()
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"Ray cannot start on this machine ({first}); look at the memory, the disk and the processes that are left "
            "of other runs, set RAY_TMPDIR to another short folder, or work with --no-ray"
        ) from error


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
        return max(config.min_workers or 1, num_gpus())
    return config.num_workers


def fewest_workers(config: ClusterConfig) -> int:
    """Below how many the work waits for more."""
    return config.min_workers or num_workers(config)


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
    held = (node["Resources"] for node in alive())
    return sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in bundle.items()) for node in held)


def alive() -> list[dict[str, Any]]:
    """The nodes that work, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def num_gpus() -> int:
    """How many there are on all nodes."""
    return int(ray.cluster_resources().get("GPU", 0))


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
