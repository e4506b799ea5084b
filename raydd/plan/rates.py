"""How fast work goes on one GPU, or in one process: FLOP/s by kind, as they were measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raydd.evaluation.students.trials import Trial

LegKind = tuple[str, ...]
"""What students are told apart by whose FLOPs take different times; see `leg_kind`."""

ALIKE = {
    "transition": "evaluate",
    "select": "evaluate",
    "forgetting": "experts",
    "rank": "teacher",
    "relabel": "teacher",
}
"""Kinds of work that are taken to go as fast as another where they were not measured: the same networks are at work."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s, and where they come from."""

    flops_per_second: Mapping[str, float]
    """By `Step.work`."""
    sources: Mapping[str, str]
    """By the same, in words."""
    students: Mapping[LegKind, float] = field(default_factory=dict)
    """Of trainings of students, where they differ from those of `evaluate`."""

    @classmethod
    def equal(cls, works: list[str], flops_per_second: float) -> "Rates":
        """The same rate for all kinds of work."""
        return cls(
            flops_per_second=dict.fromkeys(works, flops_per_second), sources=dict.fromkeys(works, "the rate given")
        )

    def missing(self, works: list[str]) -> list[str]:
        """Those kinds of which nothing is known, not even of others that are alike."""
        return [work for work in works if self._known(work) is None]

    def joined(self, others: "Rates") -> "Rates":
        """These rates, and others where these say nothing."""
        return replace(
            self,
            flops_per_second={**others.flops_per_second, **self.flops_per_second},
            sources={**others.sources, **self.sources},
        )

    def seconds(self, work: str, flops: float, leg: Trial | None = None) -> float:
        """What work of a kind takes; of a student's training, such as `leg`."""
        if not flops:
            return 0.0
        if leg is not None and (rate := self.students.get(leg_kind(leg))) is not None:
            return flops / rate
        known = self._known(work)
        assert known is not None, work
        return flops / self.flops_per_second[known]

    def source(self, work: str) -> str:
        """Where the rate of a kind comes from."""
        known = self._known(work)
        return "" if known is None else self.sources[known]

    def _known(self, work: str) -> str | None:
        return next((name for name in (work, ALIKE.get(work, work)) if name in self.flops_per_second), None)


def leg_kind(leg: Trial) -> LegKind:
    """The subject, the labels, the way and the stage, the network and the augmentation of a training of a student."""
    way = (leg.mode, leg.budget, str(leg.stage))
    return (leg.subject, leg.labels, *way, leg.network.label, leg.recipe.augmentation)
