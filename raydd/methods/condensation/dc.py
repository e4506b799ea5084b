"""DC and DSA: gradient matching.

DC (Zhao, Mopuri and Bilen, ICLR 2021, https://arxiv.org/abs/2006.05929) gives each class synthetic images whose loss
has the gradient of that of its real ones, by the parameters of a network that is trained on the synthetic images in
between. DSA (Zhao and Bilen, ICML 2021, https://arxiv.org/abs/2102.08259) shows real and synthetic images under the
same augmentation.

Letters: B images of a class, O rows of a layer's parameters (its outputs), I their length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from raydd.core.distributed import shard
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.methods.base import Method, Start, Task
from raydd.methods.condensation.compared import ClassImages, Round
from raydd.methods.condensation.cost import Comparisons
from raydd.methods.condensation.family import Condensation, CondensationConfig
from raydd.methods.cost import CostSetting
from raydd.methods.defaults import USUAL_RECIPE
from raydd.networks import Network, global_batch_norm
from raydd.training.fit import fit
from raydd.training.loop import Training
from raydd.training.recipe import Recipe

Gradients = Sequence[Tensor]
"""One tensor for each of the network's parameter tensors that are compared, in order."""
Distance = Callable[[Gradients, Gradients], Tensor]
TrainsNetwork = Callable[[Network, Round], None]
"""Trains the network between two comparisons, in all workers together."""

PUBLISHED_LOOPS: Final = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""[outer_loop, inner_loop] by images per class."""
EPSILON: Final = 1e-6
"""Beside the product of norms in a cosine."""
NORM_IMAGES: Final = 16
"""Real images of each class from which batch norms take their statistics."""


@dataclass(frozen=True, kw_only=True)
class GradientMatchingConfig(CondensationConfig):
    """What DC and DSA share; in brackets the names of the papers' flags."""

    outer_loops: int | None = None
    """[outer_loop] updates of the images with one network; null: the published number for these images per class, or
    for the next more for which there is one."""
    inner_epochs: int | None = None
    """[inner_loop] epochs that the network is trained on the synthetic images between two of those; null: likewise."""
    network_lr: float = 0.01
    """[lr_net] of that training, by SGD without momentum."""
    network_batch_size: int = 256
    """[batch_train]"""
    distance: Literal["layerwise", "mse", "cosine"] = "layerwise"
    """[dis_metric] layerwise [ours]: one minus the cosine, of each output's weights in each layer, summed, without
    biases and norms. mse: the squared distance of all parameters. cosine: of all parameters as one vector."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for name, value in zip(("outer_loops", "inner_epochs"), self.loops, strict=True):
            if value < 1:
                raise ConfigError(f"method.{name}", f"must be at least 1, is {value}")
        if self.network_batch_size < 1:
            raise ConfigError("method.network_batch_size", f"must be at least 1, is {self.network_batch_size}")
        if not self.network_lr > 0:
            raise ConfigError("method.network_lr", f"must be positive, is {self.network_lr}")

    @property
    def loops(self) -> tuple[int, int]:
        """Updates of the images with one network, and epochs of training between two of them.

        Raises:
            ConfigError: nothing was published for so many images per class, and they are not given.
        """
        next_one = min((count for count in PUBLISHED_LOOPS if count >= self.images_per_class), default=0)
        published = PUBLISHED_LOOPS.get(next_one, (None, None))
        outer = self._or_published("outer_loops", self.outer_loops, published[0])
        return outer, self._or_published("inner_epochs", self.inner_epochs, published[1])

    def _or_published(self, field: str, given: int | None, published: int | None) -> int:
        value = published if given is None else given
        if value is None:
            problem = f"nothing was published for {self.images_per_class} images per class; give a number"
            raise ConfigError(f"method.{field}", problem)
        return value

    @property
    def recipe(self) -> Recipe:
        """How the network is trained between two updates of the images."""
        return Recipe(
            epochs=self.loops[1],
            lr=self.network_lr,
            batch_size=self.network_batch_size,
            augmentation=self.augmentation,
        )

    def comparisons(self, setting: CostSetting) -> Comparisons:
        """Gradients, in networks that are trained on all synthetic images; constants take part in both."""
        (rounds, epochs), rows = self.loops, self.images_per_class + setting.learned
        return Comparisons(
            rows=rows,
            constants=setting.frozen * (rounds + (rounds - 1) * epochs),
            between=self.recipe,
            rounds=rounds,
            num_trained=rows * setting.facts.num_classes,
        )

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at its starting images."""
        return Condensation(self, task, start, key, self.objective(task.network.has_batch_norm))

    def objective(self, has_batch_norm: bool) -> "MatchedGradients":
        """What is compared."""
        training = OnSyntheticImages(self.recipe)
        return MatchedGradients(self.loops[0], DISTANCES[self.distance], training, has_batch_norm)


