"""Exports of raydd that come back: their `card.json` answers what files of other code leave open.

Letters: K classes.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file

from raydd.core.errors import ConfigError, DataError
from raydd.data.fit_preprocessing import literature_constants
from raydd.data.prepared import PreparedData
from raydd.data.preprocessing import Preprocessing, Standardise, restore
from raydd.exchange.answers import Answers
from raydd.exchange.card import CARD, WHITENING
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import sha256
from raydd.methods.imported import require_space
from raydd.networks.losses import LabelKind
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.foreign_files import guarded

_FORMATS: Final = ("pt", "imagefolder", "parquet")
_SET: Final = "synthetic"


@dataclass(frozen=True, kw_only=True)
class OwnCard:
    """What an export says of itself."""

    folder: Path
    format: str
    class_names: tuple[str, ...]
    """In the order of the labels, [K]."""
    label_regime: Literal["hard", "stored"]
    label_kind: LabelKind = "logits"
    """What soft labels are."""
    learned_lr: tuple[float | None, ...]
    """Of each stage."""
    preprocessing: dict[str, Any]
    """See `Preprocessing.describe`."""
    set: dict[str, Any]
    """The card of the set."""
    files: dict[str, dict[str, Any]]
    """Size and SHA-256 of each."""

    @classmethod
    def of(cls, source: Path) -> Self | None:
        """The card in a folder, or beside a file; None where other code wrote it.

        Raises:
            DataError: raydd wrote the export, and its card or a file of it is damaged.
        """
        folder = source if source.is_dir() else source.parent
        file = folder / CARD
        if not file.is_file():
            return None
        try:
            card = json.loads(file.read_text())
        except (ValueError, OSError):
            return None
        if not isinstance(card, dict) or card.get("format") not in _FORMATS or "preprocessing" not in card:
            return None
        try:
            found = TypeAdapter(cls).validate_python({"folder": folder, **card})
        except ValidationError as error:
            problem = error.errors()[0]
            raise DataError(
                f"{file}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; export it again"
            ) from None
        found._require_whole()
        return found

    def data_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The `data:` of a configuration, with the preprocessing of the export where it names none.

        Args:
            values: plain data.
        """
        said: dict[str, Any] = {"preprocess": self.preprocessing["name"]}
        if said["preprocess"] == Standardise.name:
            said["statistics"] = "literature" if self._is_literature(str(values.get("source"))) else "computed"
        return {**said, **values} if values.get("preprocess", said["preprocess"]) == said["preprocess"] else {**values}

    def answers(self, given: Answers, data: PreparedData) -> Answers:
        """What the card says, and the user's answers, which must not say otherwise.

        Raises:
            DataError: they do, or the classes are not those of the data, or it is the export of other pixels.
        """
        if sorted(self.class_names) != sorted(data.class_names):
            odd = sorted({*self.class_names} ^ {*data.class_names})[:5]
            raise DataError(f"{self.folder}: its classes are not those of {data.name}; look at {odd}")
        if given.class_order not in (None, self.class_names):
            raise DataError(f"{self.folder / CARD}: has the classes in another order than --class-order; leave it out")
        require_space(self._space(), data)
        kind = given.soft_labels or (self.label_kind if self.label_regime == "stored" else None)
        lr = self.learned_lr[-1] if given.lr is None and self.format == "imagefolder" else given.lr
        return replace(given, soft_labels=kind, lr=lr, class_order=self.class_names)

    @property
    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """Name and fields of the recipe by which the run trains students; None where the set had none."""
        return (str(self.set.get("recipe_name", "given")), self.set["recipe"]) if "recipe" in self.set else None

    def _is_literature(self, source: str) -> bool:
        mean, std = (self.preprocessing[name] for name in ("mean", "std"))
        with suppress(ConfigError):
            usual = literature_constants(source, len(mean))
            return (usual.mean_C.tolist(), usual.std_C.tolist()) == (mean, std)
        return False

    def _space(self) -> Preprocessing:
        names = [name for name in self.files if name.endswith(WHITENING)]
        with guarded(str(self.folder), "an export whose preprocessing can be read", b""):
            return restore(self.preprocessing, load_file(self.folder / names[0]) if names else {})

    def _require_whole(self) -> None:
        for name, about in self.files.items():
            file = self.folder / name
            if not file.is_file():
                raise DataError(f"{file}: is missing, though {CARD} names it; export it again")
            if sha256(file) != about.get("sha256"):
                raise DataError(f"{file}: is not the file that {CARD} names (other SHA-256); export it again")


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The stages of the set in an export as parquet, exactly as it was.

    Raises:
        DataError: the folder is no such export.
        ArtefactError: the set is damaged.
    """
    if not (source / _SET).is_dir():
        raise DataError(f"{source}: has no {_SET}/, as `raydd export --format parquet` writes it")
    found = SyntheticSet.load(Folder.at(source / _SET))
    parts = []
    for number, stage in enumerate(found.stage.unique().tolist()):
        rows = found.stage == stage
        labels = found.labels[rows]
        parts.append(
            Foreign(
                where=str(source / _SET),
                images=found.images[rows],
                labels=labels if found.soft_labels is None else found.soft_labels[rows],
                classes=labels,
                labels_where=str(source / _SET),
                files=tuple(sorted(file for file in (source / _SET).iterdir() if file.is_file())),
                kind=None if found.soft_labels is None else found.label_kind,
                learned_lr=found.learned_lr[number],
                formation=found.formation,
            )
        )
    return parts
