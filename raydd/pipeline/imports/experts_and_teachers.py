"""Taking over expert trajectories and teachers of other code; see `sets.py`."""

from dataclasses import replace
from typing import Any

import torch

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.core.keyed_random import Key
from raydd.data.prepared import prepare
from raydd.exchange.replay_buffers import (
    buffer_files,
    fill,
    length,
    require_knowledge,
    trajectories,
)
from raydd.ingredients.class_order import require_known_classes
from raydd.ingredients.experts import trajectory_card
from raydd.ingredients.teacher import from_weights
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.pipeline.imports.sets import Import, ImportOutcome, left_whole
from raydd.storage import Folder, content_key


def import_experts(wanted: Import) -> ImportOutcome:
    """Write trajectories as the run's own store, under the key of the configuration that reads them.

    Raises:
        UserError: something is wrong or not answered; nothing was written.
    """
    _require_training(wanted)
    base = wanted.base("network")
    data, files = prepare(base.data, Key.root(base.seed)), buffer_files(wanted.source)
    count, epochs = length(files, trajectory_card(base.experts, base.network, data, base.seed))
    config = configs.from_mapping({**wanted.values, "out": wanted.to, "experts": _experts(wanted, count, epochs)})
    card = trajectory_card(config.experts, config.network, data, config.experts_seed)
    key, last = content_key(card.identity()), next(trajectories(files[0], card))[-1]
    found = require_knowledge(last, config.network, data, f"{files[0]}: trajectory 0 at its end")
    store = TrajectoryStore(_store_folder(config, key), card)
    with left_whole(wanted.to, config, store.folder):
        fill(store, files, key)
    facts = (
        f"{count} trajectories of {epochs} epochs; the first ends with {found:.1%} of a part of the test images",
        f"taken at the configuration's word: experts.training is how they were trained, key {key}",
    )
    return ImportOutcome(config, store.folder, facts)


def import_teacher(wanted: Import) -> ImportOutcome:
    """See that a file of parameters is a teacher for the data, and name it in a configuration.

    Raises:
        UserError: something is wrong or not answered; nothing was written.
    """
    config = configs.from_mapping({**wanted.values, "out": wanted.to})
    data = prepare(config.data, Key.root(config.seed))
    order = wanted.order(data)
    if order is None:
        raise UserError(
            f"{wanted.source}: the file does not say which class an output is; add --class-order data, if they have "
            f"the order of {data.name} ({', '.join(data.class_names[:3])}, ...), or the class names in their order"
        )
    other_order = None if order == data.class_names else order
    config = replace(config, teacher=replace(config.teacher, weights=str(wanted.source), class_order=other_order))
    with left_whole(wanted.to, config, None):
        teacher = from_weights(config.teacher, config.teacher_network, data, torch.device("cpu"))
        require_known_classes(teacher.module, data, str(wanted.source))
    known = f"the teacher classifies {teacher.card.test_accuracy:.1%} of {len(data.test)} test images"
    return ImportOutcome(config, None, (known,))


def _require_training(wanted: Import) -> None:
    if "training" not in (wanted.values.get("experts") or {}):
        raise UserError(
            f"{wanted.source}: the files do not say how the experts were trained; give in {wanted.config_file} "
            "experts.training (lr, batch_size, augmentation, and gsam_rho and gsam_alpha of FTD and DATM), network, "
            "and the method that is to follow them"
        )


def _experts(wanted: Import, count: int, epochs: int) -> dict[str, Any]:
    """The section of the configuration, with what the files say; it must not say otherwise."""
    said = wanted.values["experts"]
    if said.get("count", count) > count:
        raise UserError(f"experts.count: is {said['count']}, but {wanted.source} has {count} trajectories; lower it")
    if said["training"].get("epochs", epochs) != epochs:
        raise UserError(
            f"experts.training.epochs: is {said['training']['epochs']}, but the trajectories in {wanted.source} have "
            f"{epochs}; set it to that"
        )
    return {**said, "count": said.get("count", count), "training": {**said["training"], "epochs": epochs}}


def _store_folder(config: RunConfig, key: str) -> Folder:
    store = config.experts.store
    return Folder.at(config.out) / "experts" if store is None else Folder.at(store) / key
