"""How large a number of a configuration may be, whoever's field it is.

A field's owner says which values make sense. These bounds are wider: beyond them a number is a slip of the keyboard or
an attack, and would hang a plan or fill the memory before anything says why.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Final

from raydd.core.errors import ConfigError

_LARGEST: Final = 10**9
"""What any integer may be, and its negative."""
_LARGEST_REAL: Final = 1e30
"""The same of other numbers, which 32 bits still hold."""
_MOST: Final[Mapping[str, int]] = {
    "depth": 64,
    "width": 2**16,
    "experts.count": 10_000,
    "stages.count": 1_000,
    "pool_size": 10_000,
    "num_networks": 10_000,
    "num_students": 10_000,
    "random_draws": 1_000,
    "num_samples": 100_000,
    "synthetic_steps": 10_000,
    "images_per_class": 1_000_000,
    "image_size": 4_096,
}
"""What stands for an object, a layer or a file each, by the end of the field's path."""
_MOST_EPOCHS: Final = 1_000_000
_MANY: Final = 10_000
"""Values that a list may have."""
_SEED: Final = "seed"
"""Bits, not an amount: 64 of them."""


def check(config: object) -> None:
    """Refuse numbers beyond all bounds, with a ConfigError that names the field."""
    for path, value in _numbers(config, ""):
        name = ".".join(part for part in path.split(".") if not part.isdigit())
        most = _LARGEST_REAL if isinstance(value, float) else _most(name)
        if name.rpartition(".")[2] == _SEED:
            if not -(2**63) <= value < 2**63:
                raise ConfigError(path, f"must fit into 64 bits, is {_said(value)}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(path, f"must be a finite number, is {value}")
        elif not -most <= value <= most:
            raise ConfigError(path, f"must lie between {_said(-most)} and {_said(most)}, is {_said(value)}")


def _most(name: str) -> int:
    if name.endswith(("epochs", "epoch")):
        return _MOST_EPOCHS
    return next((most for field, most in _MOST.items() if f".{name}".endswith(f".{field}")), _LARGEST)


def _numbers(part: object, path: str) -> Iterator[tuple[str, int | float]]:
    """All numbers of a tree, with their dotted paths."""
    if isinstance(part, bool) or part is None:
        return
    if isinstance(part, int | float):
        yield path, part
        return
    for name, value in _inner(part, path):
        yield from _numbers(value, f"{path}.{name}" if path else str(name))


def _inner(part: object, path: str) -> Iterable[tuple[object, object]]:
    """What a part of a tree has in it, by its names or numbers; nothing where it is a word."""
    if is_dataclass(part):
        return ((field.name, getattr(part, field.name)) for field in fields(part))
    if isinstance(part, Mapping):
        return part.items()
    if not isinstance(part, tuple | list | set | frozenset):
        return ()
    if len(part) > _MANY:
        raise ConfigError(path, f"must have at most {_MANY:,} values, has {len(part):,}")
    return enumerate(part)


def _said(value: float) -> str:
    """A number as far as it fits into a line."""
    if isinstance(value, float) or abs(value) > 10**300:
        return f"{value:g}" if isinstance(value, float) else "of more than 300 digits"
    return f"{value:,}" if abs(value) < _LARGEST_REAL else f"{value:g}"
