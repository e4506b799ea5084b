"""SGD and AdamW on one network or several stacked ones, their step sizes, and their state by flat names.

Letters: E networks side by side.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from raydd.core.distributed import all_reduce_sum

LrSchedule = Literal["constant", "step", "step_kept", "two_steps", "cosine", "half_cosine", "cosine_floor"]

BETAS: Final = (0.9, 0.999)
WARMUP_START: Final = 0.01
"""The share of the step size that a warm-up begins with."""
FLOOR: Final = 0.01
"""What cosine_floor ends at."""
FIFTH: Final = 0.2
"""What each step of two_steps multiplies by."""
_NAMES: Final = {"momentum_buffer": "momentum"}
"""What snapshots call a slot, where torch's name is another."""


class _Uncompiled(Optimizer):
    """Without what torch wraps these methods in, which imports its compiler (seconds) in order not to be compiled."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class SGD(_Uncompiled, optim.SGD):
    """Torch's, in a process that need not import its compiler."""

    step = torch.no_grad()(inspect.unwrap(optim.SGD.step))


class AdamW(_Uncompiled, optim.AdamW):
    """Torch's, in a process that need not import its compiler."""

    step = torch.no_grad()(inspect.unwrap(optim.AdamW.step))


def build(
    name: Literal["sgd", "adamw"],
    parameters: Sequence[nn.Parameter],
    lr: float,
    momentum: float,
    weight_decay: float,
    stacked: bool,
    decays_all: bool = False,
) -> Optimizer:
    """The optimiser of these parameters.

    Args:
        name: sgd decays all parameters; adamw (Loshchilov and Hutter 2019) spares biases and norms, as the papers of
            the decoupled family train their students.
        parameters: of one network, or stacked.
        lr: the step size.
        momentum: of sgd.
        weight_decay: relative to the step size.
        stacked: whether the parameters have a first dimension E.
        decays_all: whether adamw spares none.
    """
    if name == "sgd":
        return SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    decays = [decays_all or parameter.ndim - stacked > 1 for parameter in parameters]
    groups = [
        {"params": [p for p, own in zip(parameters, decays, strict=True) if own is chosen], "weight_decay": decay}
        for chosen, decay in ((True, weight_decay), (False, 0.0))
    ]
    return AdamW(groups, lr=lr, betas=BETAS, fused=False)


def lr_factor(schedule: LrSchedule, epoch: int, epochs: int, warmup_epochs: int, decay_epoch: int) -> float:
    """What the step size is multiplied by in an epoch.

    A warm-up of W epochs goes through 0.01 + 0.99 e / W, as torchvision's reference does; the E epochs after it,
    counted from 0, through (1 + cos(pi e / E)) / 2 under cosine (SRe2L, CDA), (1 + cos(pi e / 2E)) / 2 under
    half_cosine, which ends at a half (RDED, DELT), and a fifth from floor(2E / 3) and again from floor(5E / 6) on under
    two_steps (IDC). cosine_floor has e / W in the warm-up and 0.01 + 0.99 (1 + cos(pi e / E)) / 2 after it (FRePo).

    Args:
        schedule: by name; constant is 1.
        epoch: counted from 0.
        epochs: of the whole training, W + E.
        warmup_epochs: W.
        decay_epoch: the first of those at a tenth under step and step_kept.
    """
    if epoch < warmup_epochs:
        start = 0.0 if schedule == "cosine_floor" else WARMUP_START
        return start + (1 - start) * epoch / warmup_epochs
    done, whole = epoch - warmup_epochs, epochs - warmup_epochs
    angle = math.pi * done / whole
    match schedule:
        case "constant":
            return 1.0
        case "step" | "step_kept":
            return 1.0 if epoch < decay_epoch else 0.1
        case "two_steps":
            return FIFTH ** sum(done >= whole * sixths // 6 for sixths in (4, 5))
        case "cosine":
            return (1 + math.cos(angle)) / 2
        case "half_cosine":
            return (1 + math.cos(angle / 2)) / 2
        case "cosine_floor":
            return FLOOR + (1 - FLOOR) * (1 + math.cos(angle)) / 2


def slots(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """What the optimiser remembers, by `slot.number of the parameter`; scalars are shared by stacked networks."""
    return {
        f"{_NAMES.get(slot, slot)}.{number}": value
        for number, parameter in enumerate(parameters)
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_slots(optimizer: Optimizer, parameters: Iterable[nn.Parameter], found: Mapping[str, Tensor]) -> None:
    """Take over what `slots` returned, each with a first dimension E in front, and forget the rest."""
    torch_names = {name: slot for slot, name in _NAMES.items()}
    numbered = list(parameters)
    optimizer.state.clear()
    for key, value_E in found.items():
        name, _, number = key.rpartition(".")
        parameter = numbered[int(number)]
        loaded = value_E[0].cpu() if value_E.ndim == 1 else value_E.to(parameter.device).view_as(parameter)
        optimizer.state[parameter][torch_names.get(name, name)] = loaded


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all workers, in one exchange."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
