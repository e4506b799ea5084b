"""How alike the images of a class are, from what the records say of each training set."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import get_args

import pyarrow as pa

from raydd.evaluation.record import Subject

_CENTROID, _PAIRWISE = "centroid_similarity", "pairwise_similarity"


@dataclass(frozen=True)
class Cosine:
    """A mean cosine."""

    mean: float
    std: float | None
    """Between draws; None for fewer than two."""


@dataclass(frozen=True)
class Similarity:
    """How alike the images of one training set are, in the eyes of a network."""

    subject: str
    draws: int
    """Of random real images, how many sets the means are over; else 1."""
    centroid: Cosine | None
    """Between an image and the centroid of its class."""
    pairwise: Cosine | None
    """Between two images of a class; None where a class has only one."""
    classes: Mapping[str, float]
    """The first of the two for every class, by its name."""


def similarities(table: pa.Table) -> list[Similarity]:
    """What records say of how alike images are, one observation per draw; nothing where nobody measured it.

    All students of one set say the same, whatever their labels and networks. A set of one image per class is as alike
    as can be, of which nothing is said.
    """
    draws: dict[str, dict[int, dict[str, float]]] = {}
    for row in table.select(["subject", "distill_seed", "images_per_class", "metrics"]).to_pylist():
        measured = dict(row["metrics"] or ())
        if _CENTROID in measured and row["images_per_class"] > 1:
            draws.setdefault(row["subject"], {})[row["distill_seed"]] = measured
    order = [subject for subject in get_args(Subject) if subject in draws]
    return [_similarity(subject, list(draws[subject].values())) for subject in order]


def _similarity(subject: str, draws: list[dict[str, float]]) -> Similarity:
    cosines = {
        name: _cosine([draw[name] for draw in draws]) for name in draws[0] if all(name in draw for draw in draws)
    }
    prefix = f"{_CENTROID}."
    classes = {name.removeprefix(prefix): c.mean for name, c in cosines.items() if name.startswith(prefix)}
    return Similarity(subject, len(draws), cosines.get(_CENTROID), cosines.get(_PAIRWISE), classes)


def _cosine(values: list[float]) -> Cosine:
    return Cosine(fmean(values), stdev(values) if len(values) > 1 else None)
