"""A pool of actors that work off a list."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from raydd.cluster import runtime
from raydd.cluster.waiting import SECONDS, Lookout, one_share
from raydd.config.cluster import ClusterConfig
from raydd.core.errors import RunError
from raydd.core.progress import Progress

_ANSWER_SECONDS = 30.0
"""How long one actor is waited for before another is asked the same."""


@dataclass(frozen=True)
class ActorPool:
    """Actors that are at work, some perhaps lost and waiting for a place where Ray can restart them."""

    members: list[ray.actor.ActorHandle]
    lookout: Lookout
    """Sees whether the cluster holds at least one."""

    def ask(self, method: str) -> Any:
        """What the first actor answers to `method()`, or another one if that takes long."""
        asked: list[ray.ObjectRef] = []
        for member in self.members:
            asked.append(getattr(member, method).remote())
            if answered := ray.wait(asked, timeout=_ANSWER_SECONDS)[0]:
                return ray.get(answered[0])
        return self._get_next(asked)[1]

    def work_off(self, method: str, tasks: Iterable[tuple[Any, ...]]) -> Iterator[int]:
        """Keep every actor busy with `method(*task)` until all tasks are done; yields how many are.

        An actor for which nothing is left ends: one that was lost with its node may need the place.
        """
        left, idle, done = deque(tasks), list(self.members), 0
        flying: dict[ray.ObjectRef, ray.actor.ActorHandle] = {}
        while left or flying:
            while left and idle:
                member = idle.pop()
                flying[getattr(member, method).remote(*left.popleft())] = member
            while idle:
                idle.pop().__ray_terminate__.options(max_task_retries=0).remote()
            ready, _ = self._get_next(list(flying))
            idle.append(flying.pop(ready))
            done += 1
            yield done

    def _get_next(self, flying: list[ray.ObjectRef]) -> tuple[ray.ObjectRef, Any]:
        """Wait for one of these."""
        while not (ready := ray.wait(flying, timeout=SECONDS)[0]):
            self.lookout.is_met()
        return ready[0], ray.get(ready[0])


@contextmanager
def actors(
    kind: Any, whose: str, given: tuple[Any, ...], cluster: ClusterConfig, count: int, progress: Progress
) -> Iterator[ActorPool]:
    """At most `count` actors, on all GPUs where there are any.

    Args:
        kind: their class.
        whose: what a message calls one of them.
        given: what its constructor is given, no handles: Ray cannot promise to restart an actor that was given one.
        cluster: what the config says of resources and failures.
        count: how many there is work for.
        progress: is told when none of them has a place any more.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold one.
        RunError: an actor died more often than `cluster.max_failures` allows.
    """
    share = runtime.share_resources(cluster, count)
    options = {
        "num_cpus": share["CPU"],
        "num_gpus": share.get("GPU", 0),
        "max_restarts": cluster.max_failures,
        "max_task_retries": cluster.max_failures,
    }
    size = max(1, min(count, runtime.how_many_fit(share)))
    members = [kind.options(**options).remote(*given) for _ in range(size)]
    try:
        yield ActorPool(members, one_share(cluster, share, progress))
    except ray.exceptions.RayActorError as error:
        raise RunError(f"{whose} died {cluster.max_failures + 1} times: {error}") from error
    finally:
        for member in members:
            ray.kill(member)
