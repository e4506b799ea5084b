"""Measuring this machine on what the candidates will do."""

import time
from collections.abc import Sequence

from raydd.core.progress import Progress, Work
from raydd.data import DataFacts
from raydd.pipeline.auto.budget import Speed
from raydd.pipeline.auto.portfolio import Candidate
from raydd.plan.jobs import works_of
from raydd.plan.machine import clock_of, device_here, processes_here
from raydd.plan.measurement import measure

_PROCESS_SECONDS = 7.0
"""Until a new process has imported what it works with."""
_CLUSTER_SECONDS = 8.0
"""Until Ray is there."""
_RUN_SECONDS = 2.5
"""Of every run: its page, its files, its first steps."""


def measured(
    tried: Sequence[Candidate], facts: DataFacts, on_ray: bool, reading_seconds: float, progress: Progress
) -> Speed:
    """The speed of this machine.

    Processors are timed by the process's own clock, and what others take of them is counted for all work alike: that
    varies least from one measurement to the next.

    Args:
        tried: the candidates, their networks sized.
        facts: of the data.
        on_ray: whether they will be tried on Ray, side by side.
        reading_seconds: what it takes to decode all images.
        progress: is told how it goes.
    """
    device = device_here()
    is_gpu, clock = device.type == "cuda", clock_of(device, threads=1)
    wall, own, rates = time.perf_counter(), time.process_time(), {}
    for number, one in enumerate(tried, start=1):
        rates[one.name] = measure(one.config, facts, works_of(one.config, facts), device, clock)
        progress.update(Work("measure", "this machine"), number, len(tried), one.name)
    got = (time.process_time() - own) / (time.perf_counter() - wall)
    availability = 1.0 if is_gpu else min(1.0, max(0.05, got))
    beside = (_PROCESS_SECONDS / availability) if on_ray else 0.0
    return Speed(
        rates=rates,
        availability=availability,
        processes=processes_here(on_ray),
        start_seconds=2 * reading_seconds + (_CLUSTER_SECONDS / availability if on_ray else 0.0),
        round_seconds=beside,
        run_seconds=_RUN_SECONDS / availability,
    )
