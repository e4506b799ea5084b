"""Joining distilled sets of disjoint classes of one dataset: classes are added, and the old ones are not touched.

Letters: M images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.sets.synthetic import SyntheticSet

ABSENT: Final = -1e4
"""The logit of a class that a soft label knows nothing of: its probability is 0 at any temperature up to 90."""


def joined(parts: Mapping[str, SyntheticSet], class_names: Sequence[str]) -> SyntheticSet:
    """One set of all classes, class after class; images of a class stay in their order, and so does all about them.

    Soft labels are told apart from classes that they were not made for by `ABSENT`. Where step sizes were learned,
    that of each stage is the mean over the sets. The card is the first set's.

    Args:
        parts: the sets, by what messages call them.
        class_names: all classes of all sets, in the order of the dataset.

    Raises:
        ArtefactError: sets share a class, or differ in what has to be one thing: preprocessing, the images' shape and
            how they are decoded, stages, the recipe, what
            labels are and whether step sizes are learned; or labels are regression targets.
    """
    _require_disjoint(parts)
    _require_alike(parts)
    _require_shares(parts)
    sets = list(parts.values())
    places = [torch.tensor([class_names.index(name) for name in own.class_names]) for own in sets]
    labels = torch.cat([place_K[own.labels] for place_K, own in zip(places, sets, strict=True)])
    order = labels.argsort(stable=True)
    soft = [
        _spread(own.soft_labels, place_K, len(class_names))
        for place_K, own in zip(places, sets, strict=True)
        if own.soft_labels is not None
    ]
    return replace(
        sets[0],
        images=torch.cat([own.images for own in sets])[order],
        labels=labels[order],
        soft_labels=torch.cat(soft)[order] if soft else None,
        stage=torch.cat([own.stage for own in sets])[order],
        learned_lr=tuple(
            None if None in of_stage else fmean(of_stage)
            for of_stage in zip(*(own.learned_lr for own in sets), strict=True)
        ),
        class_names=tuple(class_names),
    )


def _spread(logits_MK: Tensor, places_K: Tensor, num_classes: int) -> Tensor:
    """Logits [M, num_classes] of which those of the set's own classes are known."""
    spread = logits_MK.new_full((len(logits_MK), num_classes), ABSENT)
    spread[:, places_K] = logits_MK
    return spread


def _require_disjoint(parts: Mapping[str, SyntheticSet]) -> None:
    owners: dict[str, str] = {}
    for where, own in parts.items():
        for name in own.class_names:
            if name in owners:
                raise ArtefactError(f"{where}: has the class {name}, as {owners[name]} has; sets must share no class")
            owners[name] = where


def _require_alike(parts: Mapping[str, SyntheticSet]) -> None:
    where_first, first = next(iter(parts.items()))
    wanted = _common(first)
    for where, own in parts.items():
        for what, value in _common(own).items():
            if value != wanted[what]:
                raise ArtefactError(f"{where}: {_WAYS_OUT.get(what, what)} differs from that of {where_first}")


def _require_shares(parts: Mapping[str, SyntheticSet]) -> None:
    """Regression labels are centred over the classes that they were learned for, and say nothing of others."""
    for where, own in parts.items():
        if own.soft_labels is not None and own.label_kind == "regression":
            raise ArtefactError(f"{where}: has regression labels, which cannot be joined with those of other classes")


def _common(own: SyntheticSet) -> dict[str, object]:
    """What all sets that are joined have to agree in."""
    return {
        "dataset": own.card.get("dataset"),
        "shape of the images": tuple(own.images.shape[1:]),
        "preprocessing": own.preprocessing.digest,
        "formation": own.formation,
        "labels": own.labels_in_words,
        "number of stages": len(own.learned_lr),
        "step size": tuple(lr is None for lr in own.learned_lr),
        "recipe": own.card.get("recipe"),
    }


_WAYS_OUT: Final = {
    "preprocessing": "the preprocessing (distil with data.statistics: literature, or data.preprocess: none, which are "
    "the same for all classes)",
    "labels": "what labels are",
    "step size": "whether step sizes were learned",
    "recipe": "the students' recipe",
    "formation": "how images are decoded",
}
