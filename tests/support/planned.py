"""What tests of the plan share: small data, and what work takes when it is really done."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydd.config import RunConfig
from raydd.data.images import Resident
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Identity, Preprocessing
from raydd.plan import DataFacts, Step, make_plan

K = 5
Work = Callable[..., tuple[RunConfig, DataFacts]]


class WholeOnly(nullcontext):
    """Stands in for the counter's module tracker, whose hooks do not work under `autograd.grad`."""

    parents = frozenset({"Global"})


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = WholeOnly()
    with counter:
        yield counter


def random_data(num_train: int = 50, num_test: int = 20, side: int = 16, preprocessing: Preprocessing | None = None):
    def images(count: int) -> LabelledImages:
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        return LabelledImages(Resident.of(pixels, seen), torch.arange(count) % K)

    seen, names = preprocessing or Identity(), tuple(f"class {k}" for k in range(K))
    return PreparedData("random", names, "f" * 64, seen, images(num_train), images(num_test))


def facts_of(data: PreparedData) -> DataFacts:
    return DataFacts(len(data.train), len(data.test), data.shape, data.num_classes)


def step(config: RunConfig, facts: DataFacts, work: str) -> Step:
    return next(step for step in make_plan(config, facts).steps if step.work == work)


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured_peak(
    work: Work, tiny: tuple[int, ...], size: tuple[int, ...], root: str
) -> tuple[RunConfig, DataFacts, int]:
    """Run in a fresh process: what the work takes at its peak above what a tiny one left behind."""
    torch.set_num_threads(1)
    work(*tiny, f"{root}/tiny")
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    config, facts = work(*size, f"{root}/real")
    return config, facts, memory("VmHWM") - before


@contextmanager
def fresh_processes() -> Iterator[ProcessPoolExecutor]:
    """A pool of one process, a new one for each task, with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["raydd.plan", "raydd.ingredients.experts", "raydd.methods.outer_loop", "torch.utils.flop_counter", "pytest"]
    )
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        yield pool
