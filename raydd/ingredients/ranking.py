"""Ranking of the real training images by what a teacher thinks of them.

An image's score is the probability that the teacher gives to its true class; DELT (Shen et al. 2024,
https://arxiv.org/abs/2411.19946, section 3 and the published `data_selection.py`) starts from the images of medium
score. Scores are made in parts: a file of a few rows each, so that work that was broken off goes on at the first part
that is missing, and whoever makes a part makes the same.

Letters: N real images, B batch, K classes, C H W.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress, Work
from raydd.data import Undecoded
from raydd.data.prepared import LabelledImages
from raydd.data.preprocessing import Preprocessing
from raydd.ingredients.teacher import Teacher
from raydd.storage import Artefact, Folder, new_artefact, self_checked
from raydd.storage.readable import legible
from raydd.training.sampling import repeated

KIND = "ranking"
BATCH = 256
"""Images that are scored together."""
PART = 4 * BATCH
"""Images of a part."""

Order = Literal["medium", "easy", "hard", "random"]
ImageBlock = Mapping[str, npt.NDArray[np.generic]]
"""Arrays of B rows by name: `index` of the training images, then `label` and `image`, then `p_true`."""

_FILE = "ranking.parquet"
_SCHEMA = pa.schema({"class": pa.int64(), "index": pa.int64(), "path": pa.string(), "p_true": pa.float32()})


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """How the real images are ranked. Nothing here determines the ranking."""

    store: str | None = None
    """Folder or URI where rankings lie that several runs share; by default a run keeps its own."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The score of every training image."""

    class_: Tensor
    """int64 [N]"""
    index: Tensor
    """int64 [N], ascending: the row of the training split."""
    path: list[str]
    """The file that each image is in; see `data.paths`."""
    p_true: Tensor
    """float32 [N]: the teacher's probability of the true class."""

    def save(self, folder: Folder, key: str) -> None:
        """Write it as one artefact: a Parquet file of columns class, index, path and p_true."""
        columns = [self.class_.numpy(), self.index.numpy(), self.path, self.p_true.numpy()]
        table = pa.table(columns, schema=_SCHEMA)
        with new_artefact(folder, KIND, key) as writer, writer.writing(_FILE) as path:
            pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, folder: Folder) -> "Ranking":
        """Read what `save` wrote.

        Raises:
            ArtefactError: there is none, or it was altered.
        """
        artefact = Artefact.find(folder, KIND)
        if artefact is None:
            raise ArtefactError(f"{folder.uri}: there is no finished ranking here")
        with legible(folder.uri):
            table = pq.read_table(pa.BufferReader(artefact.read(_FILE)), schema=_SCHEMA)
            class_, index, p_true = (torch.tensor(table[name].to_numpy()) for name in ("class", "index", "p_true"))
            return cls(class_, index, table["path"].to_pylist(), p_true)

    def order(self, label: int, by: Order, key: Key) -> Tensor:
        """Rows int64 [n] of the training split, all n of a class, best first.

        Args:
            label: the class.
            by: `easy` has the highest score first, `hard` the lowest, `random` is a permutation under `key`; `medium`
                takes from the ascending scores those at mid, mid + 1, mid - 1, mid + 2, mid - 2, ... for
                mid = ceil(n / 2), counted from 0, as far as they exist (DELT's data_selection.py). Images of equal
                score are in the order of their rows.
            key: for `random`.
        """
        members = self.class_ == label
        rows, scores = self.index[members], self.p_true[members]
        match by:
            case "random":
                return rows[permutation(key.child("class", label), len(rows))]
            case "easy":
                return rows[scores.argsort(descending=True, stable=True)]
            case "hard":
                return rows[scores.argsort(stable=True)]
            case "medium":
                return rows[scores.argsort(stable=True)][_from_the_middle(len(rows))]

    def first(self, label: int, count: int, by: Order, key: Key, repeat: bool = False) -> Tensor:
        """The `count` best rows of a class, int64 [count]; see `order`.

        Raises:
            ConfigError: the class has fewer images, and they are not to be repeated.
        """
        rows = self.order(label, by, key)
        if len(rows) < (1 if repeat else count):
            raise ConfigError(
                "method.images_per_class",
                f"{count} asked for, but class {label} has only {len(rows)} ranked images; set method.repeat_images "
                "to true to take them more than once",
            )
        return repeated(rows, count)


def _from_the_middle(n: int) -> Tensor:
    """0 .. n - 1 as int64 [n], in the order mid, mid + 1, mid - 1, mid + 2, ... for mid = ceil(n / 2)."""
    offset = torch.arange(n) - (n + 1) // 2
    return (2 * offset.abs() - (offset > 0).long()).argsort()


