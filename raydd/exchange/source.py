"""The distilled set that is exported: as students see it, class after class, with what is known of it.

Letters: M images, K classes, C H W.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.evaluation.tables.summary import SummaryRow, final_stages, summarise
from raydd.exchange.advice import instead
from raydd.sets.synthetic import KIND, SyntheticSet
from raydd.storage import Artefact, Folder
from raydd.storage.folder import MANIFEST


@dataclass(frozen=True)
class Quantisation:
    """What becomes of images as 8-bit pixels."""

    exact: bool
    """Whether nothing is lost: the images are whole pixels."""
    values: int
    """M * C * H * W."""
    clipped: int
    """Values whose nearest level lies outside of 0..255."""
    lowest: float
    """In units of [0, 1], as `highest`."""
    highest: float


@dataclass(frozen=True, kw_only=True)
class WrittenAccuracy:
    """Of networks that were trained on what an export holds."""

    mean: float | None
    """Mean test accuracy, a fraction; None where it is not known."""
    std: float | None = None
    """Sample standard deviation; None for fewer than two networks."""
    students: int = 0
    network: str = ""
    labels: str = ""
    """`stored` for soft labels of the set, `hard` for classes: those in the files."""
    quantised: bool = False
    """Whether the images were rounded to 8 bit for it."""
    reason: str = ""
    """Why it is not known."""


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A set and its results."""

    stored: SyntheticSet
    """The set as it is stored."""
    key: str
    """The content key of its artefact."""
    results: list[SummaryRow]
    """Of the run's students after the last stage; empty where the set was not found in a run's folder."""
    written: WrittenAccuracy | None = None
    """Of networks that are trained on what is exported; None before it is known in which form that is."""
    license: str | None = None
    """Under which the images may be used, as the Hub calls it; None where nobody has said."""

    @classmethod
    def load(cls, folder: Folder) -> "ExportSource":
        """Read the set of a run, or of a folder that holds one.

        Raises:
            ArtefactError: there is none, it has no images, or something is damaged.
        """
        place = set_folder(folder)
        stored = SyntheticSet.load(place)
        if not len(stored):
            raise ArtefactError(f"{place.uri}: the set has no images; there is nothing to export")
        key = Artefact.require(place, KIND).manifest.key
        return cls(stored=stored, key=key, results=final_stages(summarise(records.read(folder / "results"))))

    @cached_property
    def synthetic(self) -> SyntheticSet:
        """The set as students see it: decoded, class after class, images of a class in the order of the set."""
        return in_class_order(self.stored.decoded())

    @cached_property
    def pixels(self) -> Tensor:
        """The images as 8-bit pixels, uint8 [M, C, H, W]."""
        return self.synthetic.pixels()

    @cached_property
    def counts(self) -> list[int]:
        """The number of images of each class."""
        return self.synthetic.labels.bincount(minlength=self.synthetic.num_classes).tolist()

    @property
    def learned_lr(self) -> float | None:
        """The student's step size, learned in the last stage; None where none was."""
        return self.stored.learned_lr[-1]

    @cached_property
    def quantisation(self) -> Quantisation:
        """What is lost in `pixels`."""
        exact = self.synthetic.preprocessing.inverse(self.synthetic.images)
        levels = (255 * exact).round()
        return Quantisation(
            exact=self.synthetic.is_exact,
            values=exact.numel(),
            clipped=int(((levels < 0) | (levels > 255)).sum()),
            lowest=float(exact.min()),
            highest=float(exact.max()),
        )

    @property
    def method(self) -> str:
        """The name of the method that made the set, as far as its card says it."""
        method: Any = self.stored.card.get("method")
        return str(method["name"]) if isinstance(method, dict) else str(method or "an unknown method")


def set_folder(folder: Folder) -> Folder:
    """Where the distilled set is: in `synthetic` of a run's folder, else in the folder itself.

    Raises:
        ArtefactError: there is none; says what the folder is, and what to do.
    """
    for place in (folder / "synthetic", folder):
        if place.has(MANIFEST):
            return place
    raise ArtefactError(f"{folder.uri}: there is no synthetic set here; {instead(folder)}")


def in_class_order(synthetic: SyntheticSet) -> SyntheticSet:
    """The images of the first class, then those of the second, and so on, each with what belongs to it."""
    order = synthetic.labels.argsort(stable=True)
    return replace(
        synthetic,
        images=synthetic.images[order],
        labels=synthetic.labels[order],
        soft_labels=None if synthetic.soft_labels is None else synthetic.soft_labels[order],
        stage=synthetic.stage[order],
    )
