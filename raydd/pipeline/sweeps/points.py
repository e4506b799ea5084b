"""One point of a sweep: a complete config, and the run that it is.

A point that distils what the config itself distils is an evaluation of that set, in the run's own folder. Any other has
a folder of its own for its set, named by the content key: points that differ in the evaluation alone share it. Experts
and teachers lie in content-keyed stores, those of the run itself where they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from raydd import config as configs
from raydd import networks
from raydd.config import RunConfig
from raydd.config.other_method import with_method
from raydd.config.sweep import PointValues, SweepConfig, described, with_values
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, prepared
from raydd.data.prepared import PreparedData
from raydd.ingredients.coreset import ChosenImages
from raydd.ingredients.observer import Observer
from raydd.ingredients.teacher import Teacher
from raydd.ingredients.trained_teacher import TrainedTeacher
from raydd.methods.initial import require_images
from raydd.pipeline.runs.run import SWEEPS, Run
from raydd.storage import Folder


@dataclass(frozen=True)
class Point:
    """A combination of values."""

    number: int
    parameters: PointValues
    config: RunConfig
    """All of it; `out` is where its distilled set lies."""

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"point {self.number} ({described(self.parameters)})"


@dataclass(frozen=True)
class Sweep:
    """The points around one run. Small and picklable: workers open the rest themselves."""

    base: Run
    """Of the config itself."""
    folder: Folder
    attempt: str
    """Names this execution, in which what has failed is not tried again."""

    @property
    def config(self) -> SweepConfig:
        """What is tried."""
        assert self.base.config.sweep is not None
        return self.base.config.sweep

    @property
    def results(self) -> Folder:
        """One record a student, with the values of the point for which it was trained."""
        return self.folder / "results"

    @property
    def shared(self) -> Folder:
        """Experts, teachers and rankings that the run itself does not have, of all sweeps around it."""
        return self.base.folder / SWEEPS / "shared"

    def run(self, config: RunConfig) -> "PointRun":
        """The run of a point's config."""
        return PointRun(config, Folder.at(config.out), self.base, self.folder / "work", reader=self.base.reader)

    def distils(self, point: Point) -> bool:
        """Whether a point has a set of its own, other than the run's."""
        return Folder.at(point.config.out) != self.base.folder

    def point(self, number: int, parameters: Mapping[str, Any]) -> Point:
        """A point with everything about it checked that can be known beforehand.

        Raises:
            ConfigError: the values do not go together; names the point.
        """
        try:
            config, values = _with_values(self.base.config, parameters)
            run = self.run(config)
            _check(run)
            if run.synthetic_key != self.base.synthetic_key:
                config = self._elsewhere(run)
        except ConfigError as error:
            where = f"point {number} ({described(parameters)})"
            raise ConfigError(error.field, f"{error.problem} [{where} of the sweep]") from error
        return Point(number, values, config)

    def _elsewhere(self, run: Run) -> RunConfig:
        """A config whose set is made in a folder of its own, by one process."""
        config = run.config
        return replace(
            self.with_stores(run),
            out=(self.folder / "sets" / run.synthetic_key).uri,
            cluster=replace(config.cluster, num_workers=1, min_workers=None),
        )

    def with_stores(self, run: Run) -> RunConfig:
        """A run's config with the stores where its experts, its teacher and its ranking are, or will be."""
        config = run.config
        kinds = config.method.made_first
        if "experts" in kinds:
            same = "experts" in self.base.config.method.made_first and run.experts.key() == self.base.experts.key()
            store = config.experts.store or (self.shared / "experts").uri
            own = self.base.experts.folder.uri if same else store
            config = replace(config, experts=replace(config.experts, store=own))
        if "teacher" in kinds:
            teacher = replace(config.teacher, store=config.teacher.store or (self.shared / "teacher").uri)
            ranking = replace(config.ranking, store=config.ranking.store or (self.shared / "ranking").uri)
            config = replace(config, teacher=teacher, ranking=ranking)
        return config


@dataclass(frozen=True)
class PointRun(Run):
    """A point's run: data and teacher are opened once in a process, and records wait until they have their values."""

    base: Run
    unfinished: Folder
    """The sweep's `work/`."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened here."""
        return {**super().__getstate__(), "base": self.base, "unfinished": self.unfinished}

    @property
    def results(self) -> Folder:
        """Records without the values of the point: what breaks off here has its students all the same."""
        return self.unfinished / "students"

    @property
    def data_folder(self) -> Folder:
        """Where the prepared data are, or will be."""
        own = self.base.data_key == self.data_key
        return self.base.work / "data" if own else self.unfinished / "data" / self.data_key

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data, which points have in common as a rule."""
        return _data(self.data_folder, self.data_key, self.config.data, self.key()).read_by(self.reader)

    @cached_property
    def teacher(self) -> TrainedTeacher:
        """The teacher, which points have in common as a rule."""
        own = super().teacher
        return _LentTeacher(self, own.config, own.network, own.seed, own.epochs)

    @cached_property
    def observer(self) -> Observer:
        """The network that looks at images: those of all points lie together, under their keys."""
        return replace(super().observer, within=self.base.folder)

    @cached_property
    def selection(self) -> ChosenImages:
        """Real images to compare with: those of all points lie together, under their keys."""
        return replace(super().selection, within=self.base.folder)

    def missing_step(self) -> str | None:
        """The step up to which the config has to be executed before its set can be distilled."""
        steps = {"experts": "experts", "teacher": "teacher", "ranking": "rank"}
        last = [steps.get(kind, "distill") for kind, first in self.made_first.items() if not first.is_made()]
        return last[-1] if last else None

    def share_data(self) -> None:
        """Put the prepared data where every process maps them from."""
        if prepared.open_saved(self.data_folder, self.data_key) is None:
            prepared.save(self.data, self.data_folder, self.data_key)
            _data.cache_clear()


def _with_values(base: RunConfig, parameters: Mapping[str, Any]) -> tuple[RunConfig, PointValues]:
    """A config with other values, and these as they were understood where they are no lists or mappings."""
    plain = configs.to_mapping(base) | {"sweep": None}
    if (name := parameters.get("method.name")) is not None:
        plain, _ = with_method(plain, str(name))
    config = configs.from_mapping(with_values(plain, parameters)).located()
    understood = configs.to_mapping(config)
    values = {}
    for path, value in parameters.items():
        found: Any = understood
        for name in path.split("."):
            found = found[name]
        values[path] = value if isinstance(found, list | dict) else found
    return config, values


def _check(run: PointRun) -> None:
    """See that a point's networks can be built and that there are images for its set."""
    shape, num_classes = run.data.shape, run.data.num_classes
    with torch.device("meta"):
        for network in (run.config.network, *run.config.evaluate.networks):
            networks.build(network, shape, num_classes)
    require_images(run.data, run.config.images_per_class, run.config.method.repeat_images)
    run.trials()


@lru_cache(maxsize=2)
def _data(folder: Folder, name: str, config: DataConfig, key: Key) -> PreparedData:
    """The data in a folder, or made anew."""
    return prepared.open_saved(folder, name) or prepared.prepare(config, key, folder)


_TEACHERS: dict[tuple[Folder, str], Teacher] = {}
"""The last teacher that was opened and has shown that it is the one of its card."""


@dataclass(frozen=True)
class _LentTeacher(TrainedTeacher):
    """A teacher that a process opens once for all points."""

    def open(self) -> Teacher:
        """The teacher."""
        place = self.folder, self.key()
        if place not in _TEACHERS:
            _TEACHERS.clear()
            _TEACHERS[place] = self.at(None)
        return _TEACHERS[place]
