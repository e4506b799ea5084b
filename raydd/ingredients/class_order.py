"""Whether the outputs of a network that others trained are the classes of a dataset, in its order: no file says so.

Letters: N images, K classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from torch import Tensor

from raydd.core.errors import ConfigError, DataError
from raydd.data.prepared import PreparedData
from raydd.networks import Network
from raydd.training.loop import predict

PER_CLASS: Final = 10
"""Images of a class, on average, by which its output is found; where the test split has fewer, training images help."""
_BY_CHANCE: Final = 1e-3
"""A network that guesses is right as often as what passes once in so many times."""
_CLEAR, _LIKELY = 3.0, 1.0
"""Standard deviations."""
_HEAD, _BIAS = "head.weight", "head.bias"
_MOST_NAMED: Final = 5
_MOST_LISTED: Final = 100


_Circle = tuple[tuple[int, int], ...]
"""Classes and the outputs that are theirs, which are the same ones."""


def require_known_classes(module: Network, data: PreparedData, where: str) -> None:
    """See that a network knows the classes of a dataset, each by its own output.

    Raises:
        ConfigError: `teacher.weights`, where it classifies as a guess would; `teacher.class_order`, where its outputs
            are clearly those of other classes; says which.
    """
    predicted, labels = _classified(module, data)
    names = data.class_names
    outputs = outputs_of(predicted, labels, len(names))
    if moved_in_words(outputs, names):
        raise ConfigError("teacher.class_order", _another_order(outputs, names, where))
    correct, count = int((predicted == labels).sum()), len(labels)
    commonest = float(labels.bincount().max()) / count
    if binom.sf(correct - 1, count, commonest) > _BY_CHANCE and commonest**count <= _BY_CHANCE:
        raise ConfigError(
            "teacher.weights",
            f"{where} classifies {correct / count:.1%} of {count:,} images, which is guessing: data.preprocess, "
            "data.statistics, the classes or the network are not those under which it was trained",
        )


def outputs_of(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> list[int]:
    """The output that each class is known by; its own, unless another is clearly it.

    Another one has to be it in a whole circle of classes that have exchanged their outputs: where the assignment that
    is best for one half of the images has it, it must, on the other half, be right twice as often as the identity and
    three standard deviations above it; both ways count together. Where one circle is found, the order is another, and
    the others need only be one deviation above.

    Args:
        predicted_N: int64 [N], the outputs that are largest.
        labels_N: int64 [N].
        num_classes: K.
    """
    order = torch.argsort(labels_N, stable=True)
    halves = [_confusion(predicted_N[rows], labels_N[rows], num_classes) for rows in (order[::2], order[1::2])]
    right, identity = Counter[_Circle](), Counter[_Circle]()
    for half, other in (halves, reversed(halves)):
        _, best = linear_sum_assignment(half, maximize=True)
        for circle in _circles(best.tolist()):
            right[circle] += sum(int(other[k, output]) for k, output in circle)
            identity[circle] += sum(int(other[k, k]) for k, _ in circle)
    deviations = {one: (right[one] - identity[one]) / max(1.0, (right[one] + identity[one]) ** 0.5) for one in right}
    outputs = list(range(num_classes))
    if any(deviations[one] > _CLEAR and right[one] > 2 * identity[one] for one in right):
        for circle in sorted(deviations, key=lambda one: -deviations[one]):
            if deviations[circle] > _LIKELY and all(outputs[k] == k for k, _ in circle):
                for k, output in circle:
                    outputs[k] = output
    return outputs


def reordered(
    state: Mapping[str, Tensor], class_order: Sequence[str], class_names: Sequence[str], where: str
) -> dict[str, Tensor]:
    """Parameters with the outputs in the order of the dataset.

    Args:
        state: under raydd's names.
        class_order: of the outputs in `state`.
        class_names: of the dataset, in its order.
        where: what messages call the file.

    Raises:
        ConfigError: the order does not have just the dataset's classes.
        DataError: there is no last layer, or it has another number of outputs.
    """
    if sorted(class_order) != sorted(class_names):
        odd = sorted({*class_order} ^ {*class_names})[:_MOST_NAMED] or ["a name twice"]
        raise ConfigError(
            "teacher.class_order", f"must have each class of the dataset once, in another order; look at {odd}"
        )
    if _HEAD not in state:
        raise DataError(f"{where}: has no last layer of a name that is known; rename it to {_HEAD}")
    if len(state[_HEAD]) != len(class_names):
        raise DataError(f"{where}: knows {len(state[_HEAD])} classes, the dataset has {len(class_names)}")
    rows = torch.tensor([class_order.index(name) for name in class_names])
    return {name: tensor[rows] if name in (_HEAD, _BIAS) else tensor for name, tensor in state.items()}


def _classified(module: Network, data: PreparedData) -> tuple[Tensor, Tensor]:
    """What a network takes the test images for, int64 [N], and what they are; training images too, if these are few."""
    predicted, labels = [predict(module, data.test.images).argmax(1)], [data.test.labels]
    wanted = PER_CLASS * data.num_classes - len(data.test)
    if wanted > 0:
        count = min(wanted, len(data.train))
        rows = torch.arange(count) * len(data.train) // count
        predicted.append(predict(module, data.train.images[rows]).argmax(1))
        labels.append(data.train.labels[rows])
    return torch.cat(predicted), torch.cat(labels)


def _confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Int64 [K, K]: how many images of each class were taken for each."""
    counts = (labels * num_classes + predicted).bincount(minlength=num_classes**2)
    return counts.view(num_classes, num_classes).numpy()


def _circles(permutation: Sequence[int]) -> Iterator[_Circle]:
    """The circles of a permutation that are longer than one."""
    seen: set[int] = set()
    for start in range(len(permutation)):
        circle, k = [], start
        while k not in seen:
            seen.add(k)
            circle.append((k, permutation[k]))
            k = permutation[k]
        if len(circle) > 1:
            yield tuple(circle)


def moved_in_words(outputs: Sequence[int], names: Sequence[str]) -> str:
    """The first classes that have other outputs than their own, as `cat→dog`; empty where none has.

    Args:
        outputs: as `outputs_of` finds them.
        names: of the classes.
    """
    moved = [f"{names[k]}→{names[output]}" for k, output in enumerate(outputs) if k != output]
    return ", ".join(moved[:_MOST_NAMED]) + f" and {len(moved) - _MOST_NAMED} more" * (len(moved) > _MOST_NAMED)


def _another_order(outputs: Sequence[int], names: Sequence[str], where: str) -> str:
    shown = moved_in_words(outputs, names)
    order = [name for _, name in sorted(zip(outputs, names, strict=True))]
    listed = " ".join(order) if len(order) <= _MOST_LISTED else "the class names in the order of its outputs"
    return (
        f"{where} looks like another class order: images of the first are classified as the second, {shown}; say in "
        f"which order its outputs are, such as --teacher.class-order {listed}"
    )
