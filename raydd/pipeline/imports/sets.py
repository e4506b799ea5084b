"""Taking over sets of other code, with a configuration that is ready to run; `experts_and_teachers.py` does the rest.

Everything is read and checked before anything is written.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData, prepare
from raydd.exchange.answers import Answers, ForeignKind, class_order
from raydd.exchange.formats import FORMATS, read
from raydd.exchange.legacy_recipes import LEGACY
from raydd.exchange.own_exports import OwnCard
from raydd.methods.imported import fingerprint
from raydd.pipeline.runs.run import versions
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder

CONFIG: Final = "import.yaml"
"""The configuration that an import leaves in the run's folder."""
SET: Final = "imported"
"""The folder of an imported set in the run's."""
CHAIN_EPOCHS: Final = 501
"""Epochs that PDD's students spend on each union of stages."""

_TAKEN: Final = ("name", "seed", "data", "network", "cluster")
"""What a run of an imported set takes over from the configuration that it is given, beside most of `evaluate`."""
_OF_THE_METHOD: Final = ("protocol", "labels", "modes", "budgets")
"""What of `evaluate` belongs to the method of that configuration."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is to be imported, and what the user says of it."""

    source: Path
    """A folder or a file."""
    format: str
    to: str
    """The run's folder."""
    config_file: str
    """What messages call the configuration."""
    values: Mapping[str, Any]
    """The configuration as plain data; `data` alone is enough for a set."""
    soft_labels: ForeignKind | None = None
    lr: float | None = None
    experiment: int | None = None
    factor: int | None = None
    class_order: str | None = None
    """See `answers.class_order`."""
    recipe: str | None = None
    """One of `LEGACY`."""

    def base(self, *parts: str) -> RunConfig:
        """Of the configuration the seed, the data and other parts, as a configuration."""
        names = ("seed", "data", *parts)
        return configs.from_mapping({name: self.values[name] for name in names if name in self.values})

    def order(self, data: PreparedData) -> tuple[str, ...] | None:
        """The dataset's classes in the order of what is imported, where that is said."""
        return None if self.class_order is None else class_order(self.class_order, data.class_names)


@dataclass(frozen=True)
class ImportOutcome:
    """What an import made."""

    config: RunConfig
    made: Folder | None
    """The folder of it; None where a file of the user's serves as it is."""
    facts: tuple[str, ...]
    """A few lines for the user."""


def import_set(wanted: Import) -> ImportOutcome:
    """Write a set as the artefact `imported` of the run, and the configuration that evaluates it.

    Raises:
        UserError: something is wrong or not answered; nothing was written.
    """
    folder, own = Folder.at(wanted.to) / SET, OwnCard.of(wanted.source)
    if own is not None:
        _require_form(wanted, own)
        wanted = replace(wanted, values={**wanted.values, "data": own.data_values(wanted.values["data"])})
    elif FORMATS[wanted.format].asks_space:
        _require_space(wanted)
    base = wanted.base()
    data = prepare(base.data, Key.root(base.seed))
    answers = Answers(
        soft_labels=wanted.soft_labels,
        lr=wanted.lr,
        experiment=wanted.experiment,
        factor=wanted.factor,
        class_order=wanted.order(data),
    )
    if own is not None:
        answers = own.answers(answers, data)
    found = read(wanted.format, wanted.source, data, answers)
    config = configs.from_mapping(_configuration(wanted, found, own))
    recipe = {"recipe": asdict(config.evaluate.recipe), "recipe_name": config.evaluate.recipe_name}
    card = {**found.card, **recipe, "versions": versions()}
    with left_whole(wanted.to, config, folder):
        replace(found, card=card).save(folder, fingerprint(found))
    return ImportOutcome(config, folder, _facts(found, config))


@contextmanager
def left_whole(to: str, config: RunConfig, made: Folder | None) -> Iterator[None]:
    """Write the configuration after what is made inside; on an error nothing of either is left.

    Raises:
        UserError: there is an import in the run's folder already, or something else under the name of what is made.
    """
    run = Folder.at(to)
    run.check_writable()
    if run.has(CONFIG):
        raise UserError(f"{run.uri}/{CONFIG}: is there already; choose another --to, or delete that folder")
    if made is not None and made.exists():
        raise UserError(f"{made.uri}: is there already; choose another --to, or delete that folder")
    try:
        yield
        run.write(CONFIG, configs.to_yaml(config).encode())
    except BaseException:
        if made is not None:
            made.delete_all()
        raise


