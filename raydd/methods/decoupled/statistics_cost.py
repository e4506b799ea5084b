"""What it takes to know the statistics of the real data by class, and the barycentres of its features.

Letters: K classes, N real images, n of a class, C channels, F features.
"""

from collections.abc import Callable
from typing import Final

import torch

from raydd.ingredients.barycentre import nearest_plan, squared_distances
from raydd.ingredients.cost import IngredientCost
from raydd.ingredients.statistics import PIECE
from raydd.methods.cost import CostSetting
from raydd.training.cost import TENSOR_HEADER_BYTES, WorkSample, norm_channels, num_features, shown

FILE_BYTES: Final = 250
"""Of a file of tensors: its header, and its place in the manifest."""
CARD_BYTES: Final = 1_200
"""Card and manifest, beside what grows with classes and layers."""
MANIFEST_BYTES: Final = 500
"""Of barycentres, without their files' places."""
BARYCENTRE_BYTES: Final = 400
"""Of a class's barycentre, beside atoms and masses: its file's header, and its place in the manifest."""
CLASS_BYTES: Final = 30
"""Of a class in the card: its name and its number of images."""
ROUNDS: Final = 20
"""Of transport and new atoms, as many as classes take in the middle (measured 8 to 40)."""


def statistics_cost(setting: CostSetting, features: bool) -> IngredientCost:
    """A pass of the teacher over the training images, and float64 sums of all batch norms by class."""
    facts, network = setting.facts, setting.teacher_network
    one, channels = shown(network, facts, facts.num_train), norm_channels(network, facts)
    sums = 24 * sum(channels) + TENSOR_HEADER_BYTES * len(channels)
    kept = 4 * facts.num_train * num_features(network, facts) + FILE_BYTES * facts.num_classes if features else 0
    pieces = max(facts.num_classes, facts.num_train // PIECE)
    return IngredientCost(
        makes="training images measured",
        units=facts.num_train,
        flops=one.flops,
        pieces=pieces,
        disk_bytes=(facts.num_classes + 1) * 24 * sum(channels)
        + 3 * TENSOR_HEADER_BYTES * len(channels)
        + CLASS_BYTES * facts.num_classes
        + kept
        + CARD_BYTES,
        working_disk_bytes=pieces * (sums + FILE_BYTES) + kept,
        tensor_bytes=one.tensor_bytes,
        memory_bytes=setting.data_bytes + one.memory_bytes,
    )


def barycentres_cost(setting: CostSetting, atoms: int) -> IngredientCost:
    """Distances between atoms and images and the means of what they take, without the simplex between them."""
    facts, size = setting.facts, num_features(setting.teacher_network, setting.facts)
    of_class = max(1, facts.num_train // facts.num_classes)
    stored = facts.num_classes * (atoms * (4 * size + 8) + BARYCENTRE_BYTES)

    def flops(rows: int) -> int:
        return 5 * rows * atoms * size

    def make(rows: int, device: torch.device) -> Callable[[], object]:
        points_NF = torch.randn(rows, size, dtype=torch.float64)
        atoms_KF = points_NF[torch.arange(atoms) % rows].clone()
        return lambda: nearest_plan(squared_distances(atoms_KF, points_NF)) @ points_NF

    return IngredientCost(
        makes="barycentres of classes",
        units=facts.num_classes,
        flops=ROUNDS * facts.num_classes * flops(of_class),
        pieces=facts.num_classes,
        disk_bytes=stored + MANIFEST_BYTES,
        working_disk_bytes=stored,
        memory_bytes=setting.data_bytes + 8 * (3 * of_class * size + 6 * of_class * atoms),
        sample=WorkSample(make=make, most=of_class, flops=flops),
    )
