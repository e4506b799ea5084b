"""TrajectoryStore: the parameters of expert networks after every epoch of their training.

One Arrow IPC file an expert, one record batch an epoch, read by memory map: a single epoch costs its own bytes only.
Letters: P flat parameters, T epochs.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raydd.errors import ArtefactError
from raydd.legible import legible
from raydd.storage import Artefact, Folder, content_key, new_artefact
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


@dataclass(frozen=True, kw_only=True)
class TrajectoryCard:
    """What determines a store's trajectories, and so what they may be used for."""

    dataset: str
    fingerprint: str
    """Of the training images and labels."""
    preprocessing: Mapping[str, Any]
    """The map into network space, as it describes itself; fitted on the data of the fingerprint."""
    network: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of every parameter, in the order of the flat vector."""
    recipe: Mapping[str, Any]
    seed: int
    start: str | None = None
    """Content key of the pool of networks that they begin in; None where networks are freshly initialised."""

    @property
    def size(self) -> int:
        """P, the length of the parameter vectors."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    def unflatten(self, params_P: Tensor) -> dict[str, Tensor]:
        """The parameters in a vector [P] by name."""
        pieces = params_P.split([math.prod(shape) for _, shape in self.parameters])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.parameters, pieces, strict=True)}

    def identity(self) -> dict[str, Any]:
        """As JSON, the payload of the store's content key."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.start is None:
            del described["start"]
        return described


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


def open_published(folder: Folder, card: TrajectoryCard, key: str) -> TrajectoryStore | None:
    """The store in `folder` when its manifest is there; None when it has none yet.

    Raises:
        ArtefactError: the manifest belongs to trajectories made otherwise; names the first difference.
    """
    artefact = Artefact.find(folder, KIND)
    if artefact is None:
        return None
    require_card(read_card(artefact), card, folder.uri)
    if artefact.manifest.key != key:
        raise ArtefactError(f"{folder.uri}: trajectories of key {artefact.manifest.key}, wanted {key}")
    return TrajectoryStore(folder, card)


def read_card(artefact: Artefact) -> Mapping[str, Any]:
    """The card of a store, which is a mapping.

    Raises:
        ArtefactError: it is not.
    """
    with legible(artefact.folder.uri):
        return dict(json.loads(artefact.read("card.json")))


def require_card(found: Mapping[str, Any], card: TrajectoryCard, where: str) -> None:
    """Raise ArtefactError, naming the first field in which the trajectories at `where` differ from `card`."""
    for name, wanted in card.identity().items():
        if found.get(name) != wanted:
            raise ArtefactError(
                f"{where}: these trajectories were made for another {name}: {_short(found.get(name))}, "
                f"wanted {_short(wanted)}; name another experts.store or --out"
            )


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


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
