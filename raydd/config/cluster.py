"""What a run's config says of where the work runs. It is read without Ray, too."""

import math
from dataclasses import dataclass
from typing import Literal

from raydd.core.errors import ConfigError
from raydd.core.switch import Switch

Tracker = Literal["tensorboard", "mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the work runs. Nothing here determines an artefact."""

    num_workers: int | Literal["auto"] = "auto"
    """Workers that share one synthetic batch; auto is one per visible GPU, one on CPU."""
    min_workers: int | None = None
    """Where set, the work goes on with this many workers at least when nodes die, and with up to num_workers again when
    they come back (elastic Ray Train): then results agree to rounding. Without, it waits for num_workers."""
    threads_per_worker: int = 1
    """CPU threads of every actor, worker and trial, and of the run without Ray."""
    experts_per_gpu: int = 4
    """Expert actors and students that share one GPU."""
    pack: int | Literal["auto"] = "auto"
    """Experts that one actor trains side by side as one stacked network. auto is 1 on a CPU; on a GPU it measures some
    steps of 1, 2, 4 and 8 and takes the fastest. Results agree to rounding."""
    compile: Switch = "auto"
    """auto, on or off: whether the steps of training and of trajectory matching are compiled, which takes about 30 s
    each; auto does where ten times that is saved. Results agree to rounding."""
    kept_steps: int = 0
    """Compiled inner steps of trajectory matching that keep what takes convolutions to compute for the way back: each
    saves a sixth of its time. Results agree to rounding."""
    rows_at_once: int | Literal["auto"] = "auto"
    """Synthetic images of an inner step that a worker computes together; auto is as many as the plan sees fit into half
    of the memory. Results agree to rounding."""
    groups_at_once: int = 1
    """Class groups of the decoupled family that a worker recovers side by side, in one forward pass. Results agree to
    rounding."""
    checkpoint_seconds: float = 60.0
    """Seconds of distilling from one checkpoint to the next; more where saving would take over 2 % of the time."""
    max_failures: int = 3
    """How often lost workers are replaced before the run stops."""
    wait_seconds: int = 600
    """How long to wait for resources that an autoscaling cluster may still add."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Who draws curves of what is measured: tensorboard in `<out>/tensorboard`; mlflow and wandb of the students and of
    the points of a sweep, through Ray Tune."""

    def __post_init__(self) -> None:
        """Refuse counts below one, and more workers at least than at most."""
        counts = (
            "num_workers",
            "min_workers",
            "threads_per_worker",
            "experts_per_gpu",
            "pack",
            "rows_at_once",
            "groups_at_once",
        )
        for name in counts:
            value = getattr(self, name)
            if value not in ("auto", None) and value < 1:
                raise ConfigError(f"cluster.{name}", f"must be at least 1, is {value}")
        if not 0 <= self.checkpoint_seconds < math.inf:
            problem = f"must be a number of seconds from 0 on, is {self.checkpoint_seconds}"
            raise ConfigError("cluster.checkpoint_seconds", problem)
        if self.min_workers is not None and self.num_workers != "auto" and self.min_workers > self.num_workers:
            problem = f"must be at most cluster.num_workers ({self.num_workers}), is {self.min_workers}"
            raise ConfigError("cluster.min_workers", problem)
