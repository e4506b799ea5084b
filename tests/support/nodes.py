"""A cluster of several nodes on this machine, each with processes of its own, of which a test may kill some."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from tests.support.runs import Command, Process, family, wait_until_gone

_STORE_BYTES = 80_000_000
_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10000,
    "health_check_failure_threshold": 4,
}
"""Of a node that does not answer, by which it counts as dead after some seconds, not after half a minute."""


class Nodes:
    """A head without CPUs, and nodes with one each."""

    def __init__(self) -> None:
        """Start the head alone."""
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": _SOON, "object_store_memory": _STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is to be."""
        return str(self._cluster.address)

    def have(self, count: int) -> None:
        """Have this many nodes beside the head, starting or ending some."""
        while len(self._cluster.worker_nodes) > count:
            self._cluster.remove_node(next(iter(self._cluster.worker_nodes)))
        while len(self._cluster.worker_nodes) < count:
            self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)

    def kill_one_with(self, title: str, command: Command) -> None:
        """SIGKILL the raylet of a node on which a process has this title; all processes of the node then end."""
        node, members = command.until(lambda: self._one_with(title))
        node.kill_raylet(check_alive=False)
        self._cluster.remove_node(node, allow_graceful=False)
        wait_until_gone(members)

    def processes(self, title: str) -> list[Process]:
        """Those of all nodes that have this title."""
        return [member for _, members in self._members() for member in members if member.title.startswith(title)]

    def end(self) -> None:
        """End all nodes and the head."""
        self._cluster.shutdown()

    def _one_with(self, title: str) -> tuple[Any, list[Process]] | None:
        found = ((node, all_) for node, all_ in self._members() if any(one.title.startswith(title) for one in all_))
        return next(found, None)

    def _members(self) -> list[tuple[Any, list[Process]]]:
        """Every node and its processes."""
        raylets = {node: node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid for node in self._cluster.worker_nodes}
        return [(node, family(pid)) for node, pid in raylets.items()]


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster that is ended when the block is left."""
    made = Nodes()
    try:
        yield made
    finally:
        made.end()
