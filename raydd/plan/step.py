"""What a plan says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from raydd.data import DataFacts
from raydd.data.placement import Residence


@dataclass(frozen=True, kw_only=True)
class Step:
    """One kind of work."""

    work: str
    """data; experts, or teacher and rank; forgetting; transition; distill; relabel; evaluate; total."""
    makes: str
    units: int
    """How many of what it makes: images, trajectories, networks, outer iterations or class groups, epochs of labels,
    students."""
    optimizer_steps: int = 0
    """Of all networks that are trained to be kept or tested: experts, teacher, transitions, students."""
    flops: int
    """Of all units, skipping and failing nothing."""
    disk_bytes: int
    """Of what stays."""
    working_disk_bytes: int
    """Of what is there meanwhile: prepared data; the epochs of one pack of experts; trajectories of later stages;
    networks of a pool, and students between two stages; checkpoints."""
    peak_tensor_bytes: int
    """Most bytes of tensors alive at once where the network is: what a GPU needs besides its context and workspaces."""
    peak_memory_bytes: int
    """Most memory of one process on a CPU, above what it takes once everything is imported; see `make_plan`."""
    seconds: float | None = None
    """In one process, where a rate was given."""
    left_out: str | None = None
    """What is not counted for want of knowledge, in words; None where everything is."""


def together(steps: Sequence[Step], makes: str) -> Step:
    """Work of one kind, done one after the other, as one step: disk that is needed meanwhile is that of the largest."""
    return replace(
        steps[0],
        makes=makes,
        units=sum(step.units for step in steps),
        optimizer_steps=sum(step.optimizer_steps for step in steps),
        flops=sum(step.flops for step in steps),
        disk_bytes=sum(step.disk_bytes for step in steps),
        working_disk_bytes=max(step.working_disk_bytes for step in steps),
        peak_tensor_bytes=max(step.peak_tensor_bytes for step in steps),
        peak_memory_bytes=max(step.peak_memory_bytes for step in steps),
        left_out="; ".join(dict.fromkeys(step.left_out for step in steps if step.left_out)) or None,
    )


@dataclass(frozen=True)
class Plan:
    """All work of a run, in order."""

    steps: tuple[Step, ...]
    facts: DataFacts
    """Of the dataset."""
    residence: Residence
    """Where the pixels are."""

    @property
    def total(self) -> Step:
        """Steps, FLOPs, disk and seconds added up; the largest of the memory peaks."""
        seconds = [step.seconds for step in self.steps if step.seconds is not None]
        return replace(
            together(self.steps, "the run"),
            work="total",
            units=1,
            working_disk_bytes=sum(step.working_disk_bytes for step in self.steps),
            seconds=sum(seconds) if seconds else None,
        )

    def at(self, flops_per_second: float) -> "Plan":
        """The same plan with the seconds that all its steps take at one rate."""
        return replace(self, steps=tuple(replace(step, seconds=step.flops / flops_per_second) for step in self.steps))

    def rows(self) -> list[dict[str, str | int | float]]:
        """Plain data, one row a kind of work and one for the total; `seconds` only where known."""
        rows = (asdict(step) for step in (*self.steps, self.total))
        return [{name: value for name, value in row.items() if value is not None} for row in rows]
