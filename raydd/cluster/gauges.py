"""What Prometheus finds at the metrics port of the driver's node: how fast work goes, and how much of Ray does it.

Ray puts `ray_` before every name, and forgets a gauge that is not set anew from one scrape to the next. Tags: `run`,
its name; `kind`, the sort of work (`expert`, `distil`, `student`).
"""

import logging
import threading
import time
from functools import cache
from typing import Any, Final

import ray
from ray.util.metrics import Counter, Gauge

from raydd.core.progress import STEP, Numbers, Work

SECONDS: Final = 5.0
"""From one measurement of rates, ages and the cluster to the next."""

_LOSSES = ("loss", "train_loss")
_log = logging.getLogger(__name__)


class Gauges:
    """Exports what a run's progress says. Begins with the first news, when Ray is connected."""

    def __init__(self, run: str) -> None:
        """Tag everything with the name of the run."""
        self._run = run
        self._lock = threading.Lock()
        self._done: dict[Work, float] = {}
        self._since: dict[str, float] = {}
        self._saved: dict[str, float | None] = {}
        self._losses: dict[str, float] = {}
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample_now_and_then, daemon=True)

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Count units, and take over losses and the moment of the last checkpoint."""
        kind, numbers = task.kind, numbers or {}
        if kind == STEP:
            return
        with self._lock:
            begins = done <= 1 or done >= total
            units = done - self._done.get(task, 0.0 if begins else done)
            self._done[task] = done
            self._since[kind] = self._since.get(kind, 0.0) + max(0.0, units)
            self._losses |= [(kind, float(numbers[loss])) for loss in _LOSSES if loss in numbers]
            if "checkpoint_age" in numbers:
                self._saved[kind] = time.monotonic() - numbers["checkpoint_age"]
            if done >= total:
                del self._done[task]
                if kind in self._saved and not any(other.kind == kind for other in self._done):
                    self._saved[kind] = None
        if units > 0:
            _counter().inc(units, self._tags(kind))
        if not self._sampler.is_alive():
            self._sampler.start()

    def close(self) -> None:
        """Stop; what went at some rate goes at none."""
        self._over.set()
        if self._sampler.is_alive():
            self._sampler.join()
            self._since = dict.fromkeys(self._since, 0.0)
            self._saved = dict.fromkeys(self._saved)
            self._sample(SECONDS)

    def _sample_now_and_then(self) -> None:
        before = time.monotonic()
        while not self._over.wait(SECONDS):
            now = time.monotonic()
            self._sample(now - before)
            before = now

    def _sample(self, seconds: float) -> None:
        with self._lock:
            losses = dict(self._losses)
            rates = {kind: units / seconds for kind, units in self._since.items()}
            self._since = dict.fromkeys(self._since, 0.0)
            now = time.monotonic()
            ages = {kind: 0.0 if saved is None else now - saved for kind, saved in self._saved.items()}
        if not ray.is_initialized():
            return
        sampled = {"loss": losses, "units_per_second": rates, "checkpoint_age_seconds": ages}
        for name, values in sampled.items():
            for kind, value in values.items():
                _gauge(name).set(value, self._tags(kind))
        try:
            total, free = ray.cluster_resources(), ray.available_resources()
        except Exception as error:  # Ray is being left
            _log.info("the cluster's resources are not known: %s", error)
            return
        for resource in ("CPU", "GPU"):
            if total.get(resource):
                busy = 1 - free.get(resource, 0.0) / total[resource]
                _gauge("busy", "resource").set(busy, {"run": self._run, "resource": resource})

    def _tags(self, kind: str) -> dict[str, str]:
        return {"run": self._run, "kind": kind}


_DESCRIPTIONS: Final = {
    "units_per_second": "Iterations, epochs or parts done each second, all workers together",
    "checkpoint_age_seconds": "Seconds of work that a crash would lose",
    "loss": "Loss of the last unit done",
    "busy": "Share of the cluster's resource that somebody holds",
}


@cache
def _gauge(name: str, tag: str = "kind") -> Any:
    return Gauge(f"raydd_{name}", _DESCRIPTIONS[name], ("run", tag))


@cache
def _counter() -> Any:
    return Counter("raydd_units", "Iterations, epochs or parts done", ("run", "kind"))
