"""The configuration tree: one complete YAML file a run, in and out.

Every part sits with its owner; this file joins them, checks what goes across, and reads and writes YAML.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from raydd.config import bounds
from raydd.config.cluster import ClusterConfig
from raydd.config.completion import completed
from raydd.config.evaluate import EvaluateConfig
from raydd.config.stages import StagesConfig, stage_methods, trajectory_epochs
from raydd.config.sweep import SweepConfig
from raydd.core.errors import ConfigError, UserError
from raydd.data import DataConfig
from raydd.ingredients.experts import ExpertsConfig
from raydd.ingredients.ranking import RankingConfig
from raydd.ingredients.teacher import TeacherConfig, require_batch_norm
from raydd.methods import DATMConfig, MethodConfig
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder, yaml_files

_PATHS = {
    "data": ("root",),
    "experts": ("store",),
    "teacher": ("store", "weights"),
    "ranking": ("store",),
    "stages": ("store",),
    "method": ("path",),
}
"""The fields that name a file or a folder, where they are set; beside `out`."""
_MOST_CHARACTERS: Final = 200
"""That a message quotes of a value."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run makes and does."""

    name: str = "raydd"
    """Of the run, in reports and records."""
    seed: int = 0
    """From which every draw of the run follows."""
    out: str = "runs/raydd"
    """The run's folder: a path or a URI such as s3://bucket/run."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Of experts and inner loop or of the teacher, and of students unless evaluate.networks names others."""
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    """For methods that match trajectories."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """For methods that recover images from a trained network, like all of `ranking`."""
    ranking: RankingConfig = field(default_factory=RankingConfig)
    method: MethodConfig = field(default_factory=DATMConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    """In how many parts, each conditioned on the earlier ones, the set is made."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sweep: SweepConfig | None = None
    """Other values of these fields, which `raydd sweep` tries; a run goes by none of it."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    def __post_init__(self) -> None:
        """Check what goes across the parts."""
        bounds.check(self)
        if self.method.unrolls and self.network.norm == "batch":
            raise ConfigError(
                "network.norm",
                "batch statistics couple the images of a batch; trajectory matching takes instance or none",
            )
        if self.method.is_taught:
            require_batch_norm(self.teacher_network)
        if self.data.preprocess == "zca" and self.method.reads_pixels:
            problem = "whitened images have no pixels to crop; this method takes standardise or none"
            raise ConfigError("data.preprocess", problem)
        for number, method in enumerate(self.methods):
            method.check(self.trajectory_epochs(number))
        self.stages.check(self.method)
        if "teacher_epoch" in self.stages.teacher_conditions and self.teacher.weights is not None:
            raise ConfigError("stages.teacher_conditions", "a teacher that is taken over from a file has no epochs")
        self.evaluate.check(self.method, self.stages.count)
        for name, value in (("lr", "search"), ("keep", "best")):
            if getattr(self.evaluate, name) == value and not self.data.validation_fraction:
                problem = f"{value} goes by held-out images: give a data.validation_fraction, such as 0.1"
                raise ConfigError(f"evaluate.{name}", problem)
        if self.method.is_given and self.stages.count > 1 and self.stages.conditioning != "none":
            raise ConfigError("stages.conditioning", "the images of all stages are there: take none")
        if "selection" in self.method.made_first and self.stages.count > 1:
            raise ConfigError("stages.count", f"{self.method.name} chooses all images at once: take 1")
        if self.sweep is not None:
            self.sweep.check(field_names(self), self.data.validation_fraction)

    @cached_property
    def methods(self) -> tuple[MethodConfig, ...]:
        """The method as it is in each stage."""
        return stage_methods(self.stages, self.method)

    @property
    def images_per_class(self) -> int:
        """Synthetic images of each class, of all stages together."""
        return sum(method.images_per_class for method in self.methods)

    def uses_pool(self, stage: int) -> bool:
        """Whether a stage needs networks that were trained on the images of earlier ones."""
        if not self.stages.begins_from_pool(stage):
            return False
        asked = "disagreement" in self.stages.teacher_conditions or self.stages.filters_by_pool
        return asked or not self.method.is_taught

    def uses_trajectories(self, stage: int) -> bool:
        """Whether a stage matches trajectories of its own."""
        return "experts" in self.method.made_first and self.stages.begins_from_pool(stage)

    def trajectory_epochs(self, stage: int) -> int:
        """Epochs of the trajectories that a stage matches."""
        method = self.methods[stage]
        if self.uses_trajectories(stage):
            return trajectory_epochs(self.stages, method)
        return self.experts.training.epochs

    def located(self) -> "RunConfig":
        """The same with absolute paths: processes of a cluster work in folders of their own."""
        changed = {}
        for part, names in _PATHS.items():
            config = getattr(self, part)
            given = {name: getattr(config, name, None) for name in names}
            paths = {name: Folder.at(path).uri for name, path in given.items() if path is not None}
            changed[part] = replace(config, **paths)
        return replace(self, **changed)

    @property
    def is_sized(self) -> bool:
        """Whether no network's depth goes by the size of the images."""
        networks = (self.network, self.teacher_network, *self.evaluate.networks)
        return all(network.depth != "auto" for network in networks)

    def sized(self, side: int) -> "RunConfig":
        """The same with the depth that `auto` means for images whose shorter side has so many pixels."""
        teacher = self.teacher.network
        return replace(
            self,
            network=self.network.sized(side),
            teacher=replace(self.teacher, network=None if teacher is None else teacher.sized(side)),
            evaluate=replace(self.evaluate, networks=tuple(each.sized(side) for each in self.evaluate.networks)),
        )

    @property
    def experts_seed(self) -> int:
        """The seed of the experts, which runs that differ in `seed` only may share."""
        return self.seed if self.experts.seed is None else self.experts.seed

    @property
    def teacher_seed(self) -> int:
        """The seed of the teacher, which runs that differ in `seed` only may share."""
        return self.seed if self.teacher.seed is None else self.teacher.seed

    @property
    def teacher_network(self) -> NetworkConfig:
        """The teacher's network."""
        return self.teacher.network or self.network


