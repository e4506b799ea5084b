"""WMDD: matching a class's features to their Wasserstein barycentre (Liu et al., ICCV 2025).

Source: https://arxiv.org/abs/2311.18531 and its published code. Image j of class c is bound to atom j of the class's
barycentre (`raydd/ingredients/barycentre.py`), and the moments of each class's images are compared with those of its
real ones (`raydd/ingredients/statistics.py`). The loss of a class group, whole classes S, is

    L = g CE(f(A(x)), y) + a |F(A(x)) - B| + lambda (w_1 R_1 + sum_{l >= 2} R_l)
    R_l = the mean over c in S of |V_lc - v_lc| + |M_lc - m_lc|

with F what the last layer sees, B the atoms, and the Frobenius norm over all images of the group, as published; M, V
and m, v are mean and variance of the input of batch norm l over the real and over the synthetic images of c. The
published runs have atoms of equal mass, so that students weigh all images alike; so it is here.

Letters: N images of P class groups, Q classes, F features, C H W.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.ingredients.barycentre import require_transport
from raydd.ingredients.base import Ingredient, Kitchen
from raydd.ingredients.class_barycentres import BarycentresConfig, Beginning, ClassBarycentres
from raydd.ingredients.cost import IngredientCost
from raydd.ingredients.measured_statistics import MeasuredStatistics
from raydd.ingredients.statistics import StatisticsWanted
from raydd.methods.base import Start, Task
from raydd.methods.cost import CostSetting
from raydd.methods.decoupled.contiguous import ContiguousConfig
from raydd.methods.decoupled.family import GroupMethod
from raydd.methods.decoupled.moments import averages, measuring
from raydd.methods.decoupled.recover import Recover
from raydd.methods.decoupled.statistics_cost import barycentres_cost, statistics_cost

FeatureNorm = Literal["frobenius", "squared"]


@dataclass(frozen=True, kw_only=True)
class WMDDConfig(ContiguousConfig):
    """WMDD; the defaults are the published ones for ImageNette."""

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "wmdd"}
    name: Literal["wmdd"] = "wmdd"
    iterations: int = 2_000
    class_weight: float = 1.0
    """[r-wb] g, of the cross entropy."""
    feature_weight: float = 1.0
    """Of the distance between features and atoms; 0 leaves barycentres out."""
    feature_norm: FeatureNorm = "frobenius"
    """frobenius: the root of the sum of squares over all images of a class group, as published: it grows with their
    number. squared: the mean over images of the squared distance."""
    bn_weight: float = 10.0
    """[r-bn] lambda. The published code takes 10 for ImageNette, 500 for Tiny-ImageNet, and says no rule: the metrics
    tell the share of the loss that it makes."""
    bn_scope: Literal["class", "group"] = "class"
    """class: moments of each class against those of its real images. group: those of all images of a class group
    against the teacher's running statistics (SRe2L)."""
    first_bn_weight: float = 1.0
    atoms_init: Beginning = "real"
    """Where atoms start. real: at real images of the class. normal: at standard normal values, as published."""
    init: Literal["medium", "easy", "hard", "random", "noise"] = "noise"
    crop: Literal["curriculum", "random", "none"] = "random"
    jitter: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        self._require_at_least(0, "class_weight", "feature_weight")

    @property
    def made_first(self) -> tuple[str, ...]:
        """The teacher, what it sees of the real data, and its barycentres."""
        return (*super().made_first, *self._own)

    @property
    def takes_stages(self) -> bool:
        """It does not: images are bound to the atoms of one barycentre, and a later stage would make them again."""
        return False

    def ingredients(self, kitchen: Kitchen) -> tuple[Ingredient[Any], ...]:
        """Statistics and barycentres, as far as they are looked at."""
        if not self._own:
            return ()
        statistics = MeasuredStatistics(kitchen, kitchen.teacher, StatisticsWanted(features=self.feature_weight > 0))
        if not self.feature_weight:
            return (statistics,)
        config = BarycentresConfig(
            atoms=self.images_per_class,
            masses="uniform",
            init=self.atoms_init,
            repeat_images=self.repeat_images,
        )
        return statistics, ClassBarycentres(kitchen, statistics, config)

    def open_source(self, data: PreparedData, stage: int) -> None:
        """See that the library of optimal transport is there, if barycentres are wanted.

        Raises:
            ConfigError: it is not, or classes have fewer images than atoms.
        """
        if not self.feature_weight:
            return
        require_transport()
        fewest = int(data.train.labels.bincount(minlength=data.num_classes).min())
        if fewest < self.images_per_class and not self.repeat_images and self.atoms_init == "real":
            raise ConfigError(
                "method.images_per_class",
                f"is {self.images_per_class}, but a class has only {fewest} real images for atoms to start from; set "
                "method.repeat_images to true to take some several times",
            )

    def cost_first(self, setting: CostSetting) -> Mapping[str, IngredientCost]:
        """A pass over the training images, and rounds of transport for each class."""
        own = {
            "statistics": statistics_cost(setting, features=self.feature_weight > 0),
            "barycentres": barycentres_cost(setting, self.images_per_class),
        }
        return {kind: own[kind] for kind in self._own}

    def build(self, task: Task, start: Start, key: Key) -> GroupMethod:
        """A distiller of the task's class groups, at their starting images."""
        return ClasswiseRecover(self, task, start, key)

    @property
    def _own(self) -> tuple[str, ...]:
        if self.feature_weight:
            return ("statistics", "barycentres")
        return ("statistics",) if self.bn_scope == "class" else ()


