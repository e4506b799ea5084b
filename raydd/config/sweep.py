"""What a sweep tries: values of any fields of a config, and the points that their combinations are.

Grids and random draws are lists that are known beforehand, so that a sweep that breaks off goes on with what is left.
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import ConfigDict, Discriminator, Tag, TypeAdapter
from tyro.constructors import PrimitiveConstructorSpec

from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.storage import content_key

PointValues: TypeAlias = dict[str, Any]
"""A point: values of fields by their dotted paths."""

ASHA_LOOKS = 20
"""Measurements of a student that ASHA watches."""
ASHA_RUNGS = 3
"""One in so many students goes on after 1/9 of its epochs, and again after 1/3."""
_MOST = 100_000
"""Points of a grid."""
_NOT_SWEPT = ("name", "out", "sweep", "cluster")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    """linear: every number is as likely as any other. log: every order of magnitude is."""
    integers: bool = False
    """Whole numbers alone, both ends among them."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    def __post_init__(self) -> None:
        """Refuse an empty range, and one that has no logarithms."""
        if not self.low < self.high:
            raise ConfigError("low", f"must be less than high ({self.high:g}), is {self.low:g}")
        if self.scale == "log" and self.low <= 0:
            raise ConfigError("low", f"must be positive on a log scale, is {self.low:g}")
        if self.integers and (self.low % 1 or self.high % 1):
            raise ConfigError("low", f"must be a whole number, as high must, with integers; is {self.low:g}")

    def at(self, fraction: float) -> float | int:
        """The number below which this fraction, in [0, 1), of the range's probability lies."""
        low, high = self.low, self.high + self.integers
        if self.scale == "log":
            value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        else:
            value = low + fraction * (high - low)
        value = min(max(math.floor(value) if self.integers else value, self.low), self.high)
        return int(value) if self.integers else value


def _kind(value: object) -> str:
    return "range" if isinstance(value, dict | Range) else "values"


SearchSpace: TypeAlias = Annotated[
    Annotated[list[Any], Tag("values")] | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]
