"""Whether and how the functions that take most of the time are compiled."""

import logging
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

Options = dict[str, str | int | bool | Callable[..., Any]]
CompileSetting = Literal["auto", "on", "off"]

COMPILE_SECONDS = 30.0
"""What compiling costs where no earlier process left its result in torch's cache (measured 15 to 35 on one core)."""
SAVED_FRACTION = 0.3
"""Of the uncompiled time, what a compiled step of training saves (measured 0.3 to 0.4 on a CPU)."""
FLOPS_PER_SECOND = {"cpu": 4e10, "cuda": 5e12}
"""What an uncompiled step of a small network reaches: on a CPU with one thread, on a GPU."""
MOST_COMPILED = 64
"""Shapes and networks that one process compiles a function for."""

_log = logging.getLogger(__name__)


def chosen(
    setting: CompileSetting, flops: float, device: torch.device, threads: int, saved: float = SAVED_FRACTION
) -> bool:
    """Whether to compile.

    Under `auto` the answer follows from the size of the work and not from a clock, so that a run which is resumed goes
    on as it began: compiled where ten times the price of compiling is saved.

    Args:
        setting: on, off, or auto.
        flops: of all the work that one compiled function does.
        device: where it runs.
        threads: on a CPU.
        saved: the fraction of the uncompiled time that compiling saves.
    """
    if setting != "auto":
        return setting == "on"
    rate = FLOPS_PER_SECOND[device.type] * (threads if device.type == "cpu" else 1)
    return saved * flops / rate > 10 * COMPILE_SECONDS


def compiled(function: Callable[P, R], options: Options | None = None) -> Callable[P, R]:
    """The function compiled, anew for every shape and architecture; itself, after one message, where that fails.

    Modules may be arguments: those of one architecture share what was compiled for the first of them.

    Args:
        function: to compile.
        options: of torch's inductor.
    """
    from torch._dynamo import config  # here, because importing it takes seconds
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which misses CUDA on every machine
    config.recompile_limit = max(MOST_COMPILED, config.recompile_limit)
    chosen: Callable[P, R] = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal chosen
        try:
            return chosen(*args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            first_line = str(error).strip().partition("\n")[0]
            _log.warning("cannot compile here, so this goes on uncompiled (cluster.compile: off): %s", first_line)
            chosen = function
            return function(*args, **kwargs)

    return call