_ADAPTER: TypeAdapter[RunConfig] = TypeAdapter(RunConfig)


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """A checked configuration; what is left out is filled in as `raydd.config.completion` says.

    Raises:
        ConfigError: naming the first field that is unknown, has the wrong type, or does not fit.
    """
    try:
        return _ADAPTER.validate_python(completed(values))
    except ValidationError as error:
        raise _explain(error) from None


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The whole configuration, defaults included, as plain data."""
    dumped: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return dumped


def load(path: str) -> RunConfig:
    """Read a YAML file.

    Raises:
        UserError: there is no such file, it is not YAML, or its content does not fit.
    """
    return from_mapping(said(path))


def said(path: str) -> dict[str, Any]:
    """What a YAML file says, unchecked.

    Raises:
        UserError: there is no such file, or it is not YAML.
    """
    if "://" in path:
        folder, name = Folder.of_file(path)
        return _mapping(folder.read(name), path)
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such configuration file")
    return _mapping(Path(path).read_bytes(), path)


def parse(text: bytes, where: str) -> RunConfig:
    """Read YAML; `where` names it in messages."""
    return from_mapping(_mapping(text, where))


def _mapping(text: bytes, where: str) -> dict[str, Any]:
    values = yaml_files.read(text, where)
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected `key: value` lines such as `method: ...`")
    return values


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)


def first_difference(before: Any, after: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The dotted path and both values of the first leaf in which two plain trees differ; None where they are equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            found = first_difference(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
            if found:
                return found
        return None
    return None if before == after else (path, before, after)


def field_names(config: object, prefix: str = "") -> list[str]:
    """The dotted paths of all leaves of a configuration."""
    names: list[str] = []
    for item in fields(config) if is_dataclass(config) else ():
        value = getattr(config, item.name)
        path = f"{prefix}{item.name}"
        names += field_names(value, f"{path}.") if is_dataclass(value) else [path]
    return names


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    path, context = [str(part) for part in first["loc"]], first.get("ctx", {})
    if path[:1] == ["method"]:
        del path[1:2]
    if path[:2] == ["sweep", "parameters"]:
        del path[3:4]
    where = ".".join(path)
    if isinstance(cause := context.get("error"), ConfigError):
        inside = cause.field.startswith(where)
        return cause if inside else ConfigError(f"{where}.{cause.field.rpartition('.')[2]}", cause.problem)
    if first["type"] == "unexpected_keyword_argument":
        return ConfigError(where, f"there is no such field{_nearest(path)}")
    if first["type"].startswith("union_tag"):
        known = ", ".join(method.name for method in get_args(get_args(MethodConfig)[0]))
        return ConfigError("method.name", f"must be one of {known}, is {context.get('tag', 'missing')}")
    message = first["msg"]
    parent, is_union_member = ".".join(path[:-1]), path[:1] != ["sweep"] and not path[-1].isdigit()
    if is_union_member and parent in field_names(RunConfig()):
        where, message = parent, ", or: ".join(e["msg"] for e in error.errors() if e["loc"][:-1] == first["loc"][:-1])
    return ConfigError(where, f"{message}, got {_short(first.get('input'))}")


def _short(value: object) -> str:
    """A value as Python writes it, as far as it fits into a line."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _nearest(path: list[str]) -> str:
    known = {".".join(name.split(".")[: len(path)]) for name in field_names(RunConfig())}
    close = difflib.get_close_matches(".".join(path), sorted(known - {".".join(path)}), 1)
    return f"; did you mean {close[0]}?" if close else ""
