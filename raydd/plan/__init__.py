"""What a run takes, ahead of it: FLOPs, disk, memory, and the schedule on more and more GPUs."""

from raydd.data import DataFacts
from raydd.plan.plan import make_plan
from raydd.plan.sizes import data_bytes, synthetic_bytes, trajectory_bytes
from raydd.plan.stages import distill_stage
from raydd.plan.step import Plan, Step
from raydd.plan.trajectories import checkpoint_bytes

__all__ = [
    "DataFacts",
    "Plan",
    "Step",
    "checkpoint_bytes",
    "data_bytes",
    "distill_stage",
    "make_plan",
    "synthetic_bytes",
    "trajectory_bytes",
]
