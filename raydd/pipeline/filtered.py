"""The real data that a stage sees where a filter leaves some out."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from raydd import real_filter, sealed
from raydd.prepared import PreparedData
from raydd.real_filter import FilterConfig
from raydd.storage import Folder, content_key

if TYPE_CHECKING:
    from raydd.pipeline.stage import Stage

_MASK = "mask"


@dataclass(frozen=True)
class FilteredData:
    """What a filter leaves to a stage: decided once, by one worker, and kept under `work/`."""

    stage: "Stage"
    config: FilterConfig

    @cached_property
    def named(self) -> PreparedData:
        """All real data, with a fingerprint that says what of them the stage is to see."""
        run, number = self.stage.run, self.stage.number
        of = {
            "data": run.data.fingerprint,
            "filter": {**asdict(self.config), "scoring": self.config.scoring.identity()},
            "scores": run.scores_key if self.config.needs_scores else None,
            "stage": number,
            "pool": self.stage.pool_key if self.config.needs_pool and number else None,
            "seed": run.config.seed,
        }
        if self.config.policy == "forgetting_window":
            of["last"] = number == run.config.stages.count - 1
        return replace(run.data, fingerprint=content_key(of))

    @property
    def is_chosen(self) -> bool:
        """Whether it is decided."""
        return self._folder.has(self._file)

    def choose(self) -> None:
        """Decide it, and see that enough is left of every class."""
        stage, run = self.stage, self.stage.run
        mask = real_filter.stage_mask(
            self.config,
            stage.number,
            run.config.stages.count,
            run.scores if self.config.needs_scores else None,
            stage.pool if stage.uses_pool else None,
            run.config.network,
            run.data,
            run.key(),
            run.device,
        )
        real_filter.restricted(run.data, mask, self._least, stage.number)
        self._folder.write(self._file, sealed.pack({_MASK: mask}))

    def data(self) -> PreparedData:
        """What is left."""
        tensors, _ = sealed.unpack(self._folder.read(self._file), (self._folder / self._file).uri)
        kept = real_filter.restricted(self.stage.run.data, tensors[_MASK], self._least, self.stage.number)
        return replace(kept, fingerprint=self.named.fingerprint)

    @property
    def _least(self) -> int:
        """Real images that every class has to keep."""
        method = self.stage.method
        return 1 if method.repeat_images else method.images_per_class

    @property
    def _folder(self) -> Folder:
        return self.stage.run.work / "masks"

    @property
    def _file(self) -> str:
        return f"{self.named.fingerprint}.safetensors"
