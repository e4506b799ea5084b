"""`raydd bench experts`: one epoch of expert training against the loop of the papers' code."""

from dataclasses import dataclass

from raydd.bench.training import TrainingBench
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ExpertsBench:
    """What is measured: the ConvNet, hard labels, DSA and SGD without momentum on both sides."""

    width: int = 32
    depth: int = 3
    batch_size: int = 256
    steps: int = 4
    """In the epoch that is timed."""
    gsam: bool = False
    """Whether steps are GSAM's (rho 0.01, alpha 0.3) instead of SGD's."""
    compile: bool = True
    pack: int = 1
    """Experts that the product trains at once."""
    threads: int = 1
    pairs: int = 7
    """Timed pairs; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure; see `TrainingBench.run`."""
        rho, alpha = (0.01, 0.3) if self.gsam else (0.0, 0.0)
        return TrainingBench(
            network=NetworkConfig(width=self.width, depth=self.depth),
            recipe=Recipe(batch_size=self.batch_size, gsam_rho=rho, gsam_alpha=alpha),
            num_images=self.steps * self.batch_size,
            soft_labels=False,
            compiled=self.compile,
            pack=self.pack,
            threads=self.threads,
            pairs=self.pairs,
        ).run()
