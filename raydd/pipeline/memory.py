"""Work that this machine has by far too little memory for is refused before it begins."""

from typing import Final

import torch

from raydd.core import process
from raydd.core.errors import ResourceError
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.runs.size import counted
from raydd.plan import make_plan
from raydd.plan.machine import device_here

_CERTAIN: Final = 2
"""A plan is high by less than this factor."""


def require(run: RunInputs) -> None:
    """See that no step of a run that one machine works on takes more memory than it has.

    Raises:
        ResourceError: naming the step, and what it takes.
    """
    most = max(map(process.memory_bytes, (torch.device("cpu"), device_here())))
    for step in make_plan(run.config, counted(run.data)).steps:
        if step.peak_memory_bytes > _CERTAIN * most:
            raise ResourceError(
                f"{step.makes}: takes about {step.peak_memory_bytes / 1e9:,.0f} GB of memory, and this machine has "
                f"{most / 1e9:,.0f} GB: lower method.images_per_class, a batch size, network.width or data.image_size"
            )
