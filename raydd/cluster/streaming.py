"""Images that Ray Data decodes: tasks all over the cluster read files and hand on pixels.

Letters: B batch, C H W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from torch import Tensor

from raydd.cluster.runtime import silent
from raydd.core.errors import RunError
from raydd.data import Undecoded, streamed_images
from raydd.data.streamed_images import DecodedBlocks

BLOCK = 256
"""Images that a task decodes."""
TASKS = 16
"""Tasks that decode at once for one reader, at most."""

Columns = Mapping[str, np.ndarray[Any, Any]]
"""Arrays of B rows by name."""


def read(files: Undecoded, channels: int, rows: Sequence[Tensor]) -> DecodedBlocks:
    """Decode with tasks of Ray Data, which run ahead as far as its share of the object store allows.

    There are as many as CPUs are free. None is asked for: who waits for images may have them all. A process that is
    not connected to Ray decodes by itself. See `streamed_images.ImageReader`.

    Raises:
        DataError: images cannot be decoded.
        RunError: Ray gives up.
    """
    if not (rows and ray.is_initialized()):
        yield from streamed_images.read_here(files, channels, rows)
        return
    blocks = [{"index": index_B.numpy()} for index_B in torch.cat(list(rows)).split(BLOCK)]
    free = int(ray.available_resources().get("CPU", 0))
    images = decoding(files, channels, blocks, tasks=max(1, min(TASKS, free)), num_cpus=0)
    images.context.execution_options.preserve_order = True
    with failing_quietly("decoding images"):
        found = images.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        yield from _regrouped((torch.tensor(block["image"]) for block in found), [len(rows_B) for rows_B in rows])


def decoding(
    files: Undecoded, channels: int, blocks: Sequence[Columns], tasks: int, num_cpus: float
) -> ray.data.Dataset:
    """A dataset of the same rows with a column `image`, uint8 [B, C, H, W], decoded from the files by tasks.

    Args:
        files: the images.
        channels: C.
        blocks: what is decoded together: a column `index` of rows of `files`, and whatever goes with it.
        tasks: how many decode at once.
        num_cpus: what each asks for.
    """
    dataset = ray.data.from_blocks([pa.table(dict(block)) for block in blocks])
    dataset.context.enable_progress_bars = False
    dataset.context.raise_original_map_exception = True
    return dataset.map_batches(
        _decoded,
        batch_size=None,
        batch_format="numpy",
        fn_kwargs={"listing": [_put(files, ray.get_runtime_context().get_node_id())], "channels": channels},
        compute=ray.data.TaskPoolStrategy(size=min(tasks, len(blocks))),
        num_cpus=num_cpus,
    )


@contextmanager
def failing_quietly(what: str) -> Iterator[None]:
    """Have Ray Data print nothing; errors of ours pass through, those of Ray end the run."""
    try:
        with silent("ray.data"):
            yield
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise RunError(f"{what} failed: {error}") from error


def _decoded(block: Columns, listing: Sequence[ray.ObjectRef], channels: int) -> Columns:
    images = streamed_images.decoded(_fetched(listing[0]), torch.tensor(block["index"]), channels)
    return {**block, "image": images.numpy()}


@lru_cache(maxsize=4)
def _put(files: Undecoded, node: str) -> ray.ObjectRef:
    """The listing in the object store, once for all epochs; of another Ray another one."""
    return ray.put(files)


@lru_cache(maxsize=4)
def _fetched(listing: ray.ObjectRef) -> Undecoded:
    """The listing of the images, once in each process."""
    files: Undecoded = ray.get(listing)
    return files


def _regrouped(blocks: Iterable[Tensor], sizes: Sequence[int]) -> Iterator[Tensor]:
    """The same rows in order, so many at a time."""
    arriving, held = iter(blocks), torch.empty(0)
    for size in sizes:
        parts, missing = [held[:size]], size - len(held)
        held = held[size:]
        while missing > 0:
            block = next(arriving)
            parts.append(block[:missing])
            held, missing = block[missing:], missing - len(block)
        yield torch.cat([part for part in parts if len(part)])
