"""Expert trajectories that MTT, FTD, TESLA and DATM leave behind: `replay_buffer_*.pt`.

A file is a list of trajectories, a trajectory a list of epochs from 0, the initialisation, on, and an epoch the list of
the network's parameters in the order of `module.parameters()`, without buffers. Their code keeps snapshots by
`p.detach().cpu()`: on a machine without a GPU that is no copy, and all epochs are the last one. Such files are refused.

Letters: P flat parameters.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from raydd import networks
from raydd.core.errors import ConfigError, DataError
from raydd.data.prepared import PreparedData
from raydd.exchange.tensor_files import load_pt
from raydd.ingredients.class_order import moved_in_words, outputs_of
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.ingredients.trajectory_card import TrajectoryCard
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.training.loop import accuracy, predict

_CHECKED: Final = 1024
"""Test images that the first expert classifies, to see that it belongs to the data."""


def buffer_files(source: Path) -> list[Path]:
    """The file, or those of a folder by their numbers.

    Raises:
        DataError: there are none.
    """
    if source.is_file():
        return [source]
    found = [(int(match[1]), file) for file in source.glob("*.pt") if (match := _NAME.fullmatch(file.name))]
    if not found:
        raise DataError(f"{source}: there is no replay_buffer_0.pt, ..., nor is it such a file")
    return [file for _, file in sorted(found)]


_NAME: Final = re.compile(r"replay_buffer_(\d+)\.pt")


def trajectories(file: Path, card: TrajectoryCard) -> Iterator[list[Tensor]]:
    """Each trajectory of a file as the parameters float32 [P] of its epochs.

    Raises:
        DataError: the file is not what it should be, or its network not the card's; names trajectory, epoch and tensor.
    """
    content = load_pt(file)
    if not isinstance(content, list | tuple) or not content:
        raise DataError(f"{file}: is not a list of trajectories")
    for number, epochs in enumerate(content):
        where = f"{file}: trajectory {number}"
        if not isinstance(epochs, list | tuple) or len(epochs) < 2:
            raise DataError(f"{where}: is not a list of at least two epochs")
        flat = [_flat(params, card, f"{where}, epoch {epoch}") for epoch, params in enumerate(epochs)]
        _require_progress(flat, where)
        yield flat


def length(files: list[Path], card: TrajectoryCard) -> tuple[int, int]:
    """How many trajectories there are and the epochs of each, all files checked.

    Raises:
        DataError: see `trajectories`; or they differ in length.
    """
    lengths = [len(flat) - 1 for file in files for flat in trajectories(file, card)]
    if len(set(lengths)) > 1:
        raise DataError(f"{files[0]}: trajectories have from {min(lengths)} to {max(lengths)} epochs, not all the same")
    return len(lengths), lengths[0]


def fill(store: TrajectoryStore, files: list[Path], key: str) -> None:
    """Write all trajectories into a store and publish it; on an error its folder is left empty."""
    try:
        number = 0
        for file in files:
            for flat in trajectories(file, store.card):
                store.write(number, (Snapshot(epoch, params) for epoch, params in enumerate(flat)))
                number += 1
        store.publish(key)
    except BaseException:
        store.folder.delete_all()
        raise


def require_knowledge(params_P: Tensor, network: NetworkConfig, data: PreparedData, where: str) -> float:
    """The test accuracy of an expert at its end, on a part of the images.

    Raises:
        ConfigError: it is no better than chance, as under another preprocessing or network of this shape, or its
            outputs are clearly those of other classes; says which.
    """
    module = networks.build(network, data.shape, data.num_classes)
    module.load_state_dict(FlatNetwork(module).unflatten(params_P), strict=False)
    rows = torch.linspace(0, len(data.test) - 1, min(_CHECKED, len(data.test))).long()
    logits, labels = predict(module, data.test.images[rows]), data.test.labels[rows]
    if moved := moved_in_words(outputs_of(logits.argmax(1), labels, data.num_classes), data.class_names):
        raise ConfigError(
            "data.classes",
            f"{where} looks like another class order: images of the first are classified as the second, {moved}; give "
            "a dataset whose classes have the order of the experts'",
        )
    found = accuracy(logits, labels)
    require_better_than_chance(found, data.num_classes, len(rows), where)
    return found


def require_better_than_chance(found: float, num_classes: int, count: int, where: str) -> None:
    """Raise ConfigError where an accuracy on so many images is within three deviations of guessing."""
    chance = 1 / num_classes
    if found <= chance + 3 * math.sqrt(chance * (1 - chance) / count):
        raise ConfigError(
            "data.preprocess",
            f"{where} classifies {found:.1%} of {count} test images, which is guessing: data.preprocess, "
            "data.statistics, the order of the classes or the network are not those under which it was trained",
        )


def _flat(params: Any, card: TrajectoryCard, where: str) -> Tensor:
    if not isinstance(params, list | tuple) or not all(isinstance(part, Tensor) for part in params):
        raise DataError(f"{where}: is not a list of parameter tensors")
    shapes = [tuple(part.shape) for part in params]
    wanted = [shape for _, shape in card.parameters]
    if shapes != wanted:
        if len(shapes) != len(wanted):
            problem = f"has {len(shapes)} parameter tensors, {card.network} has {len(wanted)}"
        else:
            place = next(place for place, (a, b) in enumerate(zip(shapes, wanted, strict=True)) if a != b)
            name = card.parameters[place][0]
            problem = f"{name} is {list(shapes[place])}, in {card.network} {list(wanted[place])}"
        raise DataError(f"{where}: {problem}; correct `network` or `data` in the configuration")
    flat = torch.cat([part.detach().float().flatten() for part in params])
    if not bool(flat.isfinite().all()):
        raise DataError(f"{where}: parameters are not all finite; leave this file out")
    return flat


def _require_progress(epochs: list[Tensor], where: str) -> None:
    same = [number for number, (a, b) in enumerate(zip(epochs, epochs[1:], strict=False)) if torch.equal(a, b)]
    if len(same) == len(epochs) - 1:
        raise DataError(
            f"{where}: all {len(epochs)} epochs have the same parameters: they were kept without a copy, so that each "
            "is the last one (as the published code does on a machine without a GPU); the earlier ones are lost: train "
            "the experts again"
        )
    if same:
        raise DataError(f"{where}: epochs {same[0]} and {same[0] + 1} have the same parameters, one of them is lost")
