"""The real data that a stage sees where a filter leaves some out."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from raydd.data.prepared import PreparedData
from raydd.ingredients import real_filter
from raydd.ingredients.network_pool import NetworkPool
from raydd.ingredients.real_filter import FilterConfig
from raydd.ingredients.setting import Setting
from raydd.pipeline.runs.inputs import RunInputs
from raydd.storage import Folder, content_key, self_checked

_MASK = "mask"


@dataclass(frozen=True)
class FilteredData:
    """What a filter leaves to a stage: decided once, by one worker, and kept under `work/`."""

    run: RunInputs
    config: FilterConfig
    stage: int
    """Counted from 0."""
    least: int
    """Real images that every class has to keep."""
    pool: NetworkPool | None = None
    """The networks in which the stage begins, where it begins in some."""

    @cached_property
    def named(self) -> PreparedData:
        """All real data, with a fingerprint that says what of them the stage is to see."""
        run = self.run
        of = {
            "data": run.data.fingerprint,
            "filter": {**asdict(self.config), "scoring": self.config.scoring.identity()},
            "scores": None if run.scores is None else run.scores.key(),
            "stage": self.stage,
            "pool": self.pool.key if self.config.needs_pool and self.pool is not None else None,
            "seed": run.config.seed,
        }
        if self.config.policy == "forgetting_window":
            of["last"] = self.stage == run.config.stages.count - 1
        return replace(run.data, fingerprint=content_key(of))

    @property
    def is_chosen(self) -> bool:
        """Whether it is decided."""
        return self.folder.has(self._file)

    def choose(self) -> None:
        """Decide it, and see that enough is left of every class."""
        run = self.run
        mask = real_filter.stage_mask(
            self.config,
            self.stage,
            run.config.stages.count,
            None if run.scores is None else run.scores.open(),
            self.pool,
            Setting(run.config.network, run.data, run.device),
            run.key(),
        )
        real_filter.restricted(run.data, mask, self.least, self.stage)
        self_checked.write(self.folder, self._file, {_MASK: mask})

    def data(self) -> PreparedData:
        """What is left."""
        tensors, _ = self_checked.read(self.folder, self._file)
        kept = real_filter.restricted(self.run.data, tensors[_MASK], self.least, self.stage)
        return replace(kept, fingerprint=self.named.fingerprint)

    @property
    def folder(self) -> Folder:
        """Where it is kept what is left."""
        return self.run.work / "masks"

    @property
    def _file(self) -> str:
        return f"{self.named.fingerprint}.safetensors"
