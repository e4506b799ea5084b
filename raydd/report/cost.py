"""What a run took: the time of each step, as its log of events tells, and the work in it, as its plan says."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raydd.ingredients.planned import WORKS

_NUMBERED: Final = re.compile(r"step \d+ of \d+: (?P<name>.+)")
_LEAST_SECONDS: Final = 0.5
_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class StepCost:
    """What one step took."""

    name: str
    seconds: float
    """All attempts together."""
    flops: int | None
    """As planned; None where that is not known."""


@dataclass(frozen=True)
class RunCost:
    """What all steps took."""

    steps: list[StepCost]

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(step.seconds for step in self.steps)

    @property
    def flops(self) -> int | None:
        """Those of all steps of which they are known; None where they are of none."""
        known = [step.flops for step in self.steps if step.flops is not None]
        return sum(known) if known else None


def run_cost(events: bytes, flops: Mapping[str, int]) -> RunCost | None:
    """Add up what steps took, in the order in which they were first made; None where no step took long enough to tell.

    Args:
        events: the log, JSON lines; what cannot be read is passed over.
        flops: of each work of the plan; may be empty.
    """
    taken: dict[str, float] = {}
    for event in _events(events.splitlines()):
        found = _NUMBERED.fullmatch(str(event.get("task", "")))
        if event.get("event") == "making_ended" and found and isinstance(event.get("seconds"), int | float):
            name = found["name"].partition(" of ")[0]
            taken[name] = taken.get(name, 0.0) + event["seconds"]
    long = {name: seconds for name, seconds in taken.items() if seconds >= _LEAST_SECONDS and name != "report"}
    steps = [StepCost(name, seconds, flops.get(WORKS.get(name, "")) or None) for name, seconds in long.items()]
    return RunCost(steps) if steps else None


def flops_in_words(count: int | None) -> str:
    """Floating-point operations with a prefix, to three digits, such as "162 GFLOP"."""
    if count is None:
        return "–"
    power = min(max(len(str(count)) - 1, 0) // 3, len(_PREFIXES) - 1)
    return f"{count / 1000**power:.3g} {_PREFIXES[power]}FLOP"


def _events(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event
