"""Teachers whose classes lie in another order than the dataset's: their last layer in the dataset's order.

raydd takes a file of parameters as it is, by `teacher.weights`; which class an output means no such file says.

Letters: K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from raydd.core.errors import DataError

_HEADS = ("head", "fc")
"""The last layer under raydd's name and torchvision's."""


def reordered(
    state: Mapping[str, Tensor], class_order: tuple[str, ...], class_names: tuple[str, ...], where: str
) -> dict[str, Tensor]:
    """The parameters with the outputs in the order of the dataset.

    Args:
        state: by name.
        class_order: of the outputs in `state`.
        class_names: of the dataset, in its order.
        where: what messages call the file.

    Raises:
        DataError: there is no last layer, or it has another number of outputs.
    """
    head = next((name for name in _HEADS if f"{name}.weight" in state), None)
    if head is None:
        raise DataError(f"{where}: has no last layer {' or '.join(_HEADS)}; rename it")
    outputs = len(state[f"{head}.weight"])
    if outputs != len(class_names):
        raise DataError(f"{where}: {head}.weight: knows {outputs} classes, the dataset has {len(class_names)}")
    rows = torch.tensor([class_order.index(name) for name in class_names])
    parts = {f"{head}.{part}" for part in ("weight", "bias")}
    return {name: tensor[rows] if name in parts else tensor for name, tensor in state.items()}
