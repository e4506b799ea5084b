"""Waiting for resources: those that a cluster may add, and those that it had and lost."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from raydd.cluster.runtime import how_many_fit
from raydd.config.cluster import ClusterConfig
from raydd.core.errors import ResourceError
from raydd.core.progress import WAITING, Progress

SECONDS = 1.0
"""From one look at the cluster to the next."""


class Lookout:
    """Sees whether the cluster holds what some work cannot go on without; asked again and again while it goes on.

    Nodes that die come back, or others come in their place, or they do not: the wait for them has an end.
    """

    def __init__(
        self, bundle: Mapping[str, float], count: int, field: str, wait_seconds: float, progress: Progress
    ) -> None:
        """Look for `count` bundles; an error names the config's `field` that asks for them."""
        self._bundle, self._count, self._field = dict(bundle), count, field
        self._wait_seconds, self._progress = wait_seconds, progress
        self._next_look = self._missing_since = float("-inf")
        self._is_met = True

    def is_met(self) -> bool:
        """Whether they are there, as of the last second. Says so while they are not.

        Raises:
            ResourceError: they have not been there for `wait_seconds`.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + SECONDS
            self._look(now)
        return self._is_met

    def _look(self, now: float) -> None:
        fits, before = how_many_fit(self._bundle), self._is_met
        self._is_met = fits >= self._count
        if self._is_met:
            if not before:
                self.say_they_are_there()
            return
        if before:
            self._missing_since = now
        left = self._wait_seconds - (now - self._missing_since)
        if left <= 0:
            raise ResourceError(f"{self.missing(fits)}; add nodes, and the same command goes on from here")
        self.say(f"at most {left:.0f} s more", fits)

    def say(self, note: str, fits: int = 0) -> None:
        """Tell how many bundles there are."""
        self._progress.update(WAITING, fits, self._count, note)

    def say_they_are_there(self) -> None:
        """Tell that there is nothing to wait for any more."""
        self.say("there they are", self._count)

    def missing(self, fits: int) -> str:
        """What is asked for and what there is."""
        there = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        asked = f"{self._field}: {self._count} times {self._bundle} asked for"
        return f"{asked}, but only {fits} fit into the {there} of this cluster"


def result(task: ray.ObjectRef, lookout: Lookout) -> Any:
    """What a task returns, as long as the cluster holds what it needs."""
    while not ray.wait([task], timeout=SECONDS)[0]:
        lookout.is_met()
    return ray.get(task)


@contextmanager
def waited_for() -> Iterator[list[ray.ObjectRef]]:
    """A list for tasks that begin inside the block: an error that leaves it cancels them, as nobody waits any more."""
    tasks: list[ray.ObjectRef] = []
    try:
        yield tasks
    except BaseException:
        for task in tasks:
            ray.cancel(task, force=True)
        raise


def one_share(config: ClusterConfig, share: Mapping[str, float], progress: Progress) -> Lookout:
    """Who sees whether the cluster holds one actor, student or task of what such a one takes."""
    return Lookout(share, 1, "cluster.threads_per_worker", config.wait_seconds, progress)


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
    lookout = Lookout(bundle, count, field, wait_seconds, progress)
    try:
        while not _out_of_reach(asked):
            if lookout.is_met():
                return True
            time.sleep(SECONDS)
        raise ResourceError(lookout.missing(how_many_fit(bundle)))
    except BaseException:
        ask_for_nothing()
        raise


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