def score(teacher: Teacher, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    """The teacher's probability of each image's class, float32 [N] on the CPU.

    Raises:
        RunError: a score is not finite.
    """
    p_N = teacher.logits(images_NCHW).softmax(1).gather(1, labels_N[:, None]).squeeze(1)
    if not p_N.isfinite().all():
        raise RunError("the teacher's output is not finite: train it anew, with a lower teacher.training.lr")
    return p_N


@dataclass(frozen=True)
class Parts:
    """The scores of N training images, in files of `size` rows; each is written whole, and by anybody the same."""

    folder: Folder
    num_images: int
    size: int = PART

    def __len__(self) -> int:
        """The number of parts."""
        return -(-self.num_images // self.size)

    def rows(self, number: int) -> slice:
        """The rows of a part."""
        return slice(number * self.size, min((number + 1) * self.size, self.num_images))

    def missing(self) -> list[int]:
        """The parts that are not finished."""
        finished = set(self.folder.files())
        return [number for number in range(len(self)) if self._name(number) not in finished]

    def write(self, number: int, p_true: Tensor) -> None:
        """Finish a part: float32 [its rows]."""
        self_checked.write(self.folder, self._name(number), {"p_true": p_true})

    def merged(self) -> Tensor:
        """The scores of all images, float32 [N].

        Raises:
            ArtefactError: a part is damaged.
        """
        return torch.cat([self._read(number) for number in range(len(self))])

    def _read(self, number: int) -> Tensor:
        tensors, _ = self_checked.read(self.folder, self._name(number))
        return tensors["p_true"]

    def _name(self, number: int) -> str:
        rows = self.rows(number)
        return f"rows-{rows.start:08d}-{rows.stop:08d}.safetensors"


def score_part(teacher: Teacher, train: LabelledImages, parts: Parts, number: int) -> None:
    """Score the images of a part, from memory, and finish it."""
    rows = torch.arange(len(train))[parts.rows(number)].split(BATCH)
    batches = zip(train.images.batches(rows), rows, strict=True)
    parts.write(number, torch.cat([score(teacher, images, train.labels[rows_B]) for images, rows_B in batches]))


def rank_here(teacher: Teacher, train: LabelledImages, images: Undecoded, parts: Parts, progress: Progress) -> Ranking:
    """Score in this process what is not scored yet, and merge.

    Args:
        teacher: the one that scores.
        train: the training images in network space.
        images: the same, by file.
        parts: where the scores are kept.
        progress: is told how it goes.
    """
    missing = parts.missing()
    for done, number in enumerate(missing, start=1):
        score_part(teacher, train, parts, number)
        progress.update(Work("ranking"), len(parts) - len(missing) + done, len(parts))
    return merge(images, parts)


def merge(images: Undecoded, parts: Parts) -> Ranking:
    """The ranking of the training images, when all parts are finished."""
    return Ranking(images.labels, torch.arange(len(images)), images.paths(), parts.merged())


def missing_batches(images: Undecoded, parts: Parts) -> list[ImageBlock]:
    """Index and label of the images that are not scored yet, in batches; all but a part's last have BATCH rows."""
    index, labels = torch.arange(len(images)), images.labels
    rows = [batch for number in parts.missing() for batch in index[parts.rows(number)].split(BATCH)]
    return [{"index": batch.numpy(), "label": labels[batch].numpy()} for batch in rows]


def score_batch(batch: ImageBlock, teacher: Teacher, preprocessing: Preprocessing) -> ImageBlock:
    """The scores `p_true` of a batch with its pixels, `image`, uint8 [B, C, H, W]."""
    images, labels = torch.tensor(batch["image"]), torch.tensor(batch["label"])
    p_B = score(teacher, preprocessing.forward(images.to(teacher.device)), labels)
    return {"index": batch["index"], "p_true": p_B.numpy()}


def collect(parts: Parts, scored: Iterable[ImageBlock], progress: Progress) -> None:
    """Finish every part as soon as the last of its scores has come in; batches come in any order."""
    p_N = torch.full((parts.num_images,), torch.nan)
    finished = len(parts) - len(parts.missing())
    for batch in scored:
        index = torch.tensor(batch["index"])
        p_N[index] = torch.tensor(batch["p_true"])
        for number in (index // parts.size).unique().tolist():
            p_B = p_N[parts.rows(number)]
            if not p_B.isnan().any():
                parts.write(number, p_B.clone())
                finished += 1
                progress.update(Work("ranking"), finished, len(parts))
