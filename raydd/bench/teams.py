"""Processes that do the same work in rounds, one alone or several at a time, and are timed in their steady loop."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch.distributed as dist

from raydd.core import process

WAIT = timedelta(minutes=10)


class Rounds(Protocol):
    """Work of which any number of units can be done."""

    def do(self, units: int) -> float:
        """Do so many; returns the seconds that they took, without what comes before the first and after the last."""


Make = Callable[..., Rounds]
"""A function or class of a module that sets the work up, from what it is given and its number in its team."""


@dataclass(frozen=True)
class Done:
    """What a process did in a round."""

    units: int
    seconds: float
    """Of the units."""
    round_seconds: float
    """Of those and what comes before and after."""
    summing_seconds: float
    """Of these, in all-reduces: for the sums, and for whoever comes later."""

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds


class Team:
    """Processes that begin every round together."""

    def __init__(self, members: Sequence[Connection]) -> None:
        """Speak to these processes."""
        self._members = members

    def do(self, units: int) -> list[Done]:
        """Have every process do so many units."""
        for member in self._members:
            member.send(units)
        return [_received(member) for member in self._members]


@contextmanager
def team(size: int, joined: bool, make: Make, given: tuple[object, ...], threads: int) -> Iterator[Team]:
    """Start processes and set their work up; they end with the block.

    Args:
        size: how many.
        joined: whether they are one group of `torch.distributed` (gloo).
        make: sets the work up.
        given: its first arguments; picklable.
        threads: CPU threads of each.
    """
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        place = f"file://{Path(folder) / 'rendezvous'}" if joined else None
        pipes = [context.Pipe() for _ in range(size)]
        members = [
            context.Process(target=_serve, args=(there, rank, size, place, make, given, threads), daemon=True)
            for rank, (_, there) in enumerate(pipes)
        ]
        for member, (_, there) in zip(members, pipes, strict=True):
            member.start()
            there.close()
        here = [here for here, _ in pipes]
        try:
            for end in here:
                _received(end)
            yield Team(here)
        finally:
            for end in here:
                end.close()
            for member in members:
                member.join()


def _received(member: Connection) -> Any:
    """What a process has to say; its error, if that is one."""
    said = member.recv()
    if isinstance(said, Exception):
        raise said
    return said


def _serve(
    parent: Connection, rank: int, size: int, place: str | None, make: Make, given: tuple[object, ...], threads: int
) -> None:
    """Do rounds until nobody asks for them any more."""
    process.set_up(threads)
    with nullcontext() if place is None else _group(rank, size, place):
        try:
            work = make(*given, rank)
            with _summing() as summing:
                parent.send(None)
                while True:
                    units, before = parent.recv(), summing[0]
                    began = time.perf_counter()
                    seconds = work.do(units)
                    parent.send(Done(units, seconds, time.perf_counter() - began, summing[0] - before))
        except EOFError:
            return
        except Exception as error:
            parent.send(error)


@contextmanager
def _group(rank: int, size: int, place: str) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=size, timeout=WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _summing() -> Iterator[list[float]]:
    """Counts the seconds that are spent in `torch.distributed.all_reduce` in the block."""
    counted, original = [0.0], dist.all_reduce

    def all_reduce(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = original(*arguments, **options)
        counted[0] += time.perf_counter() - began
        return result

    dist.all_reduce = all_reduce
    try:
        yield counted
    finally:
        dist.all_reduce = original
