"""A set that was distilled elsewhere, in the place of a method: nothing is optimised, the set is the result.

It goes through the ordinary pipeline so that it is evaluated as raydd's own sets are, and beside them. Which set it is
the configuration says by the set's fingerprint, not by its path.

Letters: M synthetic images, K classes, C H W.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.data.preprocessing import Preprocessing
from raydd.methods.base import Method, Start, Task
from raydd.methods.cost import CostSetting, DistillCost
from raydd.methods.defaults import KeepsClasses
from raydd.methods.held import HeldSet
from raydd.networks.losses import LabelKind
from raydd.sets.formation import Formation
from raydd.sets.size import held_bytes, stored_bytes
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.training.cost import SAVE_FACTOR

SAME_SPACE: Final = 1e-3
"""How far the same pixels may lie apart under two preprocessings that are taken for one."""
_PROBED = 16


@dataclass(frozen=True, kw_only=True)
class ImportedConfig(KeepsClasses):
    """A finished set; `raydd import` writes all of this."""

    usual: ClassVar[Mapping[str, Any]] = {}
    name: Literal["imported"] = "imported"
    path: str
    """The folder of the set: what `raydd import` wrote, or the `synthetic` folder of a run."""
    fingerprint: str
    """Of its content, by the function of this name, which is checked when the set is opened: another set under the same
    path is another method."""
    images_per_class: int
    """Stored images of each class: of one stage where `stages.count` has those of the set; of all together else."""
    labels: Literal["hard", "stored"] = "hard"
    """What the set comes with: classes alone, or soft labels beside them."""
    label_kind: LabelKind = "logits"
    """What soft labels are: logits, or regression targets, whose students have a squared loss."""
    learned_lr: bool = False
    """Whether it comes with a step size of the student's."""
    formation: Formation | None = None
    """How students decode its images (IDC's mosaics)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a set."""
        if self.images_per_class < 1:
            raise ConfigError("method.images_per_class", f"must be at least 1, is {self.images_per_class}")

    @property
    def iterations(self) -> int:
        """None: there is nothing to do."""
        return 0

    @property
    def has_soft_labels(self) -> bool:
        """Whether the set has soft labels."""
        return self.labels == "stored"

    @property
    def has_learned_lr(self) -> bool:
        """Whether the set comes with a step size for its students."""
        return self.learned_lr

    @property
    def decoded_images(self) -> int:
        """Images that students see of each stored one."""
        return 1 if self.formation is None else self.formation.num_decoded(1)

    def num_groups(self, num_classes: int) -> int:
        """Independent parts of the work."""
        return 1

    def cost(self, setting: CostSetting) -> DistillCost:
        """What a stage takes: the set, written as its start and as its result, and no work."""
        facts, soft, whitening = setting.facts, self.has_soft_labels, setting.whitening_bytes
        num_images = self.images_per_class * facts.num_classes
        return DistillCost(
            makes="imported set",
            disk_bytes=2 * stored_bytes(facts, num_images, soft=soft, exact=False, whitening=whitening),
            memory_bytes=setting.data_bytes + SAVE_FACTOR * held_bytes(facts, num_images, soft),
        )

    def open(self, data: PreparedData, stage: int = 0) -> SyntheticSet:
        """The images of a stage of the set, or of all its stages as one.

        Args:
            data: the run's data.
            stage: of the run.

        Raises:
            ArtefactError: there is no set, or it is damaged.
            ConfigError: it is not the one that the configuration describes, or not of these data; names the field.
        """
        found = SyntheticSet.load(Folder.at(self.path))
        self._require_same(found)
        require_fit(found, data)
        return self._stage(found, stage)

    @property
    def is_given(self) -> bool:
        """They are."""
        return True

    def open_source(self, data: PreparedData, stage: int) -> None:
        """See that the images of a stage are there and go with the real data."""
        self.open(data, stage)

    def build(self, task: Task, start: Start, key: Key) -> Method:
        """The set, as what a distiller has in the end."""
        found = self.open(task.data, start.stage)
        numbers, source = torch.full_like(found.stage, start.stage), found.card.get("source", dict(found.card))
        return HeldSet(
            replace(found, stage=numbers, learned_lr=found.learned_lr[-1:], card={"source": source}), self.name
        )

    def _require_same(self, found: SyntheticSet) -> None:
        own = {
            "fingerprint": fingerprint(found),
            "labels": "hard" if found.soft_labels is None else "stored",
            "label_kind": found.label_kind,
            "learned_lr": found.learned_lr[-1] is not None,
            "formation": found.formation,
        }
        for name, value in own.items():
            if value != (said := getattr(self, name)):
                problem = f"is {said}, but that of the set in {self.path} is {value}"
                raise ConfigError(f"method.{name}", f"{problem}: give this, or the path of the other set")

    def _stage(self, found: SyntheticSet, stage: int) -> SyntheticSet:
        """One stage, or everything where `images_per_class` counts that."""
        if len(found) == self.images_per_class * found.num_classes and not stage:
            return found
        rows = (found.stage == stage).nonzero()[:, 0]
        counts = found.labels[rows].bincount(minlength=found.num_classes)
        if not bool((counts == self.images_per_class).all()):
            per_class = [len(part) // found.num_classes for part in _by_stage(found)]
            raise ConfigError(
                "method.images_per_class",
                f"is {self.images_per_class} in stage {stage}, but the set in {self.path} has {per_class} images of "
                "each class in its stages: give these, by stages.count and stages.overrides, or their sum for one",
            )
        return replace(
            found,
            images=found.images[rows],
            labels=found.labels[rows],
            soft_labels=None if found.soft_labels is None else found.soft_labels[rows],
            stage=found.stage[rows],
            learned_lr=found.learned_lr[stage : stage + 1],
        )


def fingerprint(synthetic: SyntheticSet) -> str:
    """Sha256 over all that students see of a set: equal for equal sets, wherever they lie and whatever their cards say.

    Of images that are whole pixels these are taken, as the map into network space may round otherwise elsewhere.
    """
    about = {
        "shape": list(synthetic.images.shape),
        "class_names": list(synthetic.class_names),
        "learned_lr": list(synthetic.learned_lr),
        "preprocessing": synthetic.preprocessing.digest,
        "formation": None if synthetic.formation is None else asdict(synthetic.formation),
        **({} if synthetic.label_kind == "logits" else {"label_kind": synthetic.label_kind}),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    images = synthetic.pixels() if synthetic.is_exact else synthetic.images
    for tensor in (images, synthetic.labels, synthetic.stage, synthetic.soft_labels):
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def require_fit(synthetic: SyntheticSet, data: PreparedData) -> None:
    """See that a set is in the network space of a dataset, and has its classes in their order.

    Raises:
        ConfigError: it is not; names the field of `data` and what to set it to.
    """
    shape = tuple(synthetic.images.shape[1:])
    if shape != data.shape:
        problem = f"images are {_size(data.shape)}, those of the set {_size(shape)}; take the dataset of the set"
        raise ConfigError("data.image_size", f"{problem}, at this size")
    if synthetic.class_names != data.class_names:
        raise ConfigError("data.source", _differing(synthetic.class_names, data.class_names))
    require_space(synthetic.preprocessing, data)


def require_space(preprocessing: Preprocessing, data: PreparedData) -> None:
    """See that the preprocessing of a set and that of a dataset lead into the same network space.

    Raises:
        ConfigError: they do not; names the field of `data` and what to set it to.
    """
    mine, theirs = data.preprocessing.describe(), preprocessing.describe()
    if mine["name"] != theirs["name"]:
        raise ConfigError("data.preprocess", f"is {mine['name']}, but the set was made under {theirs['name']}: set it")
    apart = _apart(preprocessing, data)
    if not apart <= SAME_SPACE:
        name = "data.statistics" if mine["name"] == "standardise" else "data.train_limit_per_class"
        raise ConfigError(
            name,
            f"the same pixels lie {apart:.3g} apart in the network spaces of the data, {_short(mine)}, and of the set, "
            f"{_short(theirs)}: give the statistics and the training images under which the set was made",
        )


def _apart(preprocessing: Preprocessing, data: PreparedData) -> float:
    """The largest distance of a few real images under both preprocessings."""
    images: Tensor = data.train.images[:_PROBED]
    theirs = preprocessing.forward(data.preprocessing.inverse(images))
    return float((theirs - images).abs().max())


def _by_stage(found: SyntheticSet) -> list[Tensor]:
    return [(found.stage == number).nonzero() for number in found.stage.unique().tolist()]


def _differing(there: tuple[str, ...], here: tuple[str, ...]) -> str:
    if len(there) != len(here):
        return f"has {len(here)} classes, the set {len(there)}: take the dataset of the set"
    number = next(n for n, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
    order = "the same classes in another order" if sorted(there) == sorted(here) else "other classes"
    return (
        f"has {order} than the set: class {number} is {here[number]!r} here and {there[number]!r} in the set; take the "
        "dataset of the set"
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{math.prod(shape)} values ({'x'.join(map(str, shape))})"


def _short(description: dict[str, object]) -> str:
    rounded = json.loads(json.dumps(description), parse_float=lambda text: round(float(text), 4))
    return " ".join(f"{value}" if name == "name" else f"{name} {value}" for name, value in rounded.items())