def _configuration(wanted: Import, found: SyntheticSet, own: OwnCard | None) -> dict[str, Any]:
    """Of the run that evaluates a set, as plain data."""
    learned = found.learned_lr[-1] is not None
    name, recipe = _recipe(wanted, found, own)
    if recipe.get("lr", 0) is None and not learned:
        raise UserError(
            f"{wanted.source}: students of the recipe {name} take the step size that the set learned, and no file says "
            "it; add --lr, or a --recipe with a step size of its own (dc, dsa, dm, dc-bench), or evaluate.recipe.lr in "
            f"{wanted.config_file}"
        )
    given = wanted.values.get("evaluate") or {}
    evaluate = {name: value for name, value in given.items() if name not in _OF_THE_METHOD}
    sizes = [int((found.stage == stage).sum()) // found.num_classes for stage in found.stage.unique().tolist()]
    return {
        "name": wanted.source.absolute().name,
        **{name: wanted.values[name] for name in _TAKEN if name in wanted.values},
        "out": wanted.to,
        "method": {
            "name": "imported",
            "path": f"{wanted.to.rstrip('/')}/{SET}",
            "fingerprint": fingerprint(found),
            "images_per_class": sizes[0],
            "labels": "hard" if found.soft_labels is None else "stored",
            "learned_lr": learned,
            **({} if found.label_kind == "logits" else {"label_kind": found.label_kind}),
            **({} if found.formation is None else {"formation": asdict(found.formation)}),
        },
        "stages": _stages(sizes),
        "evaluate": {**evaluate, "recipe": recipe, "recipe_name": name},
    }


def _recipe(wanted: Import, found: SyntheticSet, own: OwnCard | None) -> tuple[str, Mapping[str, Any]]:
    """Name and fields of the students' recipe: asked for, or the configuration's, the export's, the format's."""
    given = wanted.values.get("evaluate") or {}
    if wanted.recipe is None and "recipe" in given:
        return given.get("recipe_name", "given"), given["recipe"]
    if wanted.recipe is None and own is not None and own.recipe is not None:
        return own.recipe
    name = wanted.recipe or FORMATS[wanted.format].recipe_name(found)
    return name, asdict(LEGACY[name])


def _require_form(wanted: Import, own: OwnCard) -> None:
    if own.format != wanted.format:
        raise UserError(f"{own.folder}: is an export of raydd as {own.format}; say --format {own.format}")


def _stages(sizes: list[int]) -> dict[str, Any]:
    """How a set of stages of so many images per class is gone through."""
    if len(sizes) == 1:
        return {}
    overrides = {number: {"images_per_class": size} for number, size in enumerate(sizes) if size != sizes[0]}
    return {"count": len(sizes), "conditioning": "none", "epochs": CHAIN_EPOCHS, "overrides": overrides}


def _require_space(wanted: Import) -> None:
    """See that the value space is named, and not left to a default."""
    data, missing = wanted.values["data"], []
    if "preprocess" not in data:
        missing.append("--preprocess none, standardise or zca")
    if data.get("preprocess", "standardise") == "standardise" and "statistics" not in data:
        missing.append("--statistics computed (the data's own) or literature (the papers' constants), of standardise")
    if missing:
        raise UserError(
            f"{wanted.source}: the files do not say in which space the images are; add {'; and '.join(missing)}, or "
            f"set them under data: in {wanted.config_file}"
        )


def _facts(found: SyntheticSet, config: RunConfig) -> tuple[str, ...]:
    rates = ", ".join("none" if lr is None else f"{lr:g}" for lr in found.learned_lr)
    decoded = "" if found.formation is None else f", each a mosaic of {found.formation.num_decoded(1)} training images"
    lines = [
        f"{len(found)} images of {found.num_classes} classes{decoded}, {found.labels_in_words}, "
        f"learned step size {rates}; recipe {config.evaluate.recipe_name}"
    ]
    for values in found.card["source"]["values"][-1:]:
        shown = {name: "[" + ", ".join(f"{value:.3g}" for value in values[name]) + "]" for name in values}
        lines.append(
            f"by channel: mean {shown['mean']}, deviation {shown['std']}; of the real images under data.preprocess "
            f"{config.data.preprocess} {shown['data_mean']}, {shown['data_std']}"
        )
    return tuple(lines)
