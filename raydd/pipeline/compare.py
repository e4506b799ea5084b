"""Several configurations with several seeds: which runs these are, how far they are, and one after the other.

Each configuration and seed is a run of its own in a folder of its own, below that of the configuration, so that one
that fails or is interrupted leaves the others as they are.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from raydd.config import RunConfig
from raydd.core.errors import RunError, UserError
from raydd.evaluation import records
from raydd.evaluation.record import SCHEMA
from raydd.pipeline.runs.run import CONFIG, REPORT, Run
from raydd.pipeline.work import probes as asked
from raydd.storage import Folder

SeededConfig = tuple[str, int]
"""The name of a configuration, and a seed."""
RunState = Literal["not run", "unfinished", "finished", "failed"]


_nothing = SCHEMA.empty_table


@dataclass(frozen=True)
class RunOutcome:
    """How far a run is."""

    state: RunState
    records: pa.Table = field(default_factory=_nothing)
    """Of the students that the configuration names, where all of them were trained; else empty."""
    probes: pa.Table = field(default_factory=_nothing)
    """What was found by the probes that the configuration names, where all were answered; else empty."""
    error: str = ""
    """What made it fail."""
    traceback: str = ""
    """Where that was, if it is neither a user's mistake nor work that broke off."""


def cells(configs: Mapping[str, RunConfig], seeds: Sequence[int]) -> dict[SeededConfig, RunConfig]:
    """The runs in the order in which they are made: every configuration with the first seed, then with the second.

    Raises:
        UserError: two configurations would write into the same folder.
    """
    owners: dict[str, str] = {}
    for name, config in configs.items():
        uri = Folder.at(config.out).uri
        if uri in owners:
            raise UserError(f"{owners[uri]} and {name} both write into {config.out}: give each an `out` of its own")
        owners[uri] = name
    return {(name, seed): _with_seed(config, seed) for seed in seeds for name, config in configs.items()}


def look(config: RunConfig) -> RunOutcome:
    """How far a run is, as its folder says; nothing is written."""
    run = Run.of(config)
    try:
        if not run.results.files():
            return RunOutcome("unfinished" if run.folder.has(CONFIG) else "not run")
        students, probes = _records(run), asked.answers(run)
        counts = len(_wanted(run)), len(asked.questions(run))
        if not run.folder.has(REPORT) or (len(students), len(probes)) != counts:
            return RunOutcome("unfinished")
        is_done = all(status == "ok" for table in (students, probes) for status in table["status"].to_pylist())
        return RunOutcome("finished" if is_done else "unfinished", students, probes)
    except UserError as error:
        return RunOutcome("failed", error=str(error))


def make(
    runs: Mapping[SeededConfig, RunConfig],
    outcomes: dict[SeededConfig, RunOutcome],
    execute: Callable[[RunConfig], object],
    hours: float | None = None,
) -> Iterator[SeededConfig]:
    """Make the runs that are not finished, one after the other; one that fails does not keep the next from being made.

    Args:
        runs: all of them, in order.
        outcomes: how far each is; kept up to date.
        execute: makes one.
        hours: begin none after so many hours.

    Yields:
        Each run that was begun, when it is finished or has failed.
    """
    began = time.monotonic()
    for place, config in runs.items():
        if outcomes[place].state == "finished":
            continue
        if hours is not None and time.monotonic() - began >= 3600 * hours:
            return
        outcomes[place] = RunOutcome("unfinished")
        outcomes[place] = _attempt(config, execute)
        yield place


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    return replace(config, seed=seed, out=(Folder.at(config.out) / f"seed-{seed}").uri)


def _wanted(run: Run) -> list[str]:
    """The names of the records of all students that the configuration names, one after each stage."""
    return [run.record_id(leg) for trial in run.trials() for leg in trial.legs()]


def _records(run: Run) -> pa.Table:
    """Those of these records that are there."""
    table = records.read(run.results)
    return table.filter(pc.is_in(table["record_id"], pa.array(_wanted(run), pa.string())))


def _attempt(config: RunConfig, execute: Callable[[RunConfig], object]) -> RunOutcome:
    try:
        execute(config)
        run = Run.of(config)
        return RunOutcome("finished", _records(run), asked.answers(run))
    except (UserError, RunError) as error:
        return RunOutcome("failed", error=str(error))
    except Exception as error:  # the runs after it may do better
        return RunOutcome("failed", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
