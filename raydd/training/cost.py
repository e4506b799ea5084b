"""What one step of training or predicting costs, found without doing it.

A step is walked, at its real batch size, through the code that will run it, on torch's meta device: tensors there have
shapes and no memory, so that FLOPs and whatever is alive at any moment can simply be added up (`Meter`, with which the
families of methods walk their own steps). A step that is done in no time is walked on the CPU (`walked`). FLOPs are
those of torch.utils.flop_counter: convolutions and matrix products, a multiply-add as two.

Letters: K classes, C H W, P parameters, F features.
"""

import inspect
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from raydd import networks
from raydd.data import DataFacts
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy
from raydd.training.recipe import Recipe

HEAP_FACTOR = 2.2
"""What glibc's heap grows to for each byte alive. Measured 2.1 to 2.7 over steps at widths 32 to 128 on one thread."""
HEAP_LIMIT_BYTES = 32 * 2**20
"""Tensors of at least this size are mapped and given back one by one, and cost what they hold (measured 1.1)."""
PREDICT_BATCH = 256
"""Images that `loop.predict` takes at a time."""
SAVE_FACTOR = 4
"""State, its copy, and the two serialised forms that safetensors holds at once (measured 4.0)."""
TENSOR_HEADER_BYTES = 85
"""Of one tensor in a safetensors file."""

DONE_AT_ONCE: Final = 3e8
"""Products of weights and pixels that a CPU goes through in some hundredths of a second."""

Rest = ParamSpec("Rest")
Found = TypeVar("Found")


def cached_by_shape(
    find: Callable[Concatenate[NetworkConfig, DataFacts, Rest], Found],
) -> Callable[Concatenate[NetworkConfig, DataFacts, Rest], Found]:
    """Cache what follows from a network, the shape of images and their classes: datasets that agree in these share it.

    What is cached is shown a dataset without images, so that it cannot go by their number.
    """
    known: dict[Hashable, Found] = {}

    def of(network: NetworkConfig, facts: DataFacts, /, *rest: Rest.args, **named: Rest.kwargs) -> Found:
        like = (network, facts.shape, facts.num_classes, rest, tuple(named.items()))
        if like not in known:
            known[like] = find(network, DataFacts(0, 0, facts.shape, facts.num_classes), *rest, **named)
        return known[like]

    update_wrapper(of, find)
    return of


@dataclass(frozen=True)
class Cost:
    """What one step, or a whole training, takes."""

    images: int
    """How many it is on."""
    flops: int
    tensor_bytes: int
    """Most bytes of tensors alive at once."""
    memory_bytes: int
    """Those as a CPU process holds them."""

    def flops_of(self, images: int) -> int:
        """FLOPs of another number of images: all that is counted is linear in them."""
        return self.flops * images // self.images


Messages = tuple[tuple[int, int], ...]
"""What workers add up together: so many messages, of so many bytes each, of which one of 0 still takes its way."""


@dataclass(frozen=True)
class Exchange:
    """Messages that workers wait for, so often one after the other."""

    times: int
    messages: Messages


@dataclass(frozen=True, kw_only=True)
class WorkSample:
    """A little of what a method mostly does, to be timed."""

    make: Callable[[int, torch.device], Callable[[], object]]
    """Sets it up on so many images of a device; what it returns does it once."""
    most: int
    """Images that the run does it on."""
    flops: Callable[[int], int]
    """Of so many."""


def training(network: NetworkConfig, recipe: Recipe, facts: DataFacts, num_images: int, num_predicted: int) -> Cost:
    """A whole training on `num_images` images and predictions of `num_predicted`; momenta come with the network."""
    step = gradient_step(network, facts, min(recipe.batch_size, num_images))
    predict = predicting(network, facts)
    resident = 4 * network_size(network, facts)[0] * (1 + slots(recipe))
    return Cost(
        num_images,
        step.flops_of(num_images * recipe.epochs) * recipe.passes + predict.flops_of(num_predicted),
        resident + max(step.tensor_bytes, predict.tensor_bytes),
        resident + max(step.memory_bytes, predict.memory_bytes),
    )


def training_bytes(network: NetworkConfig, recipe: Recipe, facts: DataFacts) -> int:
    """The file of a network in training: parameters, buffers and momenta."""
    size, tensors = network_size(network, facts)
    kept = slots(recipe)
    return state_size(network, facts) + 4 * kept * size + (1 + kept) * tensors * TENSOR_HEADER_BYTES


def slots(recipe: Recipe) -> int:
    """Tensors that the optimiser keeps for each parameter."""
    return 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)


@cached_by_shape
def network_size(network: NetworkConfig, facts: DataFacts) -> tuple[int, int]:
    """P, and the number of tensors that it is spread over."""
    with torch.device("meta"):
        flat = FlatNetwork(networks.build(network, facts.shape, facts.num_classes))
    return flat.size, len(flat.shapes)


