"""Stored things that are as they were written, and cannot be read all the same: edited, or another version's."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from safetensors import SafetensorError

from raydd.core.errors import ArtefactError, UserError

_FAILS = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError, AssertionError)


@contextmanager
def legible(where: str) -> Iterator[None]:
    """For a block that does nothing but read: what it cannot make sense of becomes an ArtefactError.

    Raises:
        ArtefactError: naming `where`, what was read. A UserError of the block passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except (*_FAILS, pa.ArrowException, SafetensorError) as error:
        said = (str(error).splitlines() or [""])[0]
        problem = f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
        raise ArtefactError(
            f"{where}: damaged or made by another version ({problem}); delete it and run again"
        ) from error
