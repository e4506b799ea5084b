"""Folders that all nodes of a cluster share: looked at from each of them before the work begins."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.cluster import runtime
from raydd.core.errors import ConfigError
from raydd.data import DataConfig
from raydd.data.loading import default_root
from raydd.data.sources.table import files
from raydd.pipeline.runs.inputs import RunInputs
from raydd.storage import Folder
from raydd.storage.local import temporary

_SECONDS = 5.0
"""How long a node looks for a file that was written on another one a moment ago."""

_DIED = (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError)


def require(run: RunInputs) -> None:
    """See that every node finds the data, and the folders of the run that are local paths.

    Where each folder is or will be, a file is written for a moment. An address in an object store means the same
    everywhere, and a cluster of one node has nothing to look at.

    Raises:
        ConfigError: a node does not; names the field, the node, and what to do.
    """
    nodes = runtime.alive()
    if len(nodes) < 2:
        return
    folders, data = dict(_local_folders(run)), run.config.data
    with ExitStack() as stack:
        marks = {field: stack.enter_context(_mark(folder)) for field, folder in folders.items()}
        looks = [_from(node).remote(sorted(set(marks.values())), data) for node in nodes]
        has_data = _has_data(data)
        for node, look in zip(nodes, looks, strict=True):
            try:
                unseen, sees_data = ray.get(look)
            except _DIED:  # its work goes to the others
                continue
            where = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
            for field, mark in marks.items():
                if mark in unseen:
                    problem = f"{where} of the cluster does not see {folders[field].uri}; name a folder that all nodes"
                    raise ConfigError(field, f"{problem} share, such as one on NFS, or s3://BUCKET/FOLDER")
            if has_data and not sees_data:
                problem = f"{where} of the cluster does not find the images of {data.source}"
                raise ConfigError("data.root", f"{problem}; name a folder that all nodes share, or s3://BUCKET/FOLDER")


def _local_folders(run: RunInputs) -> Iterator[tuple[str, Folder]]:
    """By field, those that several nodes read or write."""
    config, parts = run.config, ("experts", "teacher", "ranking", "stages")
    stores = {f"{part}.store": getattr(config, part).store for part in parts}
    named = {"out": run.folder.uri, **stores, "method.path": getattr(config.method, "path", None)}
    folders = {field: Folder.at(uri) for field, uri in named.items() if uri is not None}
    yield from ((field, folder) for field, folder in folders.items() if folder.is_local)


@contextmanager
def _mark(folder: Folder) -> Iterator[str]:
    """A file for a moment in the nearest folder that exists; where nothing may be written, that folder itself."""
    nearest = next(path for path in (folder.path, *folder.path.parents) if path.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield str(nearest)
        return
    with temporary(nearest, "seen", str(nearest)) as mark:
        mark.touch()
        yield str(mark)


def _from(node: dict[str, Any]) -> Any:
    """The task that looks, on a node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
    return ray.remote(_look).options(name="look for shared folders", **options)


def _look(paths: Sequence[str], data: DataConfig) -> tuple[list[str], bool]:
    """Which paths are not there, and whether the data are."""
    unseen, deadline = list(paths), time.monotonic() + _SECONDS
    while (unseen := [path for path in unseen if not Path(path).exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return unseen, _has_data(data)


def _has_data(data: DataConfig) -> bool:
    """Whether any file of the dataset lies where it is looked for."""
    return any(True for _ in files(data.source, Folder.at(data.root or default_root())))
