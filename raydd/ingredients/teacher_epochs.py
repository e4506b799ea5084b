"""What a teacher was after earlier epochs: which ones stages need, and how checkpoints keep them."""

from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]
"""Parameters and buffers by name."""


def teacher_epochs(epochs: int, stages: int) -> tuple[int, ...]:
    """After which epoch each of P stages has the teacher: ceil((i + 1) / P * epochs), the last one's being finished."""
    return tuple(-(-(stage + 1) * epochs // stages) for stage in range(stages))


def packed(early: Mapping[int, Weights]) -> dict[str, Tensor]:
    """What was kept after some epochs, under names that a checkpoint may have beside its own."""
    return {f"kept.{epoch}.{name}": tensor for epoch, weights in early.items() for name, tensor in weights.items()}


def unpacked(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, Weights]]:
    """A checkpoint's own state, and what was kept."""
    own: dict[str, Tensor] = {}
    early: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        if name.startswith("kept."):
            _, epoch, rest = name.split(".", 2)
            early.setdefault(int(epoch), {})[rest] = tensor
        else:
            own[name] = tensor
    return own, {**early}
