"""TrajectoryStore: the parameters of expert networks after every epoch of their training.

One Arrow IPC file an expert, one record batch an epoch, read by memory map: a single epoch costs its own bytes only.
Letters: P flat parameters, T epochs.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.ingredients.trajectory_card import TrajectoryCard, require_card
from raydd.storage import Folder, content_key, new_artefact
from raydd.storage.folder import MANIFEST

KIND = "experts"
_ENDS = ("arrow", "json")
METRICS = ("train_loss", "train_accuracy", "test_accuracy")
_FACTS = {"expert", "epochs", "kept", "size", "sha256", "train_accuracy", "test_accuracy"}
"""Of an expert; earlier versions wrote no digest of them beside."""


@dataclass(frozen=True)
class Snapshot:
    """An expert after `epoch` epochs; epoch 0 is its initialisation."""

    epoch: int
    params: Tensor
    """float32 [P]"""
    train_loss: float | None = None
    train_accuracy: float | None = None
    test_accuracy: float | None = None


class TrajectoryStore:
    """Finished expert trajectories in a folder, and the place where new ones are put.

    An expert exists once its `expert-NNNNN.json` does; the store as a whole once its manifest does. Experts are
    deterministic, so two runs that fill one store at once write the same bytes.
    """

    def __init__(self, folder: Folder, card: TrajectoryCard) -> None:
        """Open the store of `card` in `folder`, which may be empty."""
        self.folder = folder
        self.card = card

    def has(self, expert: int) -> bool:
        """Whether the expert's trajectory is finished."""
        return all(self.folder.has(f"{_name(expert)}.{end}") for end in _ENDS)

    def missing(self, count: int) -> list[int]:
        """Of experts 0 .. count - 1 those of which a file is not there."""
        there = set(self.folder.files())
        return [number for number in range(count) if not {f"{_name(number)}.{end}" for end in _ENDS} <= there]

    def finished(self) -> list[int]:
        """The experts whose trajectories are finished, ascending."""
        names = (Path(name) for name in self.folder.files())
        return [
            int(name.stem.removeprefix("expert-"))
            for name in names
            if name.suffix == ".json" and "expert-" in name.stem
        ]

    def write(self, expert: int, snapshots: Iterator[Snapshot]) -> None:
        """Store a trajectory, in place of an earlier one: the Arrow file, then the JSON file that makes it exist.

        Args:
            expert: its number.
            snapshots: of epochs in ascending order, consumed one at a time.
        """
        schema = self._schema(expert)
        with self.folder.writing(f"{_name(expert)}.arrow") as path:
            last, kept = None, []
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for last in snapshots:
                    writer.write_batch(_record_batch(last, schema))
                    kept.append(last.epoch)
            facts = {
                "expert": expert,
                "epochs": last.epoch if last else None,
                "kept": kept,
                "size": path.stat().st_size,
                "sha256": _sha256(path),
                "train_accuracy": last.train_accuracy if last else None,
                "test_accuracy": last.test_accuracy if last else None,
            }
            self.folder.delete(f"{_name(expert)}.json")
        facts["digest"] = content_key(facts)
        self.folder.write(f"{_name(expert)}.json", json.dumps(facts, indent=2).encode())
        _open.cache_clear()

    def lacks(self, expert: int, epochs: Iterable[int]) -> list[int]:
        """Which of these epochs a finished expert was stored without."""
        kept = self._facts(expert)["kept"]
        return [] if kept is None else [epoch for epoch in epochs if epoch not in kept]

    def withdraw(self) -> None:
        """Delete the manifest, so that finished experts may be written anew."""
        self.folder.delete(MANIFEST)

    def publish(self, key: str) -> None:
        """Write the manifest over all finished experts."""
        with new_artefact(self.folder, KIND, key) as writer:
            writer.write("card.json", json.dumps(self.card.identity(), indent=2).encode())
            for expert in self.finished():
                arrow = f"{_name(expert)}.arrow"
                writer.adopt(arrow)
                writer.adopt(f"{_name(expert)}.json")
                self._require_sum(expert, writer.files[arrow].sha256)

    def require_intact(self, expert: int) -> None:
        """Compare all of a trajectory's file with its SHA-256, as long as there is no manifest.

        Raises:
            ArtefactError: it is not what was written.
        """
        self._require_sum(expert, self.folder.sha256(f"{_name(expert)}.arrow"))

    def _require_sum(self, expert: int, sha256: str) -> None:
        if sha256 != self._facts(expert)["sha256"]:
            raise ArtefactError(
                f"{(self.folder / _name(expert)).uri}.arrow: the content is not what was written (SHA-256 differs); "
                f"delete the expert's two files and run again"
            )

    def reader(self, expert: int) -> "Trajectory":
        """One expert's trajectory.

        Raises:
            ArtefactError: it is unfinished, cut short, or was made for something else.
        """
        if not self.has(expert):
            raise ArtefactError(f"{self.folder.uri}: expert {expert} has no finished trajectory")
        facts = self._facts(expert)
        path = self.folder.local(f"{_name(expert)}.arrow")
        if path.stat().st_size != facts["size"]:
            raise ArtefactError(
                f"{path}: {path.stat().st_size} bytes where {facts['size']} were written; "
                f"delete the expert's two files and run again"
            )
        return Trajectory(path, self.card)

    def params(self, expert: int, epoch: int) -> Tensor:
        """float32 [P]: the expert's parameters after `epoch` epochs."""
        return _open(self, expert).params(epoch)

    def check(self, count: int, last_epoch: int) -> None:
        """See that experts 0 .. count - 1 are there, intact, and reach `last_epoch`.

        Raises:
            ArtefactError: naming the file, or what is missing.
        """
        for expert in range(count):
            epochs = self.reader(expert).epochs
            if epochs < last_epoch:
                raise ArtefactError(
                    f"{self.folder.uri}: expert {expert} ends at epoch {epochs}, {last_epoch} is needed"
                )

    def _facts(self, expert: int) -> dict[str, Any]:
        name = f"{_name(expert)}.json"
        try:
            facts: dict[str, Any] = json.loads(self.folder.read(name))
            digest = facts.pop("digest", None)
            if digest is None and {"size", "sha256"} <= facts.keys() <= _FACTS:
                return {**facts, "kept": facts.get("kept") and list(facts["kept"])}
            if digest != content_key(facts):
                raise ValueError("its digest is not that of its content")
            return facts
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtefactError(
                f"{(self.folder / name).uri}: damaged ({error!r}); delete the expert's two files and run again"
            ) from error

    def _schema(self, expert: int) -> pa.Schema:
        fields = [
            pa.field("epoch", pa.int32()),
            pa.field("params", pa.list_(pa.float32(), self.card.size)),
            pa.field("train_loss", pa.float64()),
            pa.field("train_accuracy", pa.float64()),
            pa.field("test_accuracy", pa.float64()),
        ]
        return pa.schema(fields, metadata={"card": json.dumps(self.card.identity()), "expert": str(expert)})


