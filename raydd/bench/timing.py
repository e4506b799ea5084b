"""What benches share: two ways of doing the same work, timed in turn, and each one's memory in its own process."""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from statistics import median
from typing import Protocol

from raydd.core import process

TimedWork = Callable[[], object]


class Bench(Protocol):
    """What `raydd bench` can run."""

    def run(self) -> dict[str, float]:
        """Measure; returns numbers by name."""


def seconds(work: TimedWork) -> float:
    """How long it takes once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def without_cache(work: TimedWork) -> float:
    """Seconds of some work that compiles, where no earlier process has left what it compiled."""
    with importlib.import_module("torch._inductor.utils").fresh_cache():
        return seconds(work)


def paired(ours: TimedWork, plain: TimedWork, pairs: int) -> dict[str, float]:
    """Time both in turn, so that whatever else the machine does meets both.

    Returns:
        The medians of both, and the median and extremes of the ratios pair by pair.
    """
    timed = [(seconds(ours), seconds(plain)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in timed)
    return {
        "seconds": median(a for a, _ in timed),
        "plain_seconds": median(b for _, b in timed),
        "time_ratio": median(ratios),
        "time_ratio_min": ratios[0],
        "time_ratio_max": ratios[-1],
    }


def peak_bytes(threads: int, prepare: Callable[..., TimedWork], *arguments: object) -> int:
    """Most memory of some work in a process of its own, above what that takes once everything is set up.

    Args:
        threads: CPU threads of that process.
        prepare: a function of a module, which sets up the work and returns it.
        arguments: of `prepare`; they are pickled.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (threads, prepare, arguments))


def _peak_of(threads: int, prepare: Callable[..., TimedWork], arguments: tuple[object, ...]) -> int:
    process.set_up(threads)
    work = prepare(*arguments)
    before = process.peak_memory_bytes()
    work()
    return process.peak_memory_bytes() - before
