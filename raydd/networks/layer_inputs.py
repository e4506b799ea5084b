"""What goes into the layers of a network while it looks at images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn


@contextmanager
def told_of_inputs(layers: Mapping[Any, nn.Module], look: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """While this is open, `look` is told of the input of each of these layers, by its name, before the layer runs."""

    def note(name: Any, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        look(name, inputs[0])

    handles = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
