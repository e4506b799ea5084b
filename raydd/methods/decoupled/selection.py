"""Real images to start from, and mosaics of them.

Letters: N real images, M synthetic ones, Q cells of a mosaic, C H W.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.methods.base import Task
from raydd.methods.decoupled.family import RecoverConfig
from raydd.methods.decoupled.rows import Rows
from raydd.training.sampling import repeated


def initial_images(
    config: RecoverConfig, task: Task, rows: Rows, key: Key, disagreement_N: Tensor | None = None
) -> Tensor:
    """Where images start, float32 [M, C, H, W] in network space.

    Noise and single real images depend on class and rank alone, so that a smaller set starts as part of a larger one.

    Args:
        config: noise, or which real images.
        task: data, and a ranking if images start at ranked ones.
        rows: the images that are asked for.
        key: of noise and of random images.
        disagreement_N: a score of each real training image, by which they then come in place of `config.init`'s order,
            the highest first.

    Raises:
        ConfigError: a class has too few real images, or a mosaic does not fit them.
    """
    if config.init == "noise":
        return _noise(task.data.shape, rows, key)
    size = cell_size(task.data, config.mosaic, "method.mosaic")
    chosen_MQ = torch.empty(len(rows), config.mosaic**2, dtype=torch.int64)
    for label in rows.labels.unique().tolist():
        members = rows.labels == label
        best = _best(config, task, label, key, disagreement_N)
        chosen_MQ[members] = mosaic_rows(best, config.mosaic)[rows.ranks[members]]
    images = task.data.train.images[chosen_MQ.flatten()]
    if config.mosaic == 1:
        return images
    cells = resized(images, size)
    return grid(cells.view(*chosen_MQ.shape, *cells.shape[1:]))


def mosaic_rows(best: Tensor, side: int) -> Tensor:
    """Which of the best Q IPC things go into which mosaic: [IPC, Q], cell q of mosaic k takes number q IPC + k.

    (RDED's published code; DELT's mosaics are a plain grid of so many images.)
    """
    return best.view(side**2, -1).T


def grid(cells_MQCHW: Tensor) -> Tensor:
    """Mosaics [M, C, m H, m W] of Q = m^2 cells each, row by row."""
    side = round(cells_MQCHW.shape[1] ** 0.5)
    rows = cells_MQCHW.reshape(-1, side, side, *cells_MQCHW.shape[2:]).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)


def resized(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at another size, bilinear and antialiased, as torchvision resizes tensors."""
    return F.interpolate(images_BCHW, size, mode="bilinear", antialias=True)


def cell_size(data: PreparedData, side: int, field: str) -> tuple[int, int]:
    """Height and width of a cell of mosaics with so many cells a side.

    Raises:
        ConfigError: naming the field, where that does not divide the images.
    """
    _, height, width = data.shape
    if height % side or width % side:
        raise ConfigError(field, f"{side} does not divide images of {height}x{width}")
    return height // side, width // side


def random_rows(data: PreparedData, label: int, count: int, key: Key, field: str, repeat: bool = False) -> Tensor:
    """So many training images of a class, drawn without replacement: int64 [count].

    Raises:
        ConfigError: naming the field, where the class has fewer, and they are not to be repeated.
    """
    rows = _members(data, label, count, field, repeat)
    return repeated(rows[keyed_random.permutation(key.child("class", label), len(rows))], count)


def highest_rows(
    data: PreparedData, label: int, count: int, scores_N: Tensor, field: str, repeat: bool = False
) -> Tensor:
    """So many training images of a class, the highest score first, equal ones by their rows: int64 [count].

    Raises:
        ConfigError: naming the field, where the class has fewer, and they are not to be repeated.
    """
    rows = _members(data, label, count, field, repeat)
    return repeated(rows[scores_N[rows].argsort(descending=True, stable=True)], count)


def _members(data: PreparedData, label: int, count: int, field: str, repeat: bool) -> Tensor:
    """The training images of a class, int64; a ConfigError where there are fewer than `count` and none comes twice."""
    rows = (data.train.labels == label).nonzero().squeeze(1)
    if len(rows) < (1 if repeat else count):
        problem = f"takes {count} real images of a class, but {data.class_names[label]!r} has only {len(rows)}"
        raise ConfigError(field, f"{problem}; set method.repeat_images to true to take them more than once")
    return rows


def _best(config: RecoverConfig, task: Task, label: int, key: Key, disagreement_N: Tensor | None) -> Tensor:
    """The real images of a class for all its mosaics, int64 [Q IPC]."""
    count, key, repeat = config.mosaic**2 * config.images_per_class, key.child("real"), config.repeat_images
    if disagreement_N is not None:
        return highest_rows(task.data, label, count, disagreement_N, "method.images_per_class", repeat)
    if config.init in ("medium", "easy", "hard"):
        return task.require_ranking().first(label, count, config.init, key, repeat)
    return random_rows(task.data, label, count, key, "method.images_per_class", repeat)


def _noise(shape: tuple[int, int, int], rows: Rows, key: Key) -> Tensor:
    """Standard normal values."""
    channels, height, width = shape
    images = torch.empty(len(rows), channels * height * width)
    for rank in rows.ranks.unique().tolist():
        members = rows.ranks == rank
        images[members] = keyed_random.normal(key.child("noise", rank), rows.labels[members], images.shape[1])
    return images.view(-1, *shape)
