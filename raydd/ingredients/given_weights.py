"""A file of a teacher's parameters that others made: what `teacher.weights` and `teacher.class_order` name."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from raydd import networks
from raydd.ingredients.class_order import reordered
from raydd.storage import weight_files

_FIELD: Final = "teacher.weights"


def identity(weights: str, class_order: Sequence[str] | None) -> dict[str, Any]:
    """What determines the teacher, for content keys.

    Raises:
        ConfigError: there is no such file.
    """
    order = {} if class_order is None else {"class_order": list(class_order)}
    return {"weights": hashlib.sha256(weight_files.read(weights, _FIELD)).hexdigest(), **order}


def parameters(weights: str, class_order: Sequence[str] | None, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Parameters and buffers under raydd's names, the outputs in the order of the dataset's classes.

    Raises:
        ConfigError: there is no such file, or the order is not of the dataset's classes.
        ArtefactError: the file holds no parameters.
    """
    state = networks.named_as_here(weight_files.parameters(weight_files.read(weights, _FIELD), weights))
    return state if class_order is None else reordered(state, class_order, class_names, weights)
