"""IDC: mosaics whose parts are training images (Kim et al., ICML 2022, https://arxiv.org/abs/2205.14959).

Gradient matching as DC's, with four differences. A stored image is cut into parts that are enlarged to training images
(`raydd.sets.formation`), so that the same storage holds more of them. Between comparisons the network is trained on
real images instead of synthetic ones. What is compared are convolutions' gradients alone, by the sum of squares,

    L_c = sum_layers |grad CE(A(real_c)) - grad CE(A(decode(synthetic_c)))|^2,

under one augmentation A for both. And images are pixels in [0, 1], which take one step per class: class after class,
while the momentum of the step before moves all others on. So the gradient of class c, counted from 0 of K, is taken
after c such moves of its own images, and K - 1 - c follow it (`family.drift` has them in closed form); classes do
not touch each other's images, and workers can share them out.

Letters: M stored images, S of them of one class, B batch, C H W.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.data.preprocessing import ZCA, Preprocessing
from raydd.methods.base import Method, Start, Task
from raydd.methods.condensation.compared import AsTheyAre, Round
from raydd.methods.condensation.cost import Comparisons
from raydd.methods.condensation.dc import Distance, Gradients, MatchedGradients, squared_distance
from raydd.methods.condensation.family import Condensation, CondensationConfig
from raydd.methods.cost import CostSetting
from raydd.methods.defaults import USUAL_RECIPE
from raydd.networks import Network
from raydd.sets.formation import GREY, Formation, FormationMode, decode
from raydd.training.dsa import augmentation
from raydd.training.loop import Training
from raydd.training.recipe import Recipe

IMAGE_SIDES: Final = ((28, 28), (32, 64), (224, math.inf))
"""The side that image_lr is meant for, and the largest to which it applies."""
CONVOLUTION_DIMS: Final = 4
"""Of a convolution's weights; those of linear layers have 2, and biases and norms 1."""


