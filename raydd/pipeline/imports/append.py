"""Appending classes to a distilled set: runs on some classes each, joined into one folder."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from raydd import config as configs
from raydd.core.errors import ArtefactError, UserError
from raydd.data import DataConfig
from raydd.data.loading import class_names
from raydd.exchange.source import set_folder
from raydd.methods.imported import fingerprint
from raydd.pipeline.runs.run import LOCK, versions
from raydd.sets import joining
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.lock import locked

_CONFIG = "config.yaml"


def append(sources: Sequence[Folder], target: Folder) -> SyntheticSet:
    """Join distilled sets of disjoint classes of one dataset into the set of a folder; nothing is distilled anew.

    Args:
        sources: runs, or folders that hold sets; two at least.
        target: gets the set as `synthetic`, as runs have it.

    Raises:
        ArtefactError: there is no set, or sets do not go together.
        DataError: the dataset, whose labels say in which order the classes come, is missing.
        UserError: there is one set alone, or something at the target, or somebody at work there.
    """
    if len(sources) < 2:
        raise UserError("append: name two sets at least")
    place = target / "synthetic"
    target.check_writable()
    _require_free(place)
    parts = {source.uri: SyntheticSet.load(set_folder(source)) for source in sources}
    if len(parts) < len(sources):
        raise UserError("append: names one set twice")
    data = _dataset(sources, parts)
    every = class_names(replace(data, classes=None))
    present = {name for part in parts.values() for name in part.class_names}
    if unknown := sorted(present - set(every)):
        raise ArtefactError(f"append: {data.source} has no class {unknown[0]}, and so none of the order of its classes")
    ordered = [name for name in every if name in present]
    made = joining.joined(parts, ordered)
    kept = None if len(ordered) == len(every) else tuple(ordered)
    whole = replace(made, card=_card(parts, target, replace(data, classes=kept)))
    with locked(target, LOCK):
        _require_free(place)
        whole.save(place, fingerprint(whole))
    return whole


def _require_free(place: Folder) -> None:
    if place.exists():
        raise UserError(f"{place.uri}: is there already; choose another --to, or delete that folder")


def _dataset(sources: Sequence[Folder], parts: dict[str, SyntheticSet]) -> DataConfig:
    """What the first of the sets was distilled from, as its run's configuration or its own card says."""
    first = sources[0]
    if first.has(_CONFIG):
        return configs.parse(first.read(_CONFIG), f"{first.uri}/{_CONFIG}").data
    if (said := parts[first.uri].card.get("data")) is not None:
        return TypeAdapter(DataConfig).validate_python(said)
    raise ArtefactError(
        f"{first.uri}: neither a {_CONFIG} nor the set's card says which dataset it is from; name a run"
    )


def _card(parts: dict[str, SyntheticSet], target: Folder, data: DataConfig) -> dict[str, Any]:
    """The card of the first set, but for what the sets do not have in common; and where each class is from."""
    first, *others = (part.card for part in parts.values())
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    appended = [
        {
            "from": where,
            "run": part.card.get("run"),
            "method": part.card.get("method"),
            "seeds": part.card.get("seeds"),
            "classes": list(part.class_names),
            "num_images": len(part),
            "learned_lr": list(part.learned_lr),
        }
        for where, part in parts.items()
    ]
    own = {"run": target.uri.rstrip("/").rpartition("/")[2], "data": data.identity(), "versions": versions()}
    return {**common, **own, "appended": appended}