class ClasswiseRecover(Recover):
    """Class groups that are optimised side by side, the moments of each class by themselves, features to atoms."""

    def __init__(self, config: WMDDConfig, task: Task, start: Start, key: Key) -> None:
        """Begin at the starting images; `task.given` has statistics and barycentres, as far as they are wanted."""
        super().__init__(config, task, start, key)
        self._wmdd = config
        classes_Q, self._class_index = self._rows.labels.unique(return_inverse=True)
        groups_Q = torch.stack([self._group_index[self._class_index == q][0] for q in range(len(classes_Q))])
        self._means_PQ = averages(groups_Q, len(self._groups)).to(task.device)
        if config.bn_scope == "class":
            found = task.given["statistics"].of_classes(classes_Q)
            names = {layer: name for name, layer in self._teacher.named_modules()}
            moments = [found[f"norm.{names[norm]}"] for norm in self._norms]
            self._targets = [(one.mean.to(task.device), one.variance.to(task.device)) for one in moments]
        if config.feature_weight:
            atoms_QKF, _ = task.given["barycentres"].of(classes_Q)
            self._atoms_NF = atoms_QKF[self._class_index, self._rows.ranks].to(task.device)

    @property
    def _term_weights(self) -> Mapping[str, float]:
        """By which the terms of the loss count."""
        weights = {"ce": self._wmdd.class_weight, "bn": self.config.bn_weight}
        return weights | ({"feature": self._wmdd.feature_weight} if self._wmdd.feature_weight else {})

    def _measuring(self, averages_PN: Tensor) -> AbstractContextManager[Mapping[int, Tensor]]:
        """Of each class against its real images, or as SRe2L."""
        if self._wmdd.bn_scope == "group":
            return super()._measuring(averages_PN)
        averages_QN = averages(self._class_index, len(self._means_PQ.T)).to(averages_PN.device)
        return measuring(self._norms, averages_QN, targets=self._targets)

    def _of_groups(self, distances: Tensor) -> Tensor:
        """The means over the classes of each group."""
        return self._means_PQ @ distances if self._wmdd.bn_scope == "class" else distances

    def _feature_terms(self, features_NF: Tensor, averages_PN: Tensor) -> dict[str, Tensor]:
        """The distance between features and atoms."""
        if not self._wmdd.feature_weight:
            return {}
        return {"feature": feature_distance(features_NF, self._atoms_NF, averages_PN, self._wmdd.feature_norm)}


def feature_distance(features_NF: Tensor, atoms_NF: Tensor, averages_PN: Tensor, norm: FeatureNorm) -> Tensor:
    """How far the features of each group's images are from their atoms: float64 [P].

    Args:
        features_NF: of the images.
        atoms_NF: to which each is bound.
        averages_PN: see `averages`.
        norm: see `WMDDConfig.feature_norm`.
    """
    squares_N = (features_NF.double() - atoms_NF.double()).square().sum(1)
    if norm == "squared":
        return averages_PN @ squares_N
    members_PN = (averages_PN > 0).double()
    return (members_PN @ squares_N).clamp(torch.finfo(torch.float64).tiny).sqrt()