@dataclass(frozen=True, kw_only=True)
class IDCConfig(CondensationConfig):
    """IDC; the defaults are the published ones for CIFAR. In brackets the names of the paper's flags."""

    usual: ClassVar[Mapping[str, Any]] = {
        "recipe_name": "idc",
        "recipe": {
            **USUAL_RECIPE,
            "batch_size": 64,
            "schedule": "two_steps",
            "augmentation": "idc:color_crop_flip_scale_rotate",
            "cutmix": 0.5,
        },
    }
    name: Literal["idc"] = "idc"
    iterations: int = 2_000
    """[niter] outer updates, each with a network of its own."""
    image_lr: float = 5e-3
    """[lr_img] for 10 images per class: a step's size is this times images_per_class / 10 times (H / base)^2, where
    base is 28 for images of up to 28 pixels, 32 up to 64, and 224 above."""
    real_batch_size: int = 64
    augmentation: str = "idc:color_crop_cutout"
    """[aug_type] see `raydd.training.dsa.augmentation`: all three. Real and synthetic images of a class see the same
    draw, whose parameters all of them share."""
    image_init: Literal["random", "noise"] = "random"
    """[init: mix or noise] random: every part of a mosaic is a random real image, made smaller. noise: pixels of normal
    values about 1/2 with a deviation of 1/4, cut off at black and white."""
    factor: int = 2
    """[factor] parts of an image along each axis; 1 is IDC-I [224 pixels: 3]."""
    decode: FormationMode = "single"
    """[decode_type] single: every image is cut into factor^2 parts. multi: into the parts of all factors from 1 to this
    one. bound: while images are learned the last of a class take smaller factors, as decoded_per_class allows;
    students see single."""
    decoded_per_class: int = 128
    """[batch_syn_max] decoded images of a class that are compared: random ones where there are more. With images of
    earlier stages both they and the new ones get their share."""
    inner_loops: int = 100
    """[inner_loop] updates of the images with one network."""
    distance: Literal["mse", "l1"] = "mse"
    """[metric] of gradients: the sum of squared differences, or that of absolute ones."""
    num_real: int = 2_000
    """[n_data] random real images on which the network is trained, once, between two updates."""
    network_lr: float = 0.01
    """[lr] of that training."""
    network_momentum: float = 0.9
    """[momentum] of that training, kept as long as the network is."""
    network_weight_decay: float = 5e-4
    """[weight_decay]"""
    network_batch_size: int = 64
    """[batch_size]"""
    network_augmentation: str = "idc:color_crop"
    """What that training sees, each image under a draw of its own."""
    cutmix: float = 0.5
    """[mix_p] the part of that training's batches that CutMix mixes."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for name in ("factor", "decoded_per_class", "inner_loops", "num_real", "network_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name}", f"must be at least 1, is {getattr(self, name)}")
        if not 0 < self.network_lr < math.inf:
            raise ConfigError("method.network_lr", f"must be positive, is {self.network_lr}")
        if not 0 <= self.network_momentum < 1:
            raise ConfigError(
                "method.network_momentum", f"must be 0 or larger, and below 1, is {self.network_momentum}"
            )
        if not 0 <= self.network_weight_decay < math.inf:
            raise ConfigError("method.network_weight_decay", f"must be 0 or larger, is {self.network_weight_decay}")
        if not 0 <= self.cutmix <= 1:
            raise ConfigError("method.cutmix", f"must be from 0 to 1, is {self.cutmix}")
        try:
            augmentation(self.network_augmentation)
        except ConfigError as error:
            raise ConfigError("method.network_augmentation", error.problem) from None

    def rate(self, shape: tuple[int, int, int]) -> float:
        """The step size of images of a shape C, H, W."""
        height = shape[1]
        base = next(base for base, largest in IMAGE_SIDES if height <= largest)
        return self.image_lr * (self.images_per_class / 10) * (height / base) ** 2

    @property
    def revision(self) -> dict[str, Any]:
        """Noise was that of network space once."""
        return {"noise": "pixels"} if self.image_init == "noise" else {}

    @property
    def reads_pixels(self) -> bool:
        """Mosaics are of pixels."""
        return True

    @property
    def recipe(self) -> Recipe:
        """How the network is trained between two updates of the images."""
        return Recipe(
            epochs=1,
            lr=self.network_lr,
            momentum=self.network_momentum,
            weight_decay=self.network_weight_decay,
            batch_size=self.network_batch_size,
            augmentation=self.network_augmentation,
            cutmix=self.cutmix,
        )

    @property
    def formation(self) -> Formation | None:
        """How students decode the images; None of IDC-I."""
        if self.factor == 1:
            return None
        return Formation(factor=self.factor, mode="single" if self.decode == "bound" else self.decode)

    @property
    def decoded_images(self) -> int:
        """Images that students see of each stored one."""
        return 1 if self.formation is None else self.formation.num_decoded(1)

    def comparisons(self, setting: CostSetting) -> Comparisons:
        """Gradients of decoded images, in networks that are trained on real ones."""
        own, earlier = self.images_per_class, setting.earlier
        limit = sum(self._share(images, own + earlier) for images in (own, setting.learned))
        bound = limit if self.decode == "bound" else None
        held = Formation(factor=self.factor, mode=self.decode, limit=bound).num_decoded(own + setting.learned)
        shown = min(earlier * self.decoded_images, self._share(earlier, own + earlier)) if setting.frozen else 0
        return Comparisons(
            rows=min(limit, held),
            constants=self.inner_loops * shown * setting.facts.num_classes,
            between=self.recipe,
            rounds=self.inner_loops,
            num_trained=min(self.num_real, setting.facts.num_train),
        )

    def _share(self, images: int, total: int) -> int:
        """Decoded images of a class that some of its images have among those that are compared."""
        return math.ceil(self.decoded_per_class * images / total)

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """A distiller at its starting images.

        Raises:
            ConfigError: images are whitened, earlier ones are decoded otherwise, or the network has no convolutions.
        """
        if isinstance(task.data.preprocessing, ZCA):
            raise ConfigError("data.preprocess", "whitened images have no pixels to learn: take standardise or none")
        if start.frozen is not None and start.frozen.formation != self.formation:
            raise ConfigError("method.factor", "earlier stages' images are decoded in another way: take theirs")
        if task.network.name == "mlp":
            raise ConfigError("network.name", "gradients by convolutions are compared, and mlp has none: take convnet")
        objective = MatchedGradients(
            self.inner_loops,
            DISTANCES[self.distance],
            OnRealImages(self.num_real, self.recipe),
            task.network.has_batch_norm,
            least_dims=CONVOLUTION_DIMS,
            in_turn=True,
        )
        form = Mosaics(task.data.preprocessing, self.factor, self.decode, self.decoded_per_class, self.formation)
        return Condensation(self, task, start, key, objective, form)


@dataclass(frozen=True)
class Mosaics:
    """Images that are held as pixels in [0, 1], each a mosaic of several that networks see."""

    preprocessing: Preprocessing
    factor: int
    decode: FormationMode
    limit: int
    """Of the images of a class that are seen together."""
    formation: Formation | None

    def starting(self, data: PreparedData, images_per_class: int, real: bool, key: Key, repeat: bool) -> Tensor:
        """Mosaics of random real images, or pixels of normal values about grey."""
        if not real:
            noise = AsTheyAre().starting(data, images_per_class, real, key, repeat)
            return self.preprocessing.forward((noise / 4 + GREY).clamp(0, 1))
        return mosaics(AsTheyAre().starting(data, images_per_class * self.factor**2, real, key, repeat), self.factor)

    def held(self, images_BCHW: Tensor) -> Tensor:
        """Their pixels."""
        return self.preprocessing.inverse(images_BCHW)

    def bounded(self, held_BCHW: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return held_BCHW.clamp(0, 1)

    def stored(self, held_BCHW: Tensor) -> Tensor:
        """The mosaics in network space."""
        return self.preprocessing.forward(held_BCHW)

    def seen(self, held_SCHW: Tensor, others: int, key: Key) -> Tensor:
        """The parts, enlarged; a random choice of them where there are more than the images' share of the limit.

        The share is rounded up, so that of a class's new images and of its earlier ones some are always seen.
        """
        share = math.ceil(Fraction(self.limit * len(held_SCHW), len(held_SCHW) + others))
        parts, _ = decode(held_SCHW, self.factor, self.decode, share if self.decode == "bound" else None)
        if len(parts) > share:
            parts = parts[keyed_random.permutation(key, len(parts), parts.device)[:share].sort().values]
        return self.preprocessing.forward(parts)


class OnRealImages:
    """Trains on random real images between two comparisons, with one optimiser for as long as a network lives."""

    def __init__(self, count: int, recipe: Recipe) -> None:
        """Of so many images at a time."""
        self._count, self._recipe = count, recipe
        self._optimised: list[dict[str, Tensor]] = []

    def __call__(self, network: Network, now: Round) -> None:
        """One pass."""
        images, labels = now.real.draw_any(now.key, self._count)
        training = Training([network], images, labels, self._recipe, [now.key.child("train")], shared=True)
        if now.number > 1:
            training.load_state_dicts(self._optimised)
        training.run_epoch(0)
        self._optimised = training.state_dicts()


def mosaics(images_NCHW: Tensor, factor: int) -> Tensor:
    """Images side by side, factor^2 in each of M = N / factor^2, row by row; made smaller by leaving out pixels.

    As in the published code no pixels are mixed. Parts lie where `raydd.sets.formation` looks for them: those below
    and on the right lose what does not fit.
    """
    count, (channels, height, width) = len(images_NCHW) // factor**2, images_NCHW.shape[1:]
    size = [math.ceil(side / factor) for side in (height, width)]
    small = F.interpolate(images_NCHW, size).view(count, factor, factor, channels, *size)
    whole = small.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, factor * size[0], factor * size[1])
    return whole[:, :, :height, :width].contiguous()


def absolute_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """The sum of absolute differences of the gradients, a scalar."""
    return torch.stack([(s - r).abs().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


DISTANCES: Final[Mapping[str, Distance]] = {"mse": squared_distance, "l1": absolute_distance}
