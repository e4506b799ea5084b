"""One run: its inputs, its stages, and the names, keys and opening of what is made of them."""

import importlib.metadata
import sys
from functools import cached_property

from raydd.config import RunConfig
from raydd.config.lineup import plan_trials
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.stage import Stage, has_set
from raydd.storage import Folder, content_key

CONFIG, REPORT, LOCK, SWEEPS = "config.yaml", "report.html", "run.lock", "sweeps"


class Run(RunInputs):
    """A config and its folder. Small and picklable: workers open the rest themselves."""

    @classmethod
    def of(cls, config: RunConfig) -> "Run":
        """The run of a config, in whose process paths count from the working folder."""
        return cls(resolved(config.located()), Folder.at(config.out))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        made: tuple[Stage, ...] = ()
        for _ in range(self.config.stages.count):
            made += (Stage(self, made),)
        return made

    @property
    def last_stage(self) -> Stage:
        """The one whose union is the distilled set."""
        return self.stages[-1]

    def labels_key(self, store: LabelStore) -> str:
        """Content key of stored labels."""
        return content_key({"set": self.synthetic_key, "teacher": self.teacher.key(), **store.identity()})

    def labels(self, store: LabelStore) -> Folder:
        """Where stored labels are, or will be."""
        return self.folder / "labels" / self.labels_key(store)

    @property
    def synthetic_key(self) -> str:
        """Content key of the distilled set."""
        return self.last_stage.union_key

    @cached_property
    def _trials(self) -> tuple[Trial, ...]:
        config, data = self.config, self.data
        planned = plan_trials(
            config.evaluate, config.network, config.methods, config.stages, data.num_classes, data.name
        )
        return tuple(planned)

    def trials(self) -> list[Trial]:
        """The students to train, in a fixed order."""
        return list(self._trials)

    @cached_property
    def _record_ids(self) -> dict[Trial, str]:
        """Those that were asked for: each is asked for often, and a run may have thousands."""
        return {}

    def record_id(self, trial: Trial) -> str:
        """The name of a trial's record."""
        if (known := self._record_ids.get(trial)) is None:
            selection_key = None if trial.coreset is None else self.selection.key()
            union_key = self.stages[trial.stage].union_key
            known = self._record_ids[trial] = trial.record_id(self.data.test_fingerprint, union_key, selection_key)
        return known

    def has_synthetic(self) -> bool:
        """Whether the distilled set is finished, and its average where there has to be one."""
        return all(self.has_set(self.folder / name) for name in self.sets)

    def has_set(self, folder: Folder) -> bool:
        """Whether the union of all stages is finished in a folder."""
        return has_set(folder, self.synthetic_key)


def versions() -> dict[str, str]:
    """The libraries that the numbers depend on."""
    names = ("raydd", "torch", "torchvision", "numpy", "pyarrow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": sys.version.split()[0], **found}