class Trajectory:
    """One expert's Arrow file, memory-mapped."""

    def __init__(self, path: Path, card: TrajectoryCard) -> None:
        """Open the file and compare its card with the one wanted.

        Raises:
            ArtefactError: it cannot be read, or differs from `card`; the message names the first difference.
        """
        self.path = path
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            found = json.loads(self._file.schema.metadata[b"card"])
            batches = (self._file.get_batch(i) for i in range(self._file.num_record_batches))
            self._row = {batch["epoch"][0].as_py(): i for i, batch in enumerate(batches)}
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{path}: not a readable trajectory ({error}); delete the expert's two files and run again"
            ) from error
        require_card(found, card, str(path))

    @property
    def epochs(self) -> int:
        """The last epoch stored."""
        return int(max(self._row))

    @property
    def kept(self) -> Collection[int]:
        """The epochs stored."""
        return self._row.keys()

    def params(self, epoch: int) -> Tensor:
        """float32 [P] after `epoch` epochs, a copy.

        Raises:
            ArtefactError: that epoch was not stored.
        """
        return self.snapshot(epoch).params

    def snapshot(self, epoch: int) -> Snapshot:
        """All that was stored of an epoch, a copy.

        Raises:
            ArtefactError: that epoch was not stored.
        """
        if epoch not in self._row:
            raise ArtefactError(f"{self.path}: epoch {epoch} is not stored (last: {self.epochs})")
        batch = self._file.get_batch(self._row[epoch])
        params = torch.from_numpy(batch["params"].flatten().to_numpy().copy())
        return Snapshot(epoch, params, **{name: batch[name][0].as_py() for name in METRICS})

    def curve(self) -> list[dict[str, Any]]:
        """Epoch, losses and accuracies, without the parameters."""
        columns = ["epoch", *METRICS]
        batches = (self._file.get_batch(i) for i in range(self._file.num_record_batches))
        return [{name: batch[name][0].as_py() for name in columns} for batch in batches]


def _record_batch(snapshot: Snapshot, schema: pa.Schema) -> pa.RecordBatch:
    params = pa.array(snapshot.params.numpy())
    return pa.record_batch(
        [
            pa.array([snapshot.epoch], pa.int32()),
            pa.FixedSizeListArray.from_arrays(params, type=schema.field("params").type),
            pa.array([snapshot.train_loss], pa.float64()),
            pa.array([snapshot.train_accuracy], pa.float64()),
            pa.array([snapshot.test_accuracy], pa.float64()),
        ],
        schema=schema,
    )


@lru_cache(maxsize=256)
def _open(store: TrajectoryStore, expert: int) -> Trajectory:
    return store.reader(expert)


def _name(expert: int) -> str:
    return f"expert-{expert:05d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
