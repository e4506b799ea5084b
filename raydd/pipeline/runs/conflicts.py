"""What a run's folder holds already: nothing that is finished there is replaced by what another configuration makes."""

from typing import Any

from raydd import config as configs
from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.ingredients.ranking import KIND as RANKING
from raydd.ingredients.teacher import KIND as TEACHER
from raydd.ingredients.trajectories import KIND as EXPERTS
from raydd.pipeline.runs.run import CONFIG, Run
from raydd.sets.synthetic import KIND as SYNTHETIC
from raydd.storage import Artefact, Folder

_MAKES = {
    EXPERTS: ("data", "network", "experts.training", "experts.seed", "seed"),
    TEACHER: ("data", "network", "teacher", "seed"),
    RANKING: ("data", "network", "teacher", "seed"),
    SYNTHETIC: ("data", "network", "experts", "teacher", "method", "stages", "evaluate.recipe", "seed"),
}
"""The parts of a config that determine an artefact of the run folder."""
_DATA = ("data", "network", "method", "seed")
"""Those that may determine an ingredient of a method's own."""
_MAKES_NOT = (
    "experts.store",
    "experts.test_every",
    "experts.keep",
    "teacher.store",
    "method.path",
    "stages.store",
    "stages.keep_trajectories",
)


def require_same(run: Run) -> None:
    """See that no finished artefact of a run's folder would have to be replaced.

    Raises:
        ConfigError: one would; names the first field that differs.
    """
    found = ((kind, folder, keys, Artefact.find(folder, kind)) for kind, folder, keys in _made(run))
    others = [(kind, folder) for kind, folder, keys, there in found if there and there.manifest.key not in keys]
    if others:
        raise _conflict(run, *others[0], [folder.uri for _, folder in others[1:]])


def _made(run: Run) -> list[tuple[str, Folder, set[str]]]:
    """The kinds and folders of what the run makes in its own folder, with the keys that may stand there."""
    made = [(SYNTHETIC, stage.folder / name, {stage.key}) for stage in run.stages for name in run.sets]
    unions = {stage.union_key for stage in run.stages}
    made += [(SYNTHETIC, folder, unions) for folder in (run.synthetic, run.average)]
    firsts = [first for first in run.made_first.values() if first.kind != EXPERTS or run.config.experts.store is None]
    return [(first.kind, first.folder, {first.key()}) for first in firsts] + made


def _conflict(run: Run, kind: str, folder: Folder, further: list[str]) -> Exception:
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
    for part in _MAKES.get(kind, _DATA):
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
