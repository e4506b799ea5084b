"""What an ingredient takes, as whoever makes it states it: plain values, which raydd/plan only adds up."""

from dataclasses import dataclass

from raydd.training.cost import WorkSample


@dataclass(frozen=True, kw_only=True)
class IngredientCost:
    """The making of an ingredient. Sizes are bytes, work is FLOPs, both whole numbers."""

    makes: str
    """In words: "mean images of the classes"."""
    units: int
    """How many of what it makes."""
    flops: int
    """Of all units."""
    pieces: int = 1
    """What the work is dealt out in, over as many processes as there are; 1 for work of one process."""
    optimizer_steps: int = 0
    """Of networks that are trained for it."""
    disk_bytes: int
    """Of what stays."""
    working_disk_bytes: int = 0
    """Of what is there meanwhile."""
    tensor_bytes: int = 0
    """Most bytes of tensors alive at once where a network is."""
    memory_bytes: int = 0
    """Most memory of one process on a CPU, the prepared data included; see `raydd.plan.make_plan`."""
    sample: WorkSample | None = None
    """By which its rate is measured; by default the prediction of the teacher's network."""
