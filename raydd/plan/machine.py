"""This machine: on what it works, how many processes work side by side, and how fast they are.

What is measured is remembered in the user's cache folder, for this machine and these versions: see `SpeedMemory`.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.data import DataFacts
from raydd.plan.jobs import EXCHANGE, Link, jobs_of, works_of
from raydd.plan.measurement import measure
from raydd.plan.rates import Rates
from raydd.plan.simulation import simulate
from raydd.storage import Folder, content_key
from raydd.storage.cache import cache_folder


def device_here() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock_of(device: torch.device, threads: int) -> Callable[[], float]:
    """Seconds; of one thread on a processor its own, so that what others take of it does not count."""
    return time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter


def processes_here(on_ray: bool, threads: int = 1) -> int:
    """How many work side by side, of so many threads each: one a GPU, or as many as processors hold."""
    if not on_ray:
        return 1
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cpus // threads)


def speed_here(config: RunConfig, facts: DataFacts) -> Rates:
    """The FLOP/s of one process of this machine at all that a run is made of: what is not remembered takes seconds.

    Args:
        config: the run, its networks sized.
        facts: the dataset's size.
    """
    device, threads = device_here(), config.cluster.threads_per_worker
    memory = SpeedMemory(device, threads)
    known = memory.read()
    before = dict(known)
    rates = measure(config, facts, works_of(config, facts), device, clock_of(device, threads), known)
    if known != before:
        memory.write(known)
    return rates


def speed_remembered(config: RunConfig, facts: DataFacts) -> Rates | None:
    """`speed_here`, as far as all of it was measured before; None where some was not. Takes no time."""
    device, threads = device_here(), config.cluster.threads_per_worker
    known = SpeedMemory(device, threads).read()
    with suppress(LookupError):
        return measure(config, facts, works_of(config, facts), device, known=known, only_known=True)
    return None


def seconds_here(config: RunConfig, facts: DataFacts, rates: Rates, processes: int) -> dict[str, float]:
    """What each part of a run adds to its time, with so many processes side by side: the critical path, in its order.

    Left out are the start of Ray, the preparation of the data, reading and writing.
    """
    if not torch.cuda.is_available():  # each process has a processor of its own; auto is one worker
        workers = 1 if config.cluster.num_workers == "auto" else config.cluster.num_workers
        config = replace(config, cluster=replace(config.cluster, num_workers=workers, experts_per_gpu=1))
    path = simulate(jobs_of(config, facts, rates, processes, Link()), processes).path()
    seconds: dict[str, float] = {}
    for part, spent in path.items():
        work = part.removesuffix(EXCHANGE)
        seconds[work] = seconds.get(work, 0.0) + spent
    return seconds


class SpeedMemory:
    """Speeds by what was timed, in a file for each machine, its GPU or processor, its threads, and the versions."""

    def __init__(self, device: torch.device, threads: int) -> None:
        """Of this machine."""
        self._machine = {
            "host": platform.node(),
            "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "cpus": os.cpu_count(),
            "threads": threads,
            "python": sys.version.split()[0],
            **{name: importlib.metadata.version(name) for name in ("raydd", "torch")},
        }
        self._folder = Folder.at(cache_folder().with_name("speed"))
        self._file = f"{content_key(self._machine)}.json"

    def read(self) -> dict[str, float]:
        """What is remembered; nothing where the file is not there, or not as it was written."""
        with suppress(UserError, ValueError, KeyError, TypeError, AttributeError):
            if self._folder.has(self._file):
                found = json.loads(self._folder.read(self._file))["flops_per_second"].items()
                return {str(key): float(rate) for key, rate in found if float(rate) > 0}
        return {}

    def write(self, rates: dict[str, float]) -> None:
        """Remember these; where the folder may not be written, they are measured again another time."""
        content = {"machine": self._machine, "flops_per_second": rates}
        with suppress(UserError):
            self._folder.write(self._file, json.dumps(content, indent=1).encode())


def _processor() -> str:
    """Its model, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