@dataclass(frozen=True, kw_only=True)
class DCConfig(GradientMatchingConfig):
    """DC; the defaults are the published ones."""

    usual: ClassVar[Mapping[str, Any]] = {"recipe_name": "dc", "recipe": {**USUAL_RECIPE, "augmentation": "none"}}
    name: Literal["dc"] = "dc"
    image_init: Literal["random", "noise"] = "noise"


@dataclass(frozen=True, kw_only=True)
class DSAConfig(GradientMatchingConfig):
    """DSA; the defaults are the published ones for photographs (for digits: color_crop_cutout_scale_rotate)."""

    name: Literal["dsa"] = "dsa"
    augmentation: str = "dsa"


@dataclass(frozen=True)
class OnSyntheticImages:
    """Trains on all synthetic images."""

    recipe: Recipe

    def __call__(self, network: Network, now: Round) -> None:
        """The recipe's epochs, with an optimiser of their own."""
        training = Training([network], now.union(), now.labels, self.recipe, [now.key.child("train")], shared=True)
        fit(training)


@dataclass
class MatchedGradients:
    """Compares the gradients of the loss of each class, in a network that is trained between comparisons."""

    rounds: int
    distance: Distance
    train: TrainsNetwork
    has_batch_norm: bool
    """Whether the network has batch norms: they keep the statistics of real images while gradients are compared."""
    least_dims: int = 1
    """Parameter tensors of fewer dimensions are not compared: 3 leaves convolutions alone."""
    joint: bool = False
    in_turn: bool = False

    def prepare(self, network: Network, now: Round) -> None:
        """Train the network, but before the first comparison."""
        if now.number:
            self.train(network, now)
        if self.has_batch_norm:
            settle_batch_norms(network, now.real.draw_all(now.key.child("norm"), NORM_IMAGES))

    def loss(self, network: Network, block: Sequence[ClassImages]) -> Tensor:
        """The distance between the gradients of the real and of all synthetic images of a class."""
        (images,) = block
        params = [p for p in network.parameters() if p.ndim >= self.least_dims]
        real = class_gradients(network, params, images.real, images.label)
        return self.distance(union_gradients(network, params, images), real)


def class_gradients(
    network: nn.Module, params: Sequence[Tensor], images_BCHW: Tensor, label: int, create_graph: bool = False
) -> Gradients:
    """The gradient of the mean cross entropy of a class's images, by each of some parameter tensors."""
    labels = torch.full((len(images_BCHW),), label, device=images_BCHW.device)
    loss = F.cross_entropy(network(images_BCHW), labels)
    return torch.autograd.grad(loss, params, create_graph=create_graph)


def union_gradients(network: nn.Module, params: Sequence[Tensor], images: ClassImages) -> Gradients:
    """The gradient of the mean cross entropy of a class's synthetic images, differentiable in the learned ones.

    That of constants is added up a few at a time and leaves no graph: (n_1 g_1 + n_2 g_2 + ...) / (n_1 + n_2 + ...).
    """
    learned = class_gradients(network, params, images.learned, images.label, create_graph=True)
    own, others, sums = len(images.learned), 0, [torch.zeros_like(param) for param in params]
    for chunk in images.constants:
        for total, gradient in zip(sums, class_gradients(network, params, chunk, images.label), strict=True):
            total.add_(gradient, alpha=len(chunk))
        others += len(chunk)
    if not others:
        return learned
    return [(own * gradient + total) / (own + others) for gradient, total in zip(learned, sums, strict=True)]


def layerwise_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """DC's distance: the sum over layers and outputs of 1 - <s, r> / (|s| |r| + 1e-6), a scalar.

    A layer's weights are rows [O, I], one an output; vectors (biases, scales and shifts of norms) do not enter.
    """
    pairs = [(s.flatten(1), r.flatten(1)) for s, r in zip(synthetic, real, strict=True) if s.ndim > 1]
    return torch.stack([(1 - _cosine(s_OI, r_OI)).sum() for s_OI, r_OI in pairs]).sum()


def squared_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """The squared Euclidean distance of the gradients by all parameters, a scalar."""
    return torch.stack([(s - r).square().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


def cosine_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """One minus the cosine between the gradients by all parameters, a scalar."""
    s_P, r_P = (torch.cat([part.flatten() for part in parts]) for parts in (synthetic, real))
    return 1 - _cosine(s_P, r_P)


DISTANCES: Final[Mapping[str, Distance]] = {
    "layerwise": layerwise_distance,
    "mse": squared_distance,
    "cosine": cosine_distance,
}


def settle_batch_norms(network: nn.Module, images_BCHW: Tensor) -> None:
    """Move the running statistics by one forward pass of all workers, and use those from now on.

    Until the next training the batch norms are constants then: the gradient of one image depends on no other.
    """
    if dist.is_initialized():
        global_batch_norm.convert(network)
    network.train()
    with torch.no_grad():
        network(shard(images_BCHW))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The published cosine along the last dimension."""
    product: Tensor = a.norm(dim=-1) * b.norm(dim=-1)
    return (a * b).sum(-1) / (product + EPSILON)
