"""What the machine can do at most: the rates that a bench's own are held against."""

from dataclasses import dataclass

import torch

from raydd.bench.timing import seconds

MATRIX_SIDE = 1536
COPIED_BYTES = 2**28
TRIES = 5


@dataclass(frozen=True)
class Ceilings:
    """Measured rates with as many threads as torch has here; the best of some tries."""

    flops_per_second: float
    """Of a product of float32 matrices, a multiply-add as two."""
    bytes_per_second: float
    """Of copying memory too large for any cache; read and written bytes both count."""


def measure_ceilings(device: torch.device) -> Ceilings:
    """Measure both on a device; takes about a second."""
    matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE, device=device)
    product, source = torch.empty_like(matrix), torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)

    def multiply() -> None:
        torch.mm(matrix, matrix, out=product)
        _finish(device)

    def copy() -> None:
        target.copy_(source)
        _finish(device)

    return Ceilings(
        flops_per_second=2 * MATRIX_SIDE**3 / min(seconds(multiply) for _ in range(TRIES)),
        bytes_per_second=2 * COPIED_BYTES / min(seconds(copy) for _ in range(TRIES)),
    )


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
