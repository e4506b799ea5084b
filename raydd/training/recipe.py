"""The recipe of a training: its length, optimiser, schedule and augmentation."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, Self

from raydd.core.errors import ConfigError
from raydd.networks.losses import LabelKind, Loss
from raydd.training.dsa import augmentation
from raydd.training.optimizers import LrSchedule
from raydd.training.sampling import Sampling
from raydd.training.views import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    epochs: int = 50
    """Passes over the images."""
    lr: float | None = 0.01
    """Step size; null takes the one that the synthetic set learned."""
    momentum: float = 0.0
    """SGD's."""
    weight_decay: float = 0.0
    """SGD's of all parameters; AdamW's of those with more than one dimension."""
    batch_size: int = 256
    """Images a step, shuffled every epoch; the last, smaller batch is kept."""
    schedule: LrSchedule = "constant"
    """step: a tenth of the step size and a fresh optimiser after the first half, as the papers' evaluation does;
    step_kept: the same with the momenta kept (PDD); two_steps: a fifth after 2/3 and again after 5/6 of the epochs, the
    momenta kept (IDC); cosine: by epochs, down to 0 (SRe2L, CDA); half_cosine: down to a half (RDED, DELT);
    cosine_floor: down to a hundredth, with a warm-up from 0 (FRePo)."""
    augmentation: str = "dsa"
    """none, dsa, or some of DSA's groups: color_crop_cutout_flip_scale_rotate picks one of them for every batch,
    crop+flip takes both for every image, idc:color_crop_flip_scale_rotate color, flip and one of the others."""
    gsam_rho: float = 0.0
    """[rho_max] how far GSAM looks aside for its second gradient, which doubles a step's work; FTD and DATM: 0.01."""
    gsam_alpha: float = 0.0
    """[alpha] how much GSAM narrows the gap to the loss there; FTD and DATM: 0.3. Plain SGD where both are 0."""
    gsam_adaptive: bool = True
    """[adaptive] whether GSAM looks further along large parameters."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD, or AdamW (SRe2L, CDA, RDED, DELT), which is Adam where the weight_decay is 0 (FRePo)."""
    warmup_epochs: int = 0
    """The first epochs, over which the step size rises linearly from a hundredth; the schedule spans the others."""
    temperature: float = 1.0
    """What logits and soft targets are divided by in the loss, which is not multiplied by its square."""
    squares_temperature: bool = False
    """Whether the loss is multiplied by the square of the temperature after all (SRe2L's code for Tiny-ImageNet)."""
    views: ViewsConfig | None = None
    """In place of the augmentation, for students that learn from a teacher's labels of each view."""
    cutmix: float = 0.0
    """[mix_p] the part of the batches that are mixed by CutMix, one box for the whole batch [beta: 1]; IDC: 0.5. The
    accuracy of training counts an image's own label, however much of it is left."""
    decays_all: bool = False
    """Whether AdamW decays biases and norms as well (SRe2L's code for CIFAR)."""
    norm_momentum: float = 0.1
    """How much of a batch's moments the running ones of batch norms take over. 0.19 is what the code of RDED and DELT
    amounts to, whose students go through every batch a second time to tell their accuracy."""
    sampling: Sampling = "uniform"
    """Which images an epoch goes through. uniform: each once. class_balanced: as many in all, but equally many of every
    class: those of small classes several times, and of large ones others in every epoch."""

    loss: Loss = "cross_entropy"
    """cross_entropy: with classes, or the softmax of label logits. squared: half the squared distance to regression
    labels, summed over classes, or to centred classes (1 - 1/K for the own one, -1/K for the others) (FRePo)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, is {getattr(self, name)}")
        for name in ("lr", "temperature"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ConfigError(name, f"must be positive, is {value}")
        for name in ("gsam_rho", "gsam_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(name, f"must be 0 or larger, is {getattr(self, name)}")
        if self.optimizer == "adamw" and self.momentum:
            raise ConfigError("momentum", f"is SGD's, and AdamW has its own: take 0, not {self.momentum}")
        if self.optimizer == "adamw" and self.is_gsam:
            raise ConfigError("optimizer", "GSAM's step is SGD's: take sgd, or a gsam_rho and a gsam_alpha of 0")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError("warmup_epochs", f"must be from 0 to {self.epochs - 1}, is {self.warmup_epochs}")
        if not 0 <= self.cutmix <= 1:
            raise ConfigError("cutmix", f"must be from 0 to 1, is {self.cutmix}")
        if not 0 < self.norm_momentum <= 1:
            raise ConfigError("norm_momentum", f"must be above 0 and at most 1, is {self.norm_momentum}")
        if self.decays_all and self.optimizer == "sgd":
            raise ConfigError("decays_all", "says what AdamW decays; SGD decays all parameters: take false")
        if self.loss == "squared":
            self._check_squared()
        if self.cutmix and self.views is not None:
            raise ConfigError("cutmix", "views have a mix of their own (views.mix): take 0")
        augmentation(self.augmentation)

    def _check_squared(self) -> None:
        """See that nothing is asked for that only shares or a softmax have."""
        if self.temperature != 1 or self.squares_temperature:
            raise ConfigError("temperature", "a squared loss has none: take 1, and squares_temperature false")
        if self.views is not None:
            raise ConfigError("views", "a teacher labels them with logits: take loss: cross_entropy, or no views")

    def require_labels(self, kind: LabelKind) -> None:
        """See that the loss is one of these labels.

        Raises:
            ConfigError: they are regression targets and the loss takes a softmax of them, or the reverse.
        """
        if kind == "regression" and self.loss != "squared":
            raise ConfigError(
                "loss",
                "the labels are regression targets, of which a softmax means nothing: take squared, or train on the "
                "classes alone (evaluate.labels: [hard])",
            )
        if kind == "logits" and self.loss == "squared":
            raise ConfigError("loss", "the labels are logits, not targets of a squared loss: take cross_entropy")

    @property
    def is_gsam(self) -> bool:
        """Whether a step is GSAM's, of two gradients."""
        return self.gsam_rho > 0 or self.gsam_alpha > 0

    @property
    def passes(self) -> int:
        """Gradients that a step takes."""
        return 2 if self.is_gsam else 1

    @property
    def optimizer_name(self) -> str:
        """What records call the optimiser, such as `sgd-m0.9-wd0.0005`, `gsam-m0-wd0` or `adamw-wd0.01`."""
        name = "adamw" if self.optimizer == "adamw" else f"{'gsam' if self.is_gsam else 'sgd'}-m{self.momentum:g}"
        return f"{name}-wd{self.weight_decay:g}{'-all' * self.decays_all}"

    def completed(self, learned_lr: float | None) -> Self:
        """The recipe with its own step size, or else with that which a set has learned, if any."""
        return self if self.lr is not None else replace(self, lr=learned_lr)

    def shortened(self, epochs: int, lr: float | None) -> Self:
        """The recipe with so many epochs and a step size; a warm-up that does not fit is as large a part of them."""
        fits = self.warmup_epochs < epochs
        warmup = self.warmup_epochs if fits else self.warmup_epochs * epochs // self.epochs
        return replace(self, epochs=epochs, lr=lr, warmup_epochs=warmup)

    def identity(self) -> dict[str, Any]:
        """What determines a training, for content keys.

        GSAM's fields only where a step is GSAM's, and those that were added later only where they change anything.
        """
        values = asdict(self)
        if self.views is not None:
            values["views"] = self.views.identity()
        unsaid = {field.name for field in fields(self) if field.name in _LATER and values[field.name] == field.default}
        if not self.is_gsam:
            unsaid |= {name for name in values if name.startswith("gsam_")}
        return {name: value for name, value in values.items() if name not in unsaid}

    @property
    def decay_epoch(self) -> int:
        """The first epoch at a tenth of the step size under the `step` schedule.

        The papers' loop runs epochs 0 .. E and decays at the end of epoch E // 2 + 1; with their E = epochs - 1.
        """
        return self.warmup_epochs + (self.epochs - self.warmup_epochs - 1) // 2 + 2

    def steps(self, num_images: int) -> int:
        """Optimiser steps of the whole training on `num_images` images."""
        return self.epochs * math.ceil(num_images / self.batch_size)


_LATER: Final = (
    *("optimizer", "warmup_epochs", "temperature", "squares_temperature", "views", "cutmix", "sampling"),
    *("decays_all", "norm_momentum", "loss"),
)
