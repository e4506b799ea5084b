"""What it takes to take over a set that is there: its bytes, and no work."""

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.plan.sizes import SAVE_FACTOR, data_bytes, num_synthetic, set_bytes, synthetic_bytes
from raydd.plan.step import Step


def distill(config: RunConfig, facts: DataFacts) -> Step:
    """The set of one stage, written as its start, as its result and as the run's."""
    held = set_bytes(config, facts)
    return Step(
        work="distill",
        makes=f"imported set ({num_synthetic(config, facts)} images)",
        units=0,
        flops=0,
        disk_bytes=3 * synthetic_bytes(config, facts),
        working_disk_bytes=0,
        peak_tensor_bytes=0,
        peak_memory_bytes=data_bytes(config, facts) + SAVE_FACTOR * held,
    )
