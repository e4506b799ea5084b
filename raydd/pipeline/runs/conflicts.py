"""What a run's folder holds already: nothing that is finished there is replaced by what another configuration makes."""

from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import Any

from raydd import config as configs
from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.ingredients.base import Ingredient
from raydd.pipeline.runs.run import CONFIG, SWEEPS, Run
from raydd.storage import Artefact, Folder
from raydd.storage.event_log import EVENTS, METRICS

_MAKES_NOT = (
    "experts.store",
    "experts.test_every",
    "experts.keep",
    "teacher.store",
    "method.path",
    "stages.store",
    "stages.keep_trajectories",
)


def require_apart(run: Run) -> None:
    """See that a new run does not lie inside another one, which would be checked, packed and deleted with it.

    Sweeps have runs of their own in a folder for them.

    Raises:
        ConfigError: it does.
    """
    if run.folder.has(CONFIG):
        return
    inside = [run.folder, *run.folder.above()]
    for inner, above in pairwise(inside):
        if _is_run(above) and (inner != above / SWEEPS or inner == run.folder):
            problem = f"{run.folder.uri} lies inside the run {above.uri}; choose a folder beside it"
            raise ConfigError("out", problem)


def _is_run(folder: Folder) -> bool:
    """Whether this is a run's folder, and not that of a sweep around a run, which looks the same."""
    is_of_sweep = any(inner == above / SWEEPS for inner, above in pairwise(islice(folder.above(), 2)))
    return not is_of_sweep and folder.has(CONFIG) and (folder / METRICS).has(EVENTS)


def require_same(run: Run, ingredients: Iterable[Ingredient[Any]]) -> None:
    """See that no finished artefact of a run's folder would have to be replaced by one of the run's ingredients.

    Raises:
        ConfigError: one would; names the first field that differs.
    """
    claimed = ((ingredient, claim) for ingredient in ingredients for claim in ingredient.claims())
    found = ((ingredient, claim, Artefact.find(claim.folder, claim.kind)) for ingredient, claim in claimed)
    others = [(one, claim.folder) for one, claim, there in found if there and there.manifest.key not in claim.keys]
    if others:
        (first, folder), *further = others
        raise _conflict(run, first.determined_by, folder, [folder.uri for _, folder in further])


def _conflict(run: Run, determined_by: Sequence[str], folder: Folder, further: list[str]) -> Exception:
    advice = "choose another --out, or delete that folder to make it anew"
    if further:
        advice += f"; and likewise {', '.join(further)}"
    unknown = ArtefactError(f"{folder.uri}: made by another configuration; {advice}")
    if not run.folder.has(CONFIG):
        return unknown
    try:
        before = configs.to_mapping(configs.parse(run.folder.read(CONFIG), CONFIG).located())
    except UserError:  # an earlier version's
        return unknown
    after = configs.to_mapping(run.config)
    for part in determined_by:
        found = configs.first_difference(_select(before, part), _select(after, part), part)
        if found:
            name, there, now = found
            return ConfigError(name, f"is {now}, but {folder.uri} was made with {there}; {advice}")
    return ArtefactError(f"{folder.uri}: made from other data files; {advice}")


def _select(values: dict[str, Any], path: str) -> Any:
    """One part of a plain config, without the fields that determine nothing."""
    selected: Any = values
    for name in path.split("."):
        selected = selected[name]
    dropped = {name.removeprefix(f"{path}.") for name in _MAKES_NOT}
    return {k: v for k, v in selected.items() if k not in dropped} if isinstance(selected, dict) else selected