"""What a field may be: one of some values, or a number of a range."""
_SPACES: TypeAdapter[dict[str, SearchSpace]] = TypeAdapter(dict[str, SearchSpace])
_FLAG = PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: _SPACES.validate_json(words[0]),
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda spaces: [_SPACES.dump_json(spaces).decode()],
)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which values of which fields are tried, for `raydd sweep`."""

    parameters: Annotated[dict[str, SearchSpace], _FLAG] = field(hash=False)
    """By the dotted path of a field, a list of its values, or a range of numbers (low, high, scale, integers). A value
    may be a list or a mapping where the field is."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: all combinations. random: `num_samples` independent draws. optuna: the same number, each where those before
    it did well on the validation split (tree-structured Parzen estimator)."""
    num_samples: int = 20
    """Points of random and optuna; more of them later go on from those that there are."""
    scheduler: Literal["fifo", "asha"] = "fifo"
    """fifo: every student is trained to its end. asha: those that are behind on the validation split are stopped early;
    to search only, with a set that is distilled already."""

    def __post_init__(self) -> None:
        """Refuse a space with nothing in it, and ranges where all combinations are asked for."""
        if not self.parameters:
            raise ConfigError("sweep.parameters", "name at least one field, as in `evaluate.recipe.lr: [0.01, 0.1]`")
        if self.num_samples < 1:
            raise ConfigError("sweep.num_samples", f"must be at least 1, is {self.num_samples}")
        if self.search == "optuna" and self.scheduler == "asha":
            raise ConfigError(
                "sweep.scheduler", "asha is for grid and random: optuna learns from students at their end"
            )
        for path, space in self.parameters.items():
            where = f"sweep.parameters.{path}"
            if isinstance(space, Range):
                if self.search == "grid":
                    raise ConfigError(where, "a grid takes lists of values; ranges are for search: random or optuna")
                continue
            if not space:
                raise ConfigError(where, "name at least one value")
            (written, times), *_ = Counter(json.dumps(value) for value in space).most_common(1)
            if times > 1:
                raise ConfigError(where, f"has {written} twice")
        if self.search == "grid" and (points := math.prod(map(len, map(_values, self.parameters.values())))) > _MOST:
            raise ConfigError("sweep.parameters", f"are {points:,} combinations: take at most {_MOST:,}")

    def check(self, fields: Sequence[str], validation_fraction: float) -> None:
        """See that all paths are fields, and that there is what a search goes by.

        Args:
            fields: the dotted paths of all leaves of the config.
            validation_fraction: of the training images.

        Raises:
            ConfigError: a path is no field, or none that can be swept; or nothing is there to search by.
        """
        parts = {".".join(path.split(".")[:depth]) for path in fields for depth in range(1, path.count(".") + 2)}
        known = sorted(part for part in parts if part.partition(".")[0] not in _NOT_SWEPT)
        for path in self.parameters:
            if path.partition(".")[0] in _NOT_SWEPT:
                raise ConfigError(f"sweep.parameters.{path}", "determines no student: it cannot be swept")
            if path not in known:
                close = difflib.get_close_matches(path, known, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"sweep.parameters.{path}", f"there is no field {path}{hint}")
        for name, value in (("search", self.search), ("scheduler", self.scheduler)):
            if value in ("optuna", "asha") and not validation_fraction:
                raise ConfigError(f"sweep.{name}", f"{value} goes by a validation split: set data.validation_fraction")

    def name(self, seed: int) -> str:
        """Of the sweep: another space, and another seed where points are drawn, make another sweep."""
        spaces = {path: asdict(space) if isinstance(space, Range) else space for path, space in self.parameters.items()}
        identity = {"parameters": spaces, "scheduler": self.scheduler}
        return f"{self.search}-{content_key(identity if self.search == 'grid' else identity | {'seed': seed})}"

    def points(self, seed: int) -> list[PointValues]:
        """The points that are known beforehand, each once; those of a grid in order, the last field changing fastest.

        Args:
            seed: from which random points are drawn.
        """
        match self.search:
            case "grid":
                spaces = [[(path, value) for value in _values(space)] for path, space in self.parameters.items()]
                return [dict(point) for point in product(*spaces)]
            case "random":
                drawn = {json.dumps(point): point for point in self._draws(Key.root(seed).child("sweep"))}
                return list(drawn.values())
            case "optuna":
                return []

    def _draws(self, key: Key) -> Iterator[PointValues]:
        for number in range(self.num_samples):
            ids = torch.tensor([number])
            yield {path: _draw(space, key.child(path), ids) for path, space in self.parameters.items()}


def suggested(config: SweepConfig, suggestion: Mapping[str, Any]) -> PointValues:
    """The point that a search suggests, which names the values of a list by their numbers."""
    spaces = config.parameters.items()
    return {path: among[suggestion[path]] if isinstance(among, list) else suggestion[path] for path, among in spaces}


def suggestion(config: SweepConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a search would suggest for a point: the inverse of `suggested`."""
    spaces = config.parameters.items()
    return {
        path: among.index(parameters[path]) if isinstance(among, list) else parameters[path] for path, among in spaces
    }


def with_values(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with other values at some dotted paths; the one that is given stays as it is.

    Raises:
        ConfigError: the value that one path is given leaves no room for another.
    """
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for path, value in parameters.items():
        *parents, name = path.split(".")
        part = changed
        for parent in parents:
            part = part[parent] if isinstance(part, dict) and parent in part else {}
        if not isinstance(part, dict) or name not in part:
            raise ConfigError(path, "there is no such field where the other values of this point are set")
        part[name] = value
    return changed


def columns(parameters: Mapping[str, Any]) -> dict[str, float | str]:
    """A point as records keep it: numbers, and everything else as text, which is JSON where it is no text itself."""
    return {path: _plain(value) for path, value in parameters.items()}


def described(parameters: Mapping[str, Any]) -> str:
    """A point in words, each field by the last part of its path."""
    values = ((path.rpartition(".")[2], value) for path, value in columns(parameters).items())
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values)


def _plain(value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


def _values(space: SearchSpace) -> list[Any]:
    assert isinstance(space, list)
    return space


def _draw(space: SearchSpace, key: Key, ids: torch.Tensor) -> Any:
    if isinstance(space, Range):
        return space.at(float(keyed_random.uniform(key, ids)))
    return space[int(keyed_random.integers(key, ids, 0, len(space)))]
