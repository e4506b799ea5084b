"""What distilling a stage takes, as a method's configuration states it: plain values, which raydd/plan only adds up.

`BuildsMethod.cost` makes a `DistillCost` of a `CostSetting`. Sizes are bytes, work is FLOPs, both whole numbers. What
many methods need for it is in raydd/training/cost.py (networks, recipes) and raydd/sets/size.py (sets).

Letters: K classes, N real images.
"""

from dataclasses import dataclass
from typing import Final, Literal

from raydd.data import DataFacts
from raydd.networks.config import NetworkConfig
from raydd.training.cost import Exchange, WorkSample

METRICS_ROW_BYTES: Final = 240
"""Of one outer iteration, in the metrics file and again in the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class CostSetting:
    """What a stage is distilled in: all that its cost follows from, beside the fields of the method itself."""

    facts: DataFacts
    network: NetworkConfig
    teacher_network: NetworkConfig
    seed: int
    """Of the run."""
    data_bytes: int
    """Of the prepared data, which every process maps."""
    whitening_bytes: int
    """Of the maps of ZCA, which every stored set has; 0 without."""
    num_experts: int = 0
    """Trajectories that the stage may read."""
    earlier: int = 0
    """Images of each class that earlier stages made and that take part in this one."""
    learns_earlier: bool = False
    """Whether they are learned on; they are constants if not."""
    conditions: tuple[str, ...] = ()
    """`stages.teacher_conditions`."""
    num_asked: int = 0
    """Networks of a pool that are asked what they know before the stage begins."""
    workers: int = 1
    """That are sure to share a batch."""
    rows_at_once: int | None = None
    """Images of an inner step that are computed together, where that is limited."""
    kept_steps: int = 0
    """Compiled inner steps that keep what takes convolutions for the way back; 0 where nothing is compiled."""
    groups_at_once: int = 1
    """Class groups side by side in one process."""

    @property
    def learned(self) -> int:
        """Images of each class that earlier stages made and that are learned on."""
        return self.earlier if self.learns_earlier else 0

    @property
    def frozen(self) -> int:
        """Images of all classes that earlier stages made and that are constants."""
        return 0 if self.learns_earlier else self.earlier * self.facts.num_classes


@dataclass(frozen=True, kw_only=True)
class Portion:
    """FLOPs of one kind, and how they are divided among workers."""

    flops: int
    """Of all units."""
    divided: Literal["alone", "shared", "dealt"]
    """alone: by one process. shared: all workers do a part of each unit together. dealt: units by their number."""
    count: int = 1
    """What there is to divide: rows of a batch, or classes, of which a worker has a part (1: every worker does all of
    it); or units that are dealt."""
    at_once: int = 1
    """Units that are dealt together."""
    exchanges: tuple[Exchange, ...] = ()
    """What workers add up in each unit of shared work."""


@dataclass(frozen=True, kw_only=True)
class DistillCost:
    """What a stage takes, without what is made first and without the set of the whole run.

    A method that states nothing has `DistillCost(makes=..., planned=False)`: plans say so, and count none of its work.
    """

    makes: str
    """What units are, in words: "outer iterations of mtt"."""
    aside: str = ""
    """What the words say besides, behind the number of images."""
    planned: bool = True
    """Whether the rest is known."""
    units: int = 0
    """How many of what it makes: outer iterations or class groups; 0 where there is nothing to do."""
    portions: tuple[Portion, ...] = ()
    """The work, in order."""
    whole_pixels: bool = False
    """Whether the set's images are such, of which no tensors are stored."""
    disk_bytes: int = 0
    """Of what stays of the stage: where it started, its result, its metrics."""
    checkpoint_bytes: int = 0
    """Of the last checkpoint; there are two of them."""
    tensor_bytes: int = 0
    """Most bytes of tensors alive at once where the network is."""
    memory_bytes: int = 0
    """Most memory of one process on a CPU, the prepared data included; see `raydd.plan.make_plan`."""
    sample: WorkSample | None = None
    """By which its rate is measured; by default the teacher's prediction, or a training of the network."""

    @property
    def flops(self) -> int:
        """Of all portions."""
        return sum(portion.flops for portion in self.portions)
