"""Whether real images stay in memory, or are decoded from their files whenever they are needed."""

from dataclasses import dataclass

import torch

from raydd.core import process
from raydd.data.config import DataConfig
from raydd.data.facts import DataFacts
from raydd.data.loading import has_files


@dataclass(frozen=True)
class Residence:
    """What becomes of the pixels of a dataset: decided by its size and the machine's, so that all agree on it."""

    streamed: bool
    """Whether they are decoded whenever they are needed."""
    pixel_bytes: int
    """What the images of all splits take in memory."""
    memory_bytes: int
    """What there is: of this machine, or of its GPU where that has less."""

    @classmethod
    def of(cls, config: DataConfig, facts: DataFacts, memory_bytes: int | None = None) -> "Residence":
        """Stream where the config says so; where it leaves it open, if the pixels would take more than half.

        Args:
            config: the dataset.
            facts: its size.
            memory_bytes: what there is; of the machine where it is not given.
        """
        there, pixels = memory_bytes or available_bytes(), pixel_bytes(config, facts)
        wanted = config.streaming == "auto" and has_files(config.source) and pixels > there // 2
        return cls(wanted or config.streaming == "on", pixels, there)


def pixel_bytes(config: DataConfig, facts: DataFacts) -> int:
    """Images in memory: a byte a value; whitened ones are float32."""
    return facts.num_images * facts.values * (4 if config.preprocess == "zca" else 1)


def available_bytes() -> int:
    """The memory in which resident pixels have to find room."""
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    return min(process.memory_bytes(torch.device(device)) for device in devices)
