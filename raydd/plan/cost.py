"""What one step of training, predicting, matching or recovering costs, found without doing it.

A step is walked, at its real batch size, through the code that will run it, on torch's meta device: tensors there have
shapes and no memory, so that FLOPs and whatever is alive at any moment can simply be added up. FLOPs are those of
torch.utils.flop_counter: convolutions and matrix products, a multiply-add as two.

Letters: B batch, K classes, C H W, G class groups, P parameters.
"""

import weakref
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from raydd import networks
from raydd.adjoint.convnet import ConvNetSteps
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerLoop, InnerStep, adjoint, unroll
from raydd.data import DataFacts
from raydd.methods.decoupled.moments import bn_loss, measuring
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy, soft_cross_entropy
from raydd.training.recipe import Recipe

HEAP_FACTOR = 2.2
"""What glibc's heap grows to for each byte alive. Measured 2.1 to 2.7 over steps at widths 32 to 128 on one thread."""
HEAP_LIMIT_BYTES = 32 * 2**20
"""Tensors of at least this size are mapped and given back one by one, and cost what they hold (measured 1.1)."""
PREDICT_BATCH = 256
"""Images that `loop.predict` takes at a time."""


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


def slots(recipe: Recipe) -> int:
    """Tensors that the optimiser keeps for each parameter."""
    return 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)


@cache
def network_size(network: NetworkConfig, facts: DataFacts) -> tuple[int, int]:
    """P, and the number of tensors that it is spread over."""
    with torch.device("meta"):
        flat = FlatNetwork(networks.build(network, facts.shape, facts.num_classes))
    return flat.size, len(flat.shapes)


@cache
def state_size(network: NetworkConfig, facts: DataFacts) -> int:
    """Bytes of a network's parameters and buffers."""
    with torch.device("meta"):
        state = networks.build(network, facts.shape, facts.num_classes).state_dict()
    return sum(tensor.nbytes for tensor in state.values())


@cache
def gradient_step(network: NetworkConfig, facts: DataFacts, rows: int) -> Cost:
    """Loss and gradients as `loop.Training` takes them, for so many images."""
    with torch.device("meta"):
        module = networks.build(network, facts.shape, facts.num_classes)
        images, labels = torch.empty(rows, *facts.shape), torch.empty(rows, dtype=torch.int64)
    with (meter := _Meter()):
        hard_cross_entropy(module(images), labels).backward()
    return meter.cost(rows)


@cache
def predicting(network: NetworkConfig, facts: DataFacts) -> Cost:
    """A batch of `loop.predict`."""
    rows = min(PREDICT_BATCH, facts.num_test)
    with torch.device("meta"):
        module, images = networks.build(network, facts.shape, facts.num_classes), torch.empty(rows, *facts.shape)
    with (meter := _Meter()), torch.no_grad():
        module(images)
    return meter.cost(rows)


@cache
def matching_step(network: NetworkConfig, facts: DataFacts, rows: int, soft: bool, curvature: bool = True) -> Cost:
    """One inner step and its adjoint, as trajectory matching takes them, for so many images."""
    with torch.device("meta"):
        flat = FlatNetwork(networks.build(network, facts.shape, facts.num_classes))
        images, index = torch.empty(rows, *facts.shape), torch.empty(rows, dtype=torch.int64)
        labels = torch.empty(rows, facts.num_classes) if soft else index
        theta, lr = torch.empty(flat.size), torch.empty(())
    steps = DifferentiatedSteps(flat, soft_cross_entropy if soft else hard_cross_entropy)
    loop = InnerLoop(steps, [InnerStep(index, rows, lambda images_BCHW: images_BCHW)], curvature=curvature)
    with (meter := _Meter()):
        adjoint(loop, unroll(loop, theta, lr, images, labels), lr, images, labels, theta)
    return meter.cost(rows)


@cache
def recover_step(network: NetworkConfig, facts: DataFacts, rows: int, groups: int, dtype: torch.dtype) -> Cost:
    """Loss and gradient of so many images as `methods.recover` takes them, but for their crops.

    Args:
        network: the teacher's, whose parameters get no gradients.
        facts: the dataset's size.
        rows: B, images of all groups.
        groups: G.
        dtype: of the teacher's pass.
    """
    with torch.device("meta"):
        module = networks.build(network, facts.shape, facts.num_classes).to(dtype).eval().requires_grad_(False)
        images = torch.empty(rows, *facts.shape, dtype=dtype, requires_grad=True)
        labels, averages_GB = torch.empty(rows, dtype=torch.int64), torch.empty(groups, rows, dtype=torch.float64)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    with (meter := _Meter()):
        with measuring(norms, averages_GB) as distances:
            logits = module(images)
        ce = averages_GB @ F.cross_entropy(logits.float(), labels, reduction="none").double()
        torch.autograd.grad((ce + bn_loss(distances, 1.0)).sum(), images)
    return meter.cost(rows)


@cache
def kept_bytes(network: NetworkConfig, facts: DataFacts, rows: int) -> int:
    """What a compiled inner step on so many images keeps for the way back."""
    with torch.device("meta"):
        flat = FlatNetwork(networks.build(network, facts.shape, facts.num_classes))
    equations = ConvNetSteps.of(flat, network, facts.shape)
    return 4 * rows * equations.kept_values if equations else 0


class _Meter(TorchDispatchMode):
    """Adds up the FLOPs of everything that runs inside it, and follows how many bytes of tensors are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0
        self._tensors = _Tally()
        self._memory = _Tally()
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def cost(self, images: int) -> Cost:
        """What was counted, for a step on so many images."""
        return Cost(images, self._flops, round(self._tensors.peak), round(self._memory.peak))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


@dataclass
class _Tally:
    """A number that goes up and down, and the highest that it has been."""

    now: float = 0
    peak: float = 0

    def add(self, amount: float) -> None:
        """Go up, or down."""
        self.now += amount
        self.peak = max(self.peak, self.now)
