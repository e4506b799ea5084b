"""What a run takes, ahead of it: FLOPs, disk, memory, and the schedule on more and more GPUs."""

from raydd.data import DataFacts
from raydd.plan.distill import distill_stage
from raydd.plan.plan import make_plan
from raydd.plan.sizes import trajectory_bytes
from raydd.plan.step import Plan, Step

__all__ = ["DataFacts", "Plan", "Step", "distill_stage", "make_plan", "trajectory_bytes"]
