"""The papers' ways of training students on a set that a teacher labels, as frozen recipes.

Accuracies of the decoupled family depend on the protocol more than on the method (RD3), so that every set is compared
under one of these. Sources are the papers and, where marked [code], their released code: SRe2L
(https://arxiv.org/abs/2306.13092), CDA (https://arxiv.org/abs/2311.18838), RDED (https://arxiv.org/abs/2312.03526),
DELT (https://arxiv.org/abs/2411.19946), RD3 (https://arxiv.org/abs/2509.19743) and WMDD
(https://arxiv.org/abs/2311.18531).

Common to all: views mixed by CutMix with Beta(1, 1) and labels at temperature 20, AdamW with decay 0.01 on weights of
more than one dimension, where not said otherwise. Batches are never larger than the set. In the code of RDED and DELT
students go through every batch a second time, to tell their accuracy, so that batch norms take it in twice: with
`norm_momentum` 0.19 (1 - 0.9^2) a recipe has that; the protocols here do not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from raydd.data.subsets import SUBSETS
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig

Protocol = Literal["sre2l", "cda", "rded", "delt", "rd3", "wmdd"]


_ADAMW: Final = Recipe(
    epochs=300,
    lr=1e-3,
    weight_decay=0.01,
    batch_size=1024,
    schedule="cosine",
    augmentation="none",
    optimizer="adamw",
    temperature=20.0,
    views=ViewsConfig(),
)
"""SRe2L's on ImageNet-1K."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What a protocol is fitted to."""

    images_per_class: int
    num_classes: int
    dataset: str
    network: NetworkConfig

    @property
    def num_images(self) -> int:
        return self.images_per_class * self.num_classes

    @property
    def family(self) -> Literal["cifar", "tiny", "imagenet", "other"]:
        """The datasets of the papers, by name; ImageNette, ImageWoof and ImageNet's subsets are of its own family."""
        if self.dataset.startswith("cifar"):
            return "cifar"
        if self.dataset.startswith("tiny"):
            return "tiny"
        is_subset = self.dataset in SUBSETS or self.dataset.startswith(("imagenet", "imagewoof"))
        return "imagenet" if is_subset else "other"


def recipe(name: Protocol, images_per_class: int, num_classes: int, dataset: str, network: NetworkConfig) -> Recipe:
    """A protocol fitted to a set and a student.

    Args:
        name: which.
        images_per_class: of the set.
        num_classes: K.
        dataset: its name, such as `cifar10`; of `tiny-imagenet` and of names that begin with `imagenet` the papers
            have settings of their own.
        network: the student's.
    """
    case = _Case(images_per_class=images_per_class, num_classes=num_classes, dataset=dataset, network=network)
    fitted = PROTOCOLS[name](case)
    return replace(fitted, batch_size=min(fitted.batch_size, case.num_images))


def mosaic_views(factor: int) -> ViewsConfig:
    """RDED's views of images that are grids of `factor` x `factor` patches.

    Patches change places, and crops take at least 1 / factor of the area [code]: all of it where images are whole.
    """
    return ViewsConfig(min_scale=1 / factor, patch_shuffle=factor)


def _sre2l(case: _Case) -> Recipe:
    """SRe2L, appendix: batches of 1,024 on ImageNet-1K, with the cosine to zero and crops from 0.08.

    On Tiny-ImageNet SGD with 0.2 for 100 epochs with a warm-up, on unmixed views, with the loss times the square of
    the temperature [code]; on CIFAR MixUp with 0.8, temperature 30 and 400 epochs in batches of 128 (the authors'
    answer in the repository's issue 10, which allows up to 800 epochs), on images shifted by up to 4 pixels, with all
    parameters decayed [code].
    """
    adamw = _ADAMW
    match case.family:
        case "tiny":
            sgd = replace(adamw, optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4)
            views = ViewsConfig(mix="none")
            sgd = replace(sgd, squares_temperature=True, views=views)
            return replace(sgd, epochs=100, batch_size=256, warmup_epochs=5)
        case "cifar":
            views = ViewsConfig(mix="mixup", mix_alpha=0.8, crop_padding=4)
            return replace(adamw, epochs=400, batch_size=128, temperature=30.0, views=views, decays_all=True)
        case "imagenet" | "other":
            return adamw


def _cda(case: _Case) -> Recipe:
    """CDA, section 4: SRe2L's in batches of 128."""
    return replace(_sre2l(case), batch_size=128)


def _rded(case: _Case) -> Recipe:
    """RDED, appendix: the cosine that ends half-way, small batches, and mosaics of 2x2 on ImageNet and its subsets."""
    small_convnet = case.network.name == "convnet" and case.network.depth == 3
    special = case.dataset == "cifar100" and small_convnet
    return Recipe(
        epochs=300,
        lr=2e-3 if special else case.network.traits.student_lr,
        weight_decay=0.01,
        batch_size=25 if special else _batch_size(case),
        schedule="half_cosine",
        augmentation="none",
        optimizer="adamw",
        temperature=20.0,
        views=mosaic_views(2 if case.family == "imagenet" else 1),
    )


def _delt(case: _Case) -> Recipe:
    """DELT, appendix and [code]: RDED's with RandAugment before crops from 0.25 of the area, and whole images.

    RandAugment as in its Table 7; on CIFAR-100 as on CIFAR-10, elsewhere as on ImageNet, which is the code's default.
    What movements uncover has ImageNet's colour, whatever the images are [code].
    """
    operations, magnitude = _RANDAUGMENT[case.family]
    views = ViewsConfig(
        min_scale=0.25,
        randaugment_ops=operations,
        randaugment_magnitude=magnitude,
        randaugment_std=1.0,
        randaugment_fill="imagenet",
    )
    return replace(_rded(case), views=views)


def _rd3(case: _Case) -> Recipe:
    """RD3's one setting for all sets and networks: RDED's with 400 epochs, batches of 50 and a step size of 1e-3."""
    return replace(_rded(case), epochs=400, lr=1e-3, batch_size=50)


def _wmdd(case: _Case) -> Recipe:
    """WMDD [code]: SRe2L's of ImageNet on all sets, in batches of 100, of a tenth as many where sets are that small.

    Students weigh images by the masses of their atoms, which are equal in the published runs, as here.
    """
    return replace(_ADAMW, batch_size=100 if case.images_per_class >= 10 else 10 * case.images_per_class)


def _batch_size(case: _Case) -> int:
    """RDED's and DELT's rule [code], which has twice the paper's batches for 100 and for 1,000 classes.

    The code knows 1, 10, 20, 30, 40, 50 and 100 images per class; numbers between take the next smaller one's.
    """
    if case.family == "tiny":
        return 100
    base = next(size for least, size in ((30, 100), (10, 50), (1, 10)) if case.images_per_class >= least)
    return 2 * base if case.num_classes in (100, 1000) else base


PROTOCOLS: Final[Mapping[Protocol, Callable[[_Case], Recipe]]] = {
    "sre2l": _sre2l,
    "cda": _cda,
    "rded": _rded,
    "delt": _delt,
    "rd3": _rd3,
    "wmdd": _wmdd,
}

_RANDAUGMENT: Final[Mapping[str, tuple[int, float]]] = {
    "cifar": (4, 5.0),
    "tiny": (3, 4.0),
    "imagenet": (2, 6.0),
    "other": (2, 6.0),
}
"""Operations and magnitude."""
