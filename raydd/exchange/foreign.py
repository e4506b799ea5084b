"""Sets of other code, checked and brought into raydd's form.

A reader (one file a family) says what is in the files; here shapes, numbers, classes and value space are looked at, and
whatever the files leave open has to have been answered.

Letters: M synthetic images, K classes, C H W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange import value_space
from raydd.exchange.answers import Answers, ForeignKind
from raydd.exchange.soft_labels import MEANING, as_stored
from raydd.exchange.tensor_files import sha256
from raydd.sets.formation import Formation
from raydd.sets.synthetic import SyntheticSet, union


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """One stage of a set as its files have it."""

    where: str
    """What messages call the file of the images."""
    images: Tensor
    """[M, C, H, W], in network space."""
    labels: Tensor | None
    """Classes [M], or soft labels [M, K]; None where the format has none and the images are class-major."""
    labels_where: str
    """What messages call the labels."""
    classes: Tensor | None = None
    """int64 [M], where the files say them beside soft labels."""
    files: tuple[Path, ...]
    """All that was read."""
    kind: ForeignKind | None = None
    """What soft labels are, where the format says it."""
    learned_lr: float | None = None
    from_pixels: bool = False
    """Whether the images were pixels in their files, so that there is no value space to be wrong about."""
    formation: Formation | None = None
    """How students decode the images; None where they are training images."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the files say, for the card. JSON."""


def synthetic_set(parts: Sequence[Foreign], data: PreparedData, answers: Answers, format_name: str) -> SyntheticSet:
    """The stages as one set, each class-major, with a card that says where all of it comes from.

    Raises:
        DataError: something is not what it says, or is not answered; names file and field.
    """
    stages = [_stage(part, number, data, answers) for number, part in enumerate(parts)]
    if len({stage.soft_labels is None for stage in stages}) > 1:
        raise DataError(f"{parts[0].where}: some stages have soft labels and others classes alone")
    spaces = [value_space.check(part.images, data, part.where) for part in parts if not part.from_pixels]
    whole = union(stages)
    said = {name: value for name, value in asdict(answers).items() if value is not None}
    files = {path: None for part in parts for path in part.files}
    source: dict[str, Any] = {
        "format": format_name,
        "files": {str(path): sha256(path) for path in files},
        "answers": said,
        "values": spaces,
        **parts[-1].facts,
    }
    kind = answers.soft_labels or parts[0].kind
    if whole.soft_labels is not None and kind is not None:
        source["soft_labels"] = {"were": kind, "became_logits_by": MEANING[kind]}
    return SyntheticSet(
        images=whole.images,
        labels=whole.labels,
        soft_labels=whole.soft_labels,
        stage=whole.stage,
        learned_lr=whole.learned_lr,
        class_names=whole.class_names,
        preprocessing=whole.preprocessing,
        formation=whole.formation,
        label_kind=whole.label_kind,
        card={"dataset": data.name, "dataset_fingerprint": data.fingerprint, "source": source},
    )


def _stage(part: Foreign, number: int, data: PreparedData, answers: Answers) -> SyntheticSet:
    images, kind = _checked_images(part, data), answers.soft_labels or part.kind
    labels, soft = _checked_labels(part, data.num_classes, answers)
    if answers.class_order is not None:
        here = torch.tensor([data.class_names.index(name) for name in answers.class_order])
        labels = here[labels]
        soft = None if soft is None else torch.empty_like(soft).index_copy_(1, here, soft)
    _require_equal_classes(labels, data, part.labels_where)
    order = labels.argsort(stable=True)
    return SyntheticSet(
        images=images[order],
        labels=labels[order],
        soft_labels=None if soft is None else soft[order],
        stage=torch.full((len(labels),), number, dtype=torch.int32),
        learned_lr=(_learned_lr(part, answers),),
        class_names=data.class_names,
        preprocessing=data.preprocessing,
        formation=part.formation,
        label_kind="regression" if soft is not None and kind == "regression" else "logits",
    )


def _checked_images(part: Foreign, data: PreparedData) -> Tensor:
    images = part.images
    if not images.is_floating_point():
        raise DataError(
            f"{part.where}: images are {images.dtype}, not floating point; raydd takes them as networks saw them: "
            "divide pixels by 255 and say --preprocess none, or import image files"
        )
    if images.ndim != 4 or tuple(images.shape[1:]) != data.shape:
        channels, height, width = data.shape
        raise DataError(
            f"{part.where}: images have the shape {list(images.shape)}, and the dataset needs "
            f"[N, {channels}, {height}, {width}]; correct data.source or data.image_size in the configuration"
        )
    if not bool(images.isfinite().all()):
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise DataError(f"{part.where}: {bad} of {len(images)} images have values that are not finite; take another")
    return images.float().contiguous()


def _checked_labels(part: Foreign, num_classes: int, answers: Answers) -> tuple[Tensor, Tensor | None]:
    """Classes int64 [M] and soft labels [M, K] as sets have them, or None of hard labels."""
    count, where = len(part.images), part.labels_where
    if part.labels is None:
        return _class_major(count, num_classes, where), None
    labels = part.labels
    if len(labels) != count:
        raise DataError(f"{where}: {len(labels)} labels for {count} images")
    if labels.ndim == 1 and not labels.is_floating_point():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(f"{where}: classes run from {low} to {high}, the dataset has 0 to {num_classes - 1}")
        if answers.soft_labels is not None:
            raise DataError(f"{where}: are classes and no soft labels; leave --soft-labels out")
        return labels.long(), None
    if labels.ndim != 2 or not labels.is_floating_point():
        raise DataError(f"{where}: labels are {labels.dtype} {list(labels.shape)}, not int64 [N] or float [N, classes]")
    if labels.shape[1] != num_classes:
        raise DataError(f"{where}: soft labels of {labels.shape[1]} classes, the dataset has {num_classes}")
    if not bool(labels.isfinite().all()):
        raise DataError(f"{where}: soft labels are not all finite; take another file")
    classes = _classes(labels, where) if part.classes is None else part.classes
    return classes, as_stored(labels, answers.soft_labels or part.kind, where)


def _classes(soft_MK: Tensor, where: str) -> Tensor:
    """The class of each soft label: by its place where at least half of the labels agree with that, or the largest."""
    count, num_classes = soft_MK.shape
    largest = soft_MK.argmax(1)
    if count % num_classes == 0:
        by_place = _class_major(count, num_classes, where)
        if float((by_place == largest).float().mean()) >= 0.5:
            return by_place
    return largest


def _class_major(count: int, num_classes: int, where: str) -> Tensor:
    if count % num_classes:
        raise DataError(f"{where}: {count} images are not the same number for each of {num_classes} classes")
    return torch.arange(num_classes).repeat_interleave(count // num_classes)


def _require_equal_classes(labels_M: Tensor, data: PreparedData, where: str) -> None:
    counts = labels_M.bincount(minlength=data.num_classes)
    if int(counts.min()) != int(counts.max()):
        few, many = int(counts.argmin()), int(counts.argmax())
        raise DataError(
            f"{where}: classes have different numbers of images: {data.class_names[few]!r} {int(counts[few])} and "
            f"{data.class_names[many]!r} {int(counts[many])}; raydd's sets have the same number of each"
        )


def _learned_lr(part: Foreign, answers: Answers) -> float | None:
    if part.learned_lr is not None and answers.lr is not None and part.learned_lr != answers.lr:
        raise DataError(f"{part.where}: the files say a step size of {part.learned_lr:g}, --lr says {answers.lr:g}")
    return answers.lr if part.learned_lr is None else part.learned_lr
