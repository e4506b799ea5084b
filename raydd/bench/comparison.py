"""Two ways of doing the same work, measured against each other in everything that every bench reports."""

import importlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydd.bench import timing
from raydd.bench.ceilings import measure_ceilings


class PairedWork(Protocol):
    """The same work twice."""

    def ours(self) -> object:
        """By the product."""

    def plain(self) -> object:
        """As the papers' code writes it."""


def here() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compare(
    make: Callable[..., PairedWork], bench: object, *, compiled: bool, threads: int, pairs: int
) -> dict[str, float]:
    """Measure both ways of a problem.

    Args:
        make: a module's function or class, which sets the problem up from `bench`.
        bench: says what is measured; picklable.
        compiled: whether the product's way compiles when it is first gone.
        threads: CPU threads of the processes whose memory is measured.
        pairs: timed pairs.

    Returns:
        Seconds of both (medians), the median of the ratios pair by pair and its extremes; the peak memory of each in a
        process of its own; what compiling took, as part of neither side's time; FLOP/s of the plain side's work and
        their share of a matrix product's.
    """
    problem = make(bench)
    with FlopCounterMode(display=False) as counter:
        problem.plain()
    first = timing.without_cache(problem.ours) if compiled else timing.seconds(problem.ours)
    timed = timing.paired(problem.ours, problem.plain, pairs)
    memory = {side: timing.peak_bytes(threads, prepare, make, bench, side, compiled) for side in ("ours", "plain")}
    ceilings, flops = measure_ceilings(here()), counter.get_total_flops()
    return {
        **timed,
        "peak_bytes": memory["ours"],
        "plain_peak_bytes": memory["plain"],
        "memory_ratio": memory["ours"] / memory["plain"],
        "compile_seconds": max(0.0, first - timed["seconds"]) if compiled else 0.0,
        "flops": flops,
        "flops_per_second": flops / timed["seconds"],
        "plain_flops_per_second": flops / timed["plain_seconds"],
        "matmul_flops_per_second": ceilings.flops_per_second,
        "share_of_matmul": flops / timed["seconds"] / ceilings.flops_per_second,
        "copy_bytes_per_second": ceilings.bytes_per_second,
    }


def prepare(make: Callable[..., PairedWork], bench: object, side: str, compiled: bool) -> timing.TimedWork:
    """One side's work, with all imported that it takes."""
    if compiled and side == "ours":
        importlib.import_module("torch._inductor.compile_fx")
    work: timing.TimedWork = getattr(make(bench), side)
    return work
