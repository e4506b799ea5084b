"""`raydd bench students`: epochs of a student's training against the loop of the papers' code."""

from dataclasses import dataclass

from raydd.bench.training import TrainingBench
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class StudentsBench:
    """What is measured: the ConvNet, soft labels, DSA and DATM's SGD with momentum and decay on both sides."""

    width: int = 32
    depth: int = 3
    images: int = 1000
    """In the distilled set; one epoch is timed."""
    batch_size: int = 256
    compile: bool = True
    threads: int = 1
    pairs: int = 7
    """Timed pairs; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure; see `TrainingBench.run`."""
        return TrainingBench(
            network=NetworkConfig(width=self.width, depth=self.depth),
            recipe=Recipe(batch_size=self.batch_size, momentum=0.9, weight_decay=5e-4),
            num_images=self.images,
            soft_labels=True,
            compiled=self.compile,
            pack=1,
            threads=self.threads,
            pairs=self.pairs,
        ).run()
