"""SyntheticSet: a distilled dataset with everything that is needed to use it elsewhere.

Letters: M synthetic images, K classes, C H W.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ArtefactError, ConfigError
from raydd.data.preprocessing import Preprocessing, restore
from raydd.networks.losses import LabelKind
from raydd.sets.formation import Formation, grey
from raydd.sets.preview import as_picture, encoded, preview
from raydd.storage import Artefact, ArtefactWriter, Folder, new_artefact
from raydd.storage.readable import legible

KIND = "synthetic"
_COUNTED = ("image_iterations", "uniform_iterations")
MAX_FILE_BYTES = 256 * 2**20
_CARD, _WHITENING, _PREVIEW = "card.json", "whitening.safetensors", "preview.png"


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """A small dataset to train on, in the space that networks see."""

    images: Tensor
    """float32 [M, C, H, W] in network space (standardised or whitened)."""
    labels: Tensor
    """int64 [M]: the class of each image."""
    soft_labels: Tensor | None = None
    """float32 [M, K] numbers of the `label_kind`, or None where labels are hard."""
    stage: Tensor
    """int32 [M]: the stage that made each image."""
    learned_lr: tuple[float | None, ...]
    """The student's step size, one a stage; None where none was learned."""
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    card: Mapping[str, Any] = field(default_factory=dict)
    """What else is known: method, dataset, evaluation recipe, seeds, versions. JSON."""
    formation: Formation | None = None
    """How the images become those that students see; None where they are those themselves."""
    label_kind: LabelKind = "logits"
    """What soft labels are: logits, or targets of a squared loss (FRePo)."""

    def __len__(self) -> int:
        """The number of images, M."""
        return len(self.images)

    def __repr__(self) -> str:
        """What it is, in a line, without its values."""
        shape, labels = "x".join(map(str, self.images.shape[1:])), self.labels_in_words
        return f"SyntheticSet({len(self)} images, {shape}, {self.num_classes} classes, {labels})"

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)

    @property
    def images_per_class(self) -> int:
        """Stored images per class, counting all stages; the mean where classes differ, rounded down."""
        return len(self) // self.num_classes

    @property
    def labels_in_words(self) -> str:
        """What labels are, such as `soft labels`."""
        soft = "soft labels" if self.label_kind == "logits" else "regression labels"
        return "hard labels" if self.soft_labels is None else soft

    @property
    def shares(self) -> Tensor | None:
        """What of each class soft labels say an image is: float32 [M, K], rows of sum 1; None where they are hard.

        Regression labels are centred at 1/K, and what is negative then is cut off.
        """
        if self.soft_labels is None or self.label_kind == "logits":
            return None if self.soft_labels is None else self.soft_labels.softmax(1)
        raised = self.soft_labels - self.soft_labels.mean(1, keepdim=True) + 1 / self.num_classes
        return F.normalize(raised.clamp(min=0), p=1, dim=1)

    @property
    def targets(self) -> Tensor:
        """What a student's loss compares with: the soft labels where there are any, else the classes."""
        return self.labels if self.soft_labels is None else self.soft_labels

    def decoded(self) -> "SyntheticSet":
        """The set as students see it: images decoded, in the order of the stored ones, with what belongs to each."""
        if self.formation is None:
            return self
        pad = grey(self.preprocessing, self.images.shape[1])
        images, index = self.formation.decoded(self.images, self.labels, pad)
        return replace(
            self,
            images=images,
            labels=self.labels[index],
            soft_labels=None if self.soft_labels is None else self.soft_labels[index],
            stage=self.stage[index],
            formation=None,
        )

    def pixels(self) -> Tensor:
        """The images as people see them, uint8 [M, C, H, W]."""
        return self._pixels(slice(None))

    @cached_property
    def is_exact(self) -> bool:
        """Whether the images are whole pixels in network space, so that `pixels` says all about them."""
        return torch.equal(self.preprocessing.forward(self.pixels()), self.images)

    def save(self, folder: Folder, key: str) -> None:
        """Write the set as one artefact: Parquet, card, whitening and preview."""
        with new_artefact(folder, KIND, key) as writer:
            files = self._write_images(writer)
            tensors = {name: t.contiguous() for name, t in self.preprocessing.tensors().items()}
            writer.write(_WHITENING, save_tensors(tensors))
            writer.write(_PREVIEW, preview(self.pixels(), self.labels))  # without names: records say its bytes
            writer.write(_CARD, json.dumps(self._card(files), indent=2, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: Folder) -> "SyntheticSet":
        """Read a set that `save` wrote.

        Raises:
            ArtefactError: there is none, or it is damaged.
        """
        artefact = Artefact.find(folder, KIND)
        if artefact is None:
            raise ArtefactError(f"{folder.uri}: there is no synthetic set here (no manifest.json)")
        artefact.verify()
        with legible(folder.uri):
            return cls._read(artefact)

    @classmethod
    def _read(cls, artefact: Artefact) -> "SyntheticSet":
        """The set in an intact artefact."""
        card = json.loads(artefact.read(_CARD))
        table = pa.concat_tables([_filled(artefact.local(name)) for name in card.pop("files")])
        shape = (table.num_rows, *card.pop("image_shape"))
        preprocessing = restore(card.pop("preprocessing"), load_tensors(artefact.read(_WHITENING)))
        if "tensor" in table.column_names:
            images = _floats(table["tensor"].combine_chunks().storage).view(shape)
        else:
            images = preprocessing.forward(_decoded(table["image"].combine_chunks(), shape))
        soft = _floats(table["soft_label"].combine_chunks()) if "soft_label" in table.column_names else None
        return cls(
            images=images,
            labels=torch.from_numpy(table["label"].to_numpy().copy()),
            soft_labels=None if soft is None else soft.view(len(table), -1),
            stage=torch.from_numpy(table["stage"].to_numpy().copy()),
            learned_lr=tuple(card.pop("learned_lr")),
            class_names=tuple(card.pop("class_names")),
            preprocessing=preprocessing,
            formation=Formation(**card.pop("formation")) if "formation" in card else None,
            label_kind=card.pop("label_kind", "logits"),
            card=card,
        )

    def _card(self, files: list[str]) -> dict[str, Any]:
        formation = {} if self.formation is None else {"formation": asdict(self.formation)}
        kind = {} if self.label_kind == "logits" else {"label_kind": self.label_kind}
        return {
            **self.card,
            **formation,
            **kind,
            "files": files,
            "class_names": list(self.class_names),
            "image_shape": list(self.images.shape[1:]),
            "images_per_class": self.images_per_class,
            "label_regime": "hard" if self.soft_labels is None else "stored",
            "learned_lr": list(self.learned_lr),
            "num_images": len(self),
            "preprocessing": self.preprocessing.describe(),
        }

    def _write_images(self, writer: ArtefactWriter) -> list[str]:
        bytes_per_image = self.images[0].numel() * 5 + 4 * self.num_classes
        rows = max(1, MAX_FILE_BYTES // bytes_per_image)
        names = []
        for number, first in enumerate(range(0, len(self), rows)):
            names.append(f"images-{number:05d}.parquet")
            with writer.writing(names[-1]) as path:
                _write_parquet(path, self._table(slice(first, first + rows)))
        return names

    def _pixels(self, rows: slice) -> Tensor:
        return self.preprocessing.inverse(self.images[rows]).mul(255).round().clamp(0, 255).to(torch.uint8)

    def _table(self, rows: slice) -> pa.Table:
        images = self.images[rows].contiguous()
        pngs = [{"bytes": encoded(as_picture(image)), "path": None} for image in self._pixels(rows)]
        soft_type = pa.list_(pa.float32(), self.num_classes)
        if self.soft_labels is None:
            soft = pa.nulls(len(images), soft_type)
        else:
            soft = pa.FixedSizeListArray.from_arrays(
                pa.array(self.soft_labels[rows].reshape(-1).numpy()), type=soft_type
            )
        columns = {
            "tensor": _tensors(images, left_out=self.is_exact),
            "image": pa.array(pngs, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array(self.labels[rows].numpy()),
            "soft_label": soft,
            "stage": pa.array(self.stage[rows].numpy()),
            "index": pa.array(np.arange(rows.start, rows.start + len(images))),
        }
        return pa.table(columns)


def union(parts: list[SyntheticSet]) -> SyntheticSet:
    """All stages as one set, in the order of the stages; labels stay soft only where every part's are.

    Raises:
        ConfigError: the stages' images are decoded in different ways, or their soft labels are of two kinds.
    """
    _require_one_formation(parts)
    if len({part.label_kind for part in parts if part.soft_labels is not None}) > 1:
        raise ConfigError("stages.overrides", "stages with logits and with regression labels cannot be joined")
    soft = [part.soft_labels for part in parts if part.soft_labels is not None]
    return replace(
        parts[-1],
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        soft_labels=torch.cat(soft) if len(soft) == len(parts) else None,
        stage=torch.cat([part.stage for part in parts]),
        learned_lr=tuple(lr for part in parts for lr in part.learned_lr),
    )


def by_class(parts: Sequence[SyntheticSet]) -> SyntheticSet:
    """Sets of one stage as one, class after class; images of a class stay in the order of the parts.

    Of numbers on their cards that count something (`image_iterations`, `uniform_iterations`) the sum is taken.

    Raises:
        ConfigError: the parts' images are decoded in different ways.
    """
    _require_one_formation(parts)
    order = torch.cat([part.labels for part in parts]).argsort(stable=True)
    counted = {name: sum(part.card[name] for part in parts) for name in _COUNTED if name in parts[-1].card}
    return replace(
        parts[-1],
        images=torch.cat([part.images for part in parts])[order],
        labels=torch.cat([part.labels for part in parts])[order],
        stage=torch.cat([part.stage for part in parts])[order],
        card={**parts[-1].card, **counted},
    )


def _require_one_formation(parts: Sequence[SyntheticSet]) -> None:
    first, *others = (part.formation for part in parts)
    for other in others:
        if other != first:
            raise ConfigError("formation", f"sets decoded in different ways cannot be joined: {first} and {other}")


def _tensors(images_MCHW: Tensor, left_out: bool) -> pa.Array:
    """The images as a column of tensors; nulls where the pixels beside it say the same to the bit."""
    if not left_out:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(images_MCHW.numpy())
    return pa.nulls(len(images_MCHW), pa.fixed_shape_tensor(pa.float32(), list(images_MCHW.shape[1:])))


def _decoded(images: pa.Array, shape: Sequence[int]) -> Tensor:
    """uint8 [M, C, H, W] from a column of PNGs."""
    arrays = [np.asarray(Image.open(io.BytesIO(png))) for png in images.field("bytes").to_pylist()]
    _, channels, height, width = shape
    return torch.from_numpy(np.stack(arrays)).view(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _filled(path: Path) -> pa.Table:
    """The columns of a Parquet file that hold anything; pyarrow before 26 cannot read those of lists that do not."""
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    leaves = [group.column(place) for group in groups for place in range(group.num_columns)]
    held = {
        leaf.path_in_schema.partition(".")[0]
        for leaf in leaves
        if leaf.statistics is None or leaf.statistics.null_count < leaf.num_values
    }
    return file.read(columns=[name for name in file.schema_arrow.names if name in held])


def _floats(array: pa.Array) -> Tensor:
    return torch.from_numpy(array.flatten().to_numpy().astype(np.float32, copy=True))


def _write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
