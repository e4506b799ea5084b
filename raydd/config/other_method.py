"""A config with another method: what both have in common is kept, all else is left out and named.

What a file says of a method is what differs from the method's own defaults. Methods of one family share their fields,
so that all that both know is kept; methods of different families share names, but not scales, and the number of images
alone is kept. What else of the config the other method refuses (a step size that no set learns, labels, norms) is left
out, too, and the literature's for the method stands in its place.
"""

from collections.abc import Mapping
from typing import Any, Final

from raydd.config import run
from raydd.config.completion import method_class
from raydd.core.errors import ConfigError

_SHARED: Final = ("images_per_class", "repeat_images")
_IN_THE_WAY: Final[Mapping[str, tuple[str, ...]]] = {
    "evaluate.recipe.lr": ("evaluate.recipe.lr",),
    "evaluate.recipe.loss": ("evaluate.recipe", "evaluate.recipe_name"),
    "evaluate.recipe.views": ("evaluate.recipe", "evaluate.protocol", "evaluate.recipe_name"),
    "evaluate.protocol": ("evaluate.recipe", "evaluate.protocol", "evaluate.recipe_name"),
    "evaluate.labels": ("evaluate.labels",),
    "network.norm": ("network.norm",),
    "teacher.network": ("network.norm",),
}
"""What is left out where a field is refused."""


def with_method(plain: Mapping[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A plain, complete config with another method, and what is left out of it, by dotted paths.

    Args:
        plain: the config; it stays as it is.
        name: the method's.

    Raises:
        ConfigError: there is no such method, or it goes with something else that the config says as little.
    """
    old, new = (method_class(each) for each in (plain["method"]["name"], name))
    if old is new or new is None:
        return {**plain, "method": {**plain["method"], "name": name}}, ()
    defaults = run.to_mapping(run.from_mapping({"method": {"name": old.name, **_needed(plain["method"])}}))["method"]
    own = {field: value for field, value in plain["method"].items() if value != defaults[field]}
    own |= {field: plain["method"][field] for field in _SHARED if field in plain["method"]}
    is_kin = old.__module__.rpartition(".")[0] == new.__module__.rpartition(".")[0] != "raydd.methods"
    fields = new.__dataclass_fields__ if is_kin else _SHARED
    kept = {field: value for field, value in own.items() if field in fields and field in new.__dataclass_fields__}
    changed = {**plain, "method": {**kept, "name": name}}
    dropped = [f"method.{field}" for field in own if field not in (*kept, "name")]
    for _ in range(2 * len(_IN_THE_WAY)):
        try:
            run.from_mapping(changed)
            break
        except ConfigError as error:
            paths = [path for path in _IN_THE_WAY.get(error.field, ()) if _has(changed, path)]
            if not paths:
                raise
            for path in paths:
                changed = _without(changed, path)
            dropped += paths
    return run.to_mapping(run.from_mapping(changed)), tuple(dropped)


def _needed(method: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method's fields those without which it cannot be made."""
    return {name: method[name] for name in ("path", *_SHARED) if method.get(name) is not None}


def _has(values: Mapping[str, Any], path: str) -> bool:
    part: Any = values
    for name in path.split("."):
        if not isinstance(part, dict) or name not in part:
            return False
        part = part[name]
    return True


def _without(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    if not rest:
        return {key: value for key, value in values.items() if key != name}
    return {**values, name: _without(values[name], rest)}
