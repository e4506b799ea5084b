"""Who does the work: Ray, or this process alone. Ray is imported where it is used."""

from collections.abc import Iterator
from contextlib import contextmanager

from raydd.pipeline.executor import Executor
from raydd.pipeline.local import LocalExecutor


@contextmanager
def executor(ray: bool) -> Iterator[Executor]:
    """One or the other, for as long as it is needed."""
    if not ray:
        yield LocalExecutor()
        return
    from raydd.cluster.executor import RayExecutor

    with RayExecutor() as on_ray:
        yield on_ray