@cached_by_shape
def state_size(network: NetworkConfig, facts: DataFacts) -> int:
    """Bytes of a network's parameters and buffers."""
    with torch.device("meta"):
        state = networks.build(network, facts.shape, facts.num_classes).state_dict()
    return sum(tensor.nbytes for tensor in state.values())


def walked(network: NetworkConfig, facts: DataFacts, rows: int) -> tuple[Network, Tensor]:
    """A network and so many images, of which nothing counts but their shapes.

    They lie on the meta device, or on the CPU where the work on them is done at once: to normalise on the meta device,
    torch imports its compiler, which takes a process some seconds.
    """
    products = network_size(network, facts)[0] * rows * facts.shape[1] * facts.shape[2]
    with torch.random.fork_rng(devices=()), torch.device("cpu" if products <= DONE_AT_ONCE else "meta"):
        return networks.build(network, facts.shape, facts.num_classes), torch.zeros(rows, *facts.shape)


@cached_by_shape
def gradient_step(network: NetworkConfig, facts: DataFacts, rows: int) -> Cost:
    """Loss and gradients as `loop.Training` takes them, for so many images."""
    module, images = walked(network, facts, rows)
    labels = torch.zeros(rows, dtype=torch.int64, device=images.device)
    with (meter := Meter()):
        hard_cross_entropy(module(images), labels).backward()
    return meter.cost(rows)


def predicting(network: NetworkConfig, facts: DataFacts) -> Cost:
    """A batch of `loop.predict`."""
    return _predicting(network, facts, min(PREDICT_BATCH, facts.num_test))


@cached_by_shape
def _predicting(network: NetworkConfig, facts: DataFacts, rows: int) -> Cost:
    module, images = walked(network, facts, rows)
    with (meter := Meter()), torch.no_grad():
        module(images)
    return meter.cost(rows)


def shown(network: NetworkConfig, facts: DataFacts, num_images: int) -> Cost:
    """So many images shown to a network that is in memory."""
    one, resident = predicting(network, facts), state_size(network, facts)
    return Cost(num_images, one.flops_of(num_images), resident + one.tensor_bytes, resident + one.memory_bytes)


@cached_by_shape
def num_features(network: NetworkConfig, facts: DataFacts) -> int:
    """F."""
    module, images = walked(network, facts, 2)
    return module.features(images).shape[1]


def gradient_messages(network: NetworkConfig, facts: DataFacts) -> Messages:
    """What workers add up in a step that shares a batch: the gradients, and two sums for each norm over all of it."""
    norms = _batch_norms(network, facts)
    return ((1, 4 * network_size(network, facts)[0]), (2 * norms, 0))


def _batch_norms(network: NetworkConfig, facts: DataFacts) -> int:
    """How many layers of a network sum over the whole batch."""
    return len(norm_channels(network, facts))


@cached_by_shape
def norm_channels(network: NetworkConfig, facts: DataFacts) -> tuple[int, ...]:
    """The channels of every batch norm of a network."""
    with torch.device("meta"):
        module = networks.build(network, facts.shape, facts.num_classes)
    return tuple(layer.num_features for layer in module.modules() if isinstance(layer, nn.BatchNorm2d))


class Meter(TorchDispatchMode):
    """Adds up the FLOPs of everything that runs inside it, and follows how many bytes of tensors are alive."""

    def __init__(self) -> None:
        """Count from nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0
        self._tensors = _Tally()
        self._memory = _Tally()
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def cost(self, images: int) -> Cost:
        """What was counted, for a step on so many images."""
        return Cost(images, self._flops, round(self._tensors.peak), round(self._memory.peak))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it, and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self._flops += formula(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        """Count a storage from now until it dies, once however many tensors show it."""
        name, size = id(storage), storage.nbytes()
        if name in self._alive:
            return
        heap = size * (HEAP_FACTOR if size < HEAP_LIMIT_BYTES else 1)

        def forget(_: object) -> None:
            del self._alive[name]
            self._tensors.add(-size)
            self._memory.add(-heap)

        self._tensors.add(size)
        self._memory.add(heap)
        self._alive[name] = weakref.ref(storage, forget)


Meter.__torch_dispatch__ = inspect.unwrap(Meter.__torch_dispatch__)  # type: ignore[method-assign]
"""Without what torch wraps it in, which imports its compiler in order not to be compiled: nothing is, in a walk."""


@dataclass
class _Tally:
    """A number that goes up and down, and the highest that it has been."""

    now: float = 0
    peak: float = 0

    def add(self, amount: float) -> None:
        """Go up, or down."""
        self.now += amount
        self.peak = max(self.peak, self.now)
