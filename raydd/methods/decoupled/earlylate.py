"""EarlyLate: the images of a class join the optimisation in parts, the first for all iterations, the last for a round.

Source: DELT (Shen, Sherif, Yin and Shao, https://arxiv.org/abs/2411.19946, section 3, and its published code). In units
of image-iterations (one image in one iteration) this costs RI sum_j n_j (M - j) a class, against IPC MI for as many
images that all take part all the time: (M - 1) / (2 M) less where the M parts are equal.

Letters: IPC images per class, MI iterations in all, RI iterations of a round, M = MI / RI parts.
"""

import torch
from torch import Tensor


def part_sizes(images_per_class: int, parts: int) -> tuple[int, ...]:
    """How many images of a class each part has: IPC // M, and one more in the first IPC % M.

    Only as many parts as there are images.
    """
    parts = min(parts, images_per_class)
    size, larger = divmod(images_per_class, parts)
    return tuple(size + (part < larger) for part in range(parts))


def starts(images_per_class: int, iterations: int, round_iterations: int) -> Tensor:
    """The iteration at which each image of a class joins, by rank: int64 [IPC], j RI for those of part j."""
    sizes = part_sizes(images_per_class, iterations // round_iterations)
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) * round_iterations


def image_iterations(images_per_class: int, iterations: int, round_iterations: int) -> int:
    """S = RI sum_j n_j (M - j): what the images of one class take together."""
    parts = iterations // round_iterations
    sizes = part_sizes(images_per_class, parts)
    return round_iterations * sum(size * (parts - part) for part, size in enumerate(sizes))


def saving(done: int, uniform: int) -> float:
    """The part of the uniform image-iterations that was not needed, 1 - S / U; 0 where there are none."""
    return 1 - done / uniform if uniform else 0.0
