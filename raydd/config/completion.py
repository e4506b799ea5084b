"""What a config file leaves out, filled in before it is checked: what the literature takes for its method.

Two things are filled in. A file that says nothing of students' recipe, or of a teacher's norms, where its method cannot
do without, gets the `usual` ones of the method. A recipe that is given in part and does not name its step size is the
one that stands there by default, with what is given changed; one that names its step size is a recipe of its own, whose
other fields are those of any `Recipe`. Where that makes a difference, `unsaid` tells it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from raydd.config.evaluate import EvaluateConfig
from raydd.ingredients.teacher import TeacherConfig
from raydd.methods import MethodConfig
from raydd.networks.config import TRAITS
from raydd.training.recipe import Recipe

_ITS_OWN: Final[Mapping[str, tuple[str, ...]]] = {
    "evaluate.recipe": ("lr", "batch_size"),
    "evaluate.selector": (),
    "teacher.training": ("epochs", "batch_size"),
}
"""Recipes, and what of them is that of any recipe wherever it is left out: shipped configs go by it."""
_LR: Final = "lr"
_NETWORKS: Final = frozenset(name for name, traits in TRAITS.items() if "norm" in traits.takes)
"""That may have batch norms."""


def method_class(name: object) -> Any:
    """The class of a method's config; None where there is none of the name."""
    return next((kind for kind in get_args(get_args(MethodConfig)[0]) if kind.name == name), None)


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with what its file leaves out; what is no mapping where one should be stays, to be refused."""
    full = dict(values)
    method = full.get("method")
    kind = method_class(method.get("name")) if isinstance(method, dict) else method_class("datm")
    if kind is not None:
        _fill_usual(full, kind, method if isinstance(method, dict) else {})
    for path in _ITS_OWN:
        given = _part(full, path)
        if isinstance(given, dict) and _LR not in given:
            part, _, name = path.partition(".")
            full[part] = {**full[part], name: {**_merged(path, kind, given), **given}}
    return full


def unsaid(values: Mapping[str, Any]) -> Iterator[str]:
    """What recipes that are given in part do not say, and is not as in the one that stands there by default."""
    full = completed(values)
    for path in _ITS_OWN:
        given, default, itself = _part(values, path), _default(path), Recipe()
        if not isinstance(given, dict):
            continue
        found = _part(full, path)
        left = [name for name in _differing(default) if name not in found and not _is_sgds(name, found)]
        said = [f"{name} {getattr(itself, name)} (there: {getattr(default, name)})" for name in left if name != _LR]
        if said:
            yield f"{path} is a recipe of its own; what it leaves out is not as in the default one: {', '.join(said)}"


def _fill_usual(full: dict[str, Any], kind: Any, method: Mapping[str, Any]) -> None:
    """Give it the recipe and the norms that its method needs and the file says nothing of."""
    evaluate, network, teacher = (full.get(part, {}) for part in ("evaluate", "network", "teacher"))
    if not all(isinstance(part, dict) for part in (evaluate, network, teacher)):
        return
    usual = {"protocol": "rded"} if method.get("taught") else kind.usual
    if usual and not any(evaluate.get(name) for name in ("recipe", "protocol")):
        own = {name: value for name, value in evaluate.items() if name not in ("recipe", "protocol")}
        full["evaluate"] = {**json.loads(json.dumps(dict(usual))), **own}
    has_norms = "norm" in network or network.get("name", "convnet") not in _NETWORKS or teacher.get("network")
    if (method.get("taught") or "protocol" in kind.usual) and not has_norms:
        full["network"] = {**network, "norm": "batch"}


def _merged(path: str, kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe at a path has from the default one, as far as that is not what any recipe has."""
    default = _default(path)
    names = [name for name in _differing(default) if name not in _ITS_OWN[path] and not _is_sgds(name, given)]
    merged = {name: getattr(default, name) for name in names}
    if path == "evaluate.recipe" and kind is not None and kind.learns_step_size:
        merged[_LR] = None
    return merged


def _differing(default: Recipe) -> list[str]:
    """The fields in which it is not what any recipe is."""
    return [item.name for item in fields(Recipe) if getattr(default, item.name) != getattr(Recipe(), item.name)]


def _is_sgds(name: str, given: Mapping[str, Any]) -> bool:
    """Whether it is the momentum, and the optimiser another one, which has its own."""
    return name == "momentum" and given.get("optimizer") == "adamw"


def _default(path: str) -> Recipe:
    evaluate = EvaluateConfig()
    return {
        "evaluate.recipe": evaluate.recipe,
        "evaluate.selector": evaluate.selector,
        "teacher.training": TeacherConfig().training,
    }[path]


def _part(values: Mapping[str, Any], path: str) -> Any:
    part: Any = values
    for name in path.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return part
